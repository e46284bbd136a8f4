//! Attaching one point, and trying out what the kernel allows.

use std::path::PathBuf;

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{FEntry, FExit, KProbe, ProgramError, RawTracePoint, links::FdLink},
};

use super::{
    CaptureError,
    layout::Layout,
    pins::MAPS,
    points::{At, Point},
};

/// Loads the program of a point.
fn load(ebpf: &mut Ebpf, point: Point, btf: Option<&Btf>) -> Result<(), CaptureError> {
    let Point { program: name, at, name: target } = point;
    let failed = |source| CaptureError::Program { program: name, source: Box::new(source) };
    let program = ebpf.program_mut(name).ok_or(CaptureError::ObjectLacks { what: "program", name })?;
    let no_btf = || CaptureError::Function { kernel: "this one".into(), problem: "it has no BTF".into() };
    let result = match at {
        At::Tracepoint => TryInto::<&mut RawTracePoint>::try_into(program).and_then(RawTracePoint::load),
        At::FunctionEntry => {
            let btf = btf.ok_or_else(no_btf)?;
            TryInto::<&mut FEntry>::try_into(program).and_then(|program| program.load(target, btf))
        }
        At::FunctionExit => {
            let btf = btf.ok_or_else(no_btf)?;
            TryInto::<&mut FExit>::try_into(program).and_then(|program| program.load(target, btf))
        }
        At::Probe => TryInto::<&mut KProbe>::try_into(program).and_then(KProbe::load),
    };
    match result {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Loads and attaches a point. The link ends the attachment when it is dropped, unless it is pinned.
pub(super) fn attach(ebpf: &mut Ebpf, point: Point, btf: Option<&Btf>) -> Result<FdLink, CaptureError> {
    load(ebpf, point, btf)?;
    let Point { program: name, at, name: target } = point;
    let failed = |source| CaptureError::Program { program: name, source: Box::new(source) };
    let program = ebpf.program_mut(name).ok_or(CaptureError::ObjectLacks { what: "program", name })?;
    Ok(match at {
        At::Tracepoint => {
            let program: &mut RawTracePoint = program.try_into().map_err(failed)?;
            let id = program.attach(target).map_err(failed)?;
            program.take_link(id).map_err(failed)?.into()
        }
        At::FunctionEntry => {
            let program: &mut FEntry = program.try_into().map_err(failed)?;
            let id = program.attach().map_err(failed)?;
            program.take_link(id).map_err(failed)?.into()
        }
        At::FunctionExit => {
            let program: &mut FExit = program.try_into().map_err(failed)?;
            let id = program.attach().map_err(failed)?;
            program.take_link(id).map_err(failed)?.into()
        }
        At::Probe => {
            let program: &mut KProbe = program.try_into().map_err(failed)?;
            let id = program.attach(target, 0).map_err(failed)?;
            // Before 5.15 a probe is no link, and ends with the process that made it.
            let link = program.take_link(id).map_err(failed)?;
            link.try_into().map_err(|_| failed(ProgramError::UnexpectedProgramType))?
        }
    })
}

/// Pins the program of a point.
pub(super) fn pin_program(ebpf: &mut Ebpf, point: Point, path: PathBuf) -> Result<(), CaptureError> {
    let name = point.program;
    let program = ebpf.program_mut(name).ok_or(CaptureError::ObjectLacks { what: "program", name })?;
    program.pin(&path).map_err(|source| CaptureError::Pin { path, source: Box::new(source) })
}

/// Why the kernel refuses this point, if it does: attaches it with maps of the smallest size, which track nothing, and lets
/// go of it at once.
pub(super) fn refusal(object: &[u8], layout: &Layout, point: Point) -> Option<String> {
    let mut loader = EbpfLoader::new();
    for (name, value) in layout.globals() {
        loader.override_global(name, value, true);
    }
    for map in MAPS {
        if !matches!(map, "CTRL" | "COUNTERS" | "OVERFLOW0" | "OVERFLOW1") {
            loader.map_max_entries(map, 1);
        }
    }
    let tried = loader
        .load(object)
        .map_err(|source| CaptureError::Load { source: Box::new(source) })
        .and_then(|mut ebpf| attach(&mut ebpf, point, Btf::from_sys_fs().ok().as_ref()));
    tried.err().map(|error| crate::error::chain(&error))
}

//! Attaches single points, and tries which ones the kernel allows.

use std::path::{Path, PathBuf};

use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{FEntry, FExit, KProbe, ProbeKind, ProgramError, RawTracePoint, links::FdLink},
};
use common::functions::FUNCTIONS;

use super::{
    error::CaptureError,
    layout::Layout,
    points::{At, Point},
    tables::MAPS,
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
    let program = ebpf.program_mut(name).ok_or(CaptureError::ObjectLacks { what: "program", name })?;
    let link = match at {
        At::Tracepoint => program.try_into().and_then(|program| tracepoint(program, target)),
        At::FunctionEntry => program.try_into().and_then(entry),
        At::FunctionExit => program.try_into().and_then(exit),
        At::Probe => program.try_into().and_then(|program| probe(program, target)),
    };
    link.map_err(|source| CaptureError::Program { program: name, source: Box::new(source) })
}

/// Attaches the pinned program of a point; it is loaded already.
pub(super) fn attach_pinned(point: Point, path: &Path) -> Result<FdLink, CaptureError> {
    let Point { program: name, at, name: target } = point;
    let returns = FUNCTIONS.iter().any(|function| function.probe_return == name);
    let kind = if returns { ProbeKind::Return } else { ProbeKind::Entry };
    let link = match at {
        At::Tracepoint => RawTracePoint::from_pin(path).and_then(|mut program| tracepoint(&mut program, target)),
        At::FunctionEntry => FEntry::from_pin(path).and_then(|mut program| entry(&mut program)),
        At::FunctionExit => FExit::from_pin(path).and_then(|mut program| exit(&mut program)),
        At::Probe => KProbe::from_pin(path, kind).and_then(|mut program| probe(&mut program, target)),
    };
    link.map_err(|source| CaptureError::Program { program: name, source: Box::new(source) })
}

fn tracepoint(program: &mut RawTracePoint, target: &str) -> Result<FdLink, ProgramError> {
    let id = program.attach(target)?;
    Ok(program.take_link(id)?.into())
}

fn entry(program: &mut FEntry) -> Result<FdLink, ProgramError> {
    let id = program.attach()?;
    Ok(program.take_link(id)?.into())
}

fn exit(program: &mut FExit) -> Result<FdLink, ProgramError> {
    let id = program.attach()?;
    Ok(program.take_link(id)?.into())
}

fn probe(program: &mut KProbe, target: &str) -> Result<FdLink, ProgramError> {
    let id = program.attach(target, 0)?;
    // Before 5.15 a probe has no link, and ends with the process that made it.
    program.take_link(id)?.try_into().map_err(|_| ProgramError::UnexpectedProgramType)
}

/// Pins the program of a point.
pub(super) fn pin_program(ebpf: &mut Ebpf, point: Point, path: PathBuf) -> Result<(), CaptureError> {
    let name = point.program;
    let program = ebpf.program_mut(name).ok_or(CaptureError::ObjectLacks { what: "program", name })?;
    program.pin(&path).map_err(|source| CaptureError::Pin { path, source: Box::new(source) })
}

/// Why the kernel refuses this point, if it does. Attaches it with maps of the smallest size, which track nothing, and
/// detaches it at once.
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

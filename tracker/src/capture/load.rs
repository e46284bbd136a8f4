//! A fresh start: loads the object with the kernel's layout, pins its maps, attaches and pins its programs.

use std::fs;

use aya::{Btf, Ebpf, EbpfLoader, maps::MapError, programs::RawTracePoint};
use common::{
    functions::{Function, Need},
    hooks::{Fs, HOOKS, Hook, Role, Serves},
    limits::{ABI_VERSION, OVERFLOW_WORDS},
    maps::{ctrl, exact, mapped, watched},
};

use super::{
    attach::{attach, pin_program},
    config::CaptureConfig,
    error::CaptureError,
    layout::{KernelTypes, Layout},
    lease, log,
    pin_files::{boot_hash, link_path, map_path, program_path},
    points::{self, Point},
    tables::{self, MAPS},
};

/// Name of the global that switches aya's logging.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
/// Its values: off, and debug.
const LOG_OFF: u8 = 0;
const LOG_DEBUG: u8 = 4;

/// The hooks that can be attached on this kernel now.
pub(super) fn attachable(types: &KernelTypes) -> Vec<&'static Hook> {
    let xfs = Layout::resolve(types).is_ok_and(|layout| layout.get("XFS_VNODE").is_some());
    HOOKS
        .iter()
        .filter(|hook| types.has_tracepoint(hook.tracepoint) && (xfs || hook.serves != Serves::One(Fs::Xfs)))
        .collect()
}

/// Loads, attaches and pins everything; the last step marks the set as complete.
pub(super) fn fresh(
    config: &CaptureConfig,
    types: &KernelTypes,
    object: &[u8],
) -> Result<Option<log::Pump>, CaptureError> {
    let layout = Layout::resolve(types)?;
    let hooks = attachable(types);
    let missing: Vec<_> = points::required_tracepoints(config.back_end)
        .filter(|hook| !hooks.contains(hook))
        .map(|hook| hook.tracepoint)
        .collect();
    if !missing.is_empty() {
        return Err(CaptureError::NoTracepoints { kernel: types.release().to_owned(), missing });
    }
    let functions = points::functions(types, config.back_end)
        .map_err(|problem| CaptureError::Function { kernel: types.release().to_owned(), problem })?;

    let level = if config.log_marks { LOG_DEBUG } else { LOG_OFF };
    let mut loader = EbpfLoader::new();
    for (name, value) in layout.globals() {
        loader.override_global(name, value, true);
    }
    loader.override_global(LOG_LEVEL, &level, false);
    for (map, entries) in [
        ("DIRTY0", config.entries.dirty),
        ("DIRTY1", config.entries.dirty),
        ("INODE0", config.entries.inode),
        ("INODE1", config.entries.inode),
        ("OVERFLOW0", OVERFLOW_WORDS),
        ("OVERFLOW1", OVERFLOW_WORDS),
        ("WATCH", config.entries.watch),
        ("INFLIGHT", config.entries.inflight),
    ] {
        loader.map_max_entries(map, entries);
    }
    let pin_dir = &config.pin_dir;
    fs::create_dir_all(pin_dir).map_err(|source| CaptureError::File {
        what: "make pin directory",
        path: pin_dir.clone(),
        source,
    })?;
    let own = tables::make_growing_maps(config, types.release())?;
    for name in &own {
        loader.map_pin_path(name, map_path(pin_dir, name));
    }
    let mut ebpf = loader.load(object).map_err(|source| CaptureError::Load { source: Box::new(source) })?;
    for name in MAPS.into_iter().filter(|name| !own.contains(name)) {
        let map = ebpf.map(name).ok_or(CaptureError::ObjectLacks { what: "map", name })?;
        let path = map_path(pin_dir, name);
        map.pin(&path).map_err(|source| pin_error(path, source))?;
    }
    let maps = tables::Maps::open(pin_dir)?;
    let control = |word, value| {
        maps.ctrl.set(word, value).map_err(|source| CaptureError::Map { what: "setting", map: "CTRL", source })
    };
    control(ctrl::ABI_VERSION, ABI_VERSION)?;
    control(ctrl::BOOT, boot_hash().unwrap_or(0))?;
    control(ctrl::OBJECT, object_hash(object))?;
    // Before the first program is attached: without a lease it would record that it did not mark.
    control(ctrl::LEASE, config.lease.as_ref().map_or(u64::MAX, |of| lease::until(lease::monotonic_ns(), of.lasts)))?;

    let log = if config.log_marks { log::Pump::start(&mut ebpf) } else { None };
    control(ctrl::BACK_END, config.back_end.word())?;
    for hook in hooks.iter().filter(|hook| !config.without.contains(&hook.program)) {
        attach_and_pin(&mut ebpf, config, Point::tracepoint(hook), None)?;
    }
    for name in [mapped::PROGRAM, exact::PROGRAM, watched::PROGRAM] {
        load_unattached(&mut ebpf, config, name)?;
    }
    let btf = if functions.is_empty() { None } else { Btf::from_sys_fs().ok() };
    let left_out = |function: &Function| {
        [function.trampoline, function.probe].iter().any(|program| config.without.contains(program))
    };
    for function in functions.into_iter().filter(|function| !left_out(function)) {
        hook_function(&mut ebpf, config, function, btf.as_ref())?;
    }
    control(ctrl::EXACT_ON, exact_on(&hooks, config))?;
    control(ctrl::COMPLETE, 1)?;
    Ok(log)
}

/// On which file systems these hooks, but those left out, tell of every write and of every mapping: `ctrl::EXACT_ON`.
fn exact_on(hooks: &[&Hook], config: &CaptureConfig) -> u64 {
    let tells = |hook: &Hook| hooks.contains(&hook) && !config.without.contains(&hook.program);
    let on = |fs, bit| {
        let mut needed = HOOKS.iter().filter(|hook| hook.role == Role::Write && hook.serves.needs(fs));
        if needed.all(tells) { bit } else { 0 }
    };
    on(Fs::Ext4, exact::EXT4) | on(Fs::Xfs, exact::XFS)
}

/// Loads and pins a program that is attached to nothing.
fn load_unattached(ebpf: &mut Ebpf, config: &CaptureConfig, name: &'static str) -> Result<(), CaptureError> {
    let failed = |source| CaptureError::Program { program: name, source: Box::new(source) };
    let program = ebpf.program_mut(name).ok_or(CaptureError::ObjectLacks { what: "program", name })?;
    TryInto::<&mut RawTracePoint>::try_into(&mut *program).and_then(RawTracePoint::load).map_err(failed)?;
    let path = program_path(&config.pin_dir, name);
    program.pin(&path).map_err(|source| pin_error(path, source))
}

/// Hash that identifies a kernel object.
pub(super) fn object_hash(object: &[u8]) -> u64 {
    u64::from_le_bytes(blake3::hash(object).as_bytes().first_chunk().copied().unwrap_or_default())
}

/// Hooks a function in the first way that works.
fn hook_function(
    ebpf: &mut Ebpf,
    config: &CaptureConfig,
    function: &Function,
    btf: Option<&Btf>,
) -> Result<(), CaptureError> {
    let mut first_error = None;
    for way in points::ways(function, config.back_end) {
        match way.iter().try_for_each(|point| attach_and_pin(ebpf, config, *point, btf)) {
            Ok(()) => return Ok(()),
            Err(error) => {
                for point in &way {
                    // Removes the pins of this way's points; those that were not attached have none.
                    let _ = fs::remove_file(link_path(&config.pin_dir, point.program));
                    let _ = fs::remove_file(program_path(&config.pin_dir, point.program));
                }
                tracing::debug!(function = function.name, %error, "not hooked this way");
                first_error.get_or_insert(error);
            }
        }
    }
    match (first_error, function.need) {
        (Some(error), Need::Required) => Err(error),
        (Some(error), Need::Optional) => {
            let error = crate::error::chain(&error);
            tracing::warn!(function = function.name, why = function.why, error, "the kernel lets this not be hooked");
            Ok(())
        }
        (None, _) => Ok(()),
    }
}

fn attach_and_pin(
    ebpf: &mut Ebpf,
    config: &CaptureConfig,
    point: Point,
    btf: Option<&Btf>,
) -> Result<(), CaptureError> {
    let link = attach(ebpf, point, btf)?;
    pin_program(ebpf, point, program_path(&config.pin_dir, point.program))?;
    let path = link_path(&config.pin_dir, point.program);
    link.pin(&path).map_err(|source| pin_error(path, source))?;
    Ok(())
}

pub(super) fn pin_error(path: std::path::PathBuf, source: aya::pin::PinError) -> CaptureError {
    CaptureError::Pin { path, source: Box::new(source) }
}

impl From<MapError> for CaptureError {
    fn from(source: MapError) -> Self {
        Self::Load { source: Box::new(source.into()) }
    }
}

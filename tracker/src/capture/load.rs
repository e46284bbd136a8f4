//! A fresh start: load the object with the kernel's layout, pin its maps, attach and pin its programs.

use std::fs;

use aya::{
    EbpfLoader,
    maps::MapError,
    programs::{RawTracePoint, links::FdLink},
};
use common::{
    hooks::{Fs, HOOKS, Hook, Serves},
    limits::{ABI_VERSION, OVERFLOW_WORDS},
    maps::ctrl,
};

use super::{
    CaptureConfig, CaptureError,
    layout::{KernelTypes, Layout},
    log,
    pins::{self, MAPS, boot_hash, link_path, map_path, program_path},
};

/// Name of the global by which aya's logging is switched.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
/// Its values: nothing, and debug.
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
    let missing: Vec<_> = HOOKS
        .iter()
        .filter(|hook| hook.serves == Serves::All && !hooks.contains(hook))
        .map(|hook| hook.tracepoint)
        .collect();
    if !missing.is_empty() {
        return Err(CaptureError::NoTracepoints { kernel: types.release().to_owned(), missing });
    }

    let level = if config.log_marks { LOG_DEBUG } else { LOG_OFF };
    let mut loader = EbpfLoader::new();
    for (name, value) in layout.globals() {
        loader.override_global(name, value, true);
    }
    loader.override_global(LOG_LEVEL, &level, false);
    for (map, entries) in [
        ("DIRTY0", config.dirty_entries),
        ("DIRTY1", config.dirty_entries),
        ("INODE0", config.inode_entries),
        ("INODE1", config.inode_entries),
        ("OVERFLOW0", OVERFLOW_WORDS),
        ("OVERFLOW1", OVERFLOW_WORDS),
        ("WATCH", config.watch_entries),
        ("INFLIGHT", config.inflight_entries),
    ] {
        loader.map_max_entries(map, entries);
    }
    let mut ebpf = loader.load(object).map_err(|source| CaptureError::Load { source: Box::new(source) })?;

    let pin_dir = &config.pin_dir;
    fs::create_dir_all(pin_dir).map_err(|source| CaptureError::File {
        what: "make pin directory",
        path: pin_dir.clone(),
        source,
    })?;
    for name in MAPS {
        let map = ebpf.map(name).ok_or(CaptureError::ObjectLacks { what: "map", name })?;
        let path = map_path(pin_dir, name);
        map.pin(&path).map_err(|source| pin_error(path, source))?;
    }
    let maps = pins::Maps::open(pin_dir)?;
    let control = |word, value| {
        maps.ctrl.set(word, value).map_err(|source| CaptureError::Map { what: "setting", map: "CTRL", source })
    };
    control(ctrl::ABI_VERSION, ABI_VERSION)?;
    control(ctrl::BOOT, boot_hash().unwrap_or(0))?;

    let log = if config.log_marks { log::Pump::start(&mut ebpf) } else { None };
    for hook in hooks {
        let failed = |source| CaptureError::Program { program: hook.program, source: Box::new(source) };
        let program =
            ebpf.program_mut(hook.program).ok_or(CaptureError::ObjectLacks { what: "program", name: hook.program })?;
        let program: &mut RawTracePoint = program.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        let path = program_path(pin_dir, hook);
        program.pin(&path).map_err(|source| pin_error(path, source))?;
        let id = program.attach(hook.tracepoint).map_err(failed)?;
        let link: FdLink = program.take_link(id).map_err(failed)?.into();
        let path = link_path(pin_dir, hook);
        link.pin(&path).map_err(|source| pin_error(path, source))?;
    }
    control(ctrl::COMPLETE, 1)?;
    Ok(log)
}

fn pin_error(path: std::path::PathBuf, source: aya::pin::PinError) -> CaptureError {
    CaptureError::Pin { path, source: Box::new(source) }
}

impl From<MapError> for CaptureError {
    fn from(source: MapError) -> Self {
        Self::Load { source: Box::new(source.into()) }
    }
}

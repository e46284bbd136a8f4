//! The pin files of a capture: names, repinning, removal.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::error::CaptureError;
use super::sys;

pub(super) fn map_path(pin_dir: &Path, map: &str) -> PathBuf {
    pin_dir.join(format!("map_{map}"))
}

pub(super) fn program_path(pin_dir: &Path, program: &str) -> PathBuf {
    pin_dir.join(format!("program_{program}"))
}

pub(super) fn link_path(pin_dir: &Path, program: &str) -> PathBuf {
    pin_dir.join(format!("link_{program}"))
}

/// Pins a kernel object again if its pin is gone.
pub(super) fn pin_again(path: PathBuf, fd: BorrowedFd<'_>) -> Result<(), CaptureError> {
    match sys::pin(&path, fd) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|source| CaptureError::File { what: "pin again", path, source }),
    }
}

/// Removes a pin directory with its contents: links first, so that no program runs while its maps cannot be read.
pub(super) fn remove_pins(pin_dir: &Path) -> Result<(), CaptureError> {
    let failed = |what| move |source| CaptureError::File { what, path: pin_dir.to_owned(), source };
    let entries = match fs::read_dir(pin_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list pins in")(error)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed("list pins in"))?;
    paths.sort_by_key(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"link_")));
    for path in paths {
        fs::remove_file(&path).map_err(|source| CaptureError::File { what: "remove pin", path, source })?;
    }
    fs::remove_dir(pin_dir).map_err(failed("remove pin directory"))
}

/// Hash of the boot id; `None` if it cannot be read, which no pinned set matches.
pub(super) fn boot_hash() -> Option<u64> {
    let id = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    // FNV-1a: only equality matters, and pins do not outlive a boot.
    let hash =
        id.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    Some(hash)
}

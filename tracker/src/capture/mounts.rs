//! Reads the mount table: the kernel's device number of a superblock, and the file system's name.
//!
//! `st_dev` is not that number on btrfs, where every subvolume has its own.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use engine::model::Dev;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::error::CaptureError;
use crate::mountinfo::{MOUNTINFO, Mount, find};

/// Where a bpffs is expected, and mounted if there is none.
const BPFFS: &str = "/sys/fs/bpf";
/// `f_type` of a bpffs.
const BPFFS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

/// The mount that contains `path`.
///
/// # Errors
/// When the path or the mount table cannot be read, or the table does not have its mount.
pub fn mount_of(path: &Path) -> Result<Mount, CaptureError> {
    let failed = |what| move |source: io::Error| CaptureError::File { what, path: path.to_owned(), source };
    let mount_id = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(|error| failed("statx")(error.into()))?
        .stx_mnt_id;
    let table = fs::read(MOUNTINFO).map_err(failed("read the mount table for"))?;
    find(&table, mount_id).ok_or_else(|| CaptureError::Mount { path: path.to_owned() })
}

/// The kernel's device number of the superblock that contains `path`.
///
/// # Errors
/// As `mount_of`.
pub fn kernel_dev(path: &Path) -> Result<Dev, CaptureError> {
    Ok(mount_of(path)?.kernel_dev)
}

/// Makes sure that `pin_dir` is on a bpffs; mounts one at its usual place if there is none.
pub(super) fn ensure_bpffs(pin_dir: &Path) -> Result<(), CaptureError> {
    let failed = |what| move |source| CaptureError::File { what, path: PathBuf::from(BPFFS), source };
    // The directory itself may not exist yet; its nearest existing ancestor shows which file system it will be on.
    let existing = pin_dir.ancestors().find(|ancestor| ancestor.exists());
    if existing.is_some_and(|path| rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == BPFFS_MAGIC)) {
        return Ok(());
    }
    if !pin_dir.as_os_str().as_bytes().starts_with(BPFFS.as_bytes()) {
        return Err(CaptureError::File {
            what: "no bpffs at",
            path: pin_dir.to_owned(),
            source: io::Error::from(io::ErrorKind::Unsupported),
        });
    }
    rustix::mount::mount("bpf", BPFFS, "bpf", rustix::mount::MountFlags::empty(), None)
        .map_err(|error| failed("mount bpffs at")(error.into()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::mount_of;

    #[test]
    fn proc_is_found() {
        assert_eq!(mount_of(Path::new("/proc/self")).unwrap().fs_type, "proc");
    }
}

//! Temporary areas of restores that run in the source, or were killed there. They are not part of the volume.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Access, AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

pub(crate) const PREFIX: &[u8] = b".tracker-restore-";
pub(crate) const DIGITS: usize = 16;
/// The file that makes a directory with such a name an area. It is not held open: some file systems keep a removed file
/// under another name while it is open (FUSE, NFS), and the area could then not be removed.
pub(crate) const MARKER: &str = "tracker-restore-area";

/// Whether `name` in `dir` is the area of a restore: a directory with the name of an area, and with the marker in it or
/// nothing (as briefly when it is made and removed).
pub(crate) fn is_area(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    if !has_area_name(name) {
        return false;
    }
    let Ok(area) = open_dir(dir, OsStr::from_bytes(name)) else { return false };
    is_open_area(area.as_fd())
}

pub(crate) fn is_open_area(area: BorrowedFd<'_>) -> bool {
    rustix::fs::accessat(area, MARKER, Access::EXISTS, AtFlags::empty()).is_ok()
        || names(area).is_ok_and(|names| names.is_empty())
}

/// Whether a name has the form of an area's name.
pub fn has_area_name(name: &[u8]) -> bool {
    let digits = name.strip_prefix(PREFIX).unwrap_or_default();
    digits.len() == DIGITS && digits.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
}

pub(crate) fn open_dir(above: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty())
}

/// The names in an open directory, without `.` and `..`.
pub(crate) fn names(dir: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut out = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            out.push(OsStr::from_bytes(&name).to_owned());
        }
    }
    Ok(out)
}

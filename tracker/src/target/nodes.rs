//! Makes symlinks, fifos, sockets and devices in an area.

use std::ffi::OsString;
use std::os::fd::OwnedFd;

use engine::model::{Kind, Meta};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::target::area::Area;

/// Makes an entry that is neither a regular file nor a directory, in an area.
pub(crate) fn make_in(area: &Area, meta: &Meta) -> Result<(OsString, OwnedFd), Errno> {
    let name = area.name();
    match meta.kind {
        Kind::Symlink => rustix::fs::symlinkat(&meta.target[..], area.dir(), &name)?,
        kind => {
            let kind = file_type(kind).ok_or(Errno::INVAL)?;
            rustix::fs::mknodat(area.dir(), &name, kind, Mode::RUSR | Mode::WUSR, meta.rdev)?;
        }
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(area.dir(), &name, flags, Mode::empty())?;
    Ok((name, fd))
}

fn file_type(kind: Kind) -> Option<FileType> {
    Some(match kind {
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::File | Kind::Dir | Kind::Symlink => return None,
    })
}

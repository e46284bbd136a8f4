//! Attributes: modes, owners, times, extended attributes, access lists, inode flags.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};

use rustix::fs::{AtFlags, CWD, IFlags, Timespec, Timestamps, XattrFlags, utimensat};
use rustix::fs::{ioctl_getflags, ioctl_setflags, removexattr, setxattr};

use super::super::{Cell, Op};
use super::{directory, file};

/// A name that root may set on every file system; user attributes are not supported by every tmpfs and overlay.
pub(super) const ATTRIBUTE: &str = "trusted.a";

fn set(cell: &Cell, value: &[u8]) -> io::Result<()> {
    Ok(setxattr(cell.path("f"), ATTRIBUTE, value, XattrFlags::empty())?)
}

/// An access list of version 2: the owner, user 1, the group, the mask, others.
fn list(user: u8) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0];
    for (tag, rights, id) in
        [(1u8, 6u8, u32::MAX), (2, user, 1), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 4, u32::MAX)]
    {
        out.extend([tag, 0, rights, 0]);
        out.extend(id.to_le_bytes());
    }
    out
}

fn set_list(cell: &Cell, name: &str, kind: &str, user: u8) -> io::Result<()> {
    Ok(setxattr(cell.path(name), kind, &list(user), XattrFlags::empty())?)
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

pub(super) const OPS: &[Op] = &[
    Op::new("chmod", "`chmod`", file, |cell, _| fs::set_permissions(cell.path("f"), fs::Permissions::from_mode(0o600))),
    Op::new("chmod-directory", "`chmod` of a directory", directory, |cell, _| {
        fs::set_permissions(cell.path("sub"), fs::Permissions::from_mode(0o700))
    }),
    Op::new("chown", "`chown`", file, |cell, _| chown(cell.path("f"), Some(1), Some(2))),
    Op::new("utimens", "`utimensat`", file, |cell, _| {
        let time = Timespec { tv_sec: 1_000_000_007, tv_nsec: 9 };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(utimensat(CWD, cell.path("f"), &times, AtFlags::empty())?)
    }),
    Op::new("setxattr", "`setxattr`", file, |cell, round| set(cell, &[round as u8; 40])).rounds(2),
    Op::new(
        "removexattr",
        "`removexattr`",
        |cell| {
            file(cell)?;
            set(cell, b"v")
        },
        |cell, _| Ok(removexattr(cell.path("f"), ATTRIBUTE)?),
    ),
    Op::new("acl", "an access list is set, and changed after a flush", file, |cell, round| {
        set_list(cell, "f", ACCESS, 4 + 2 * round as u8)
    })
    .rounds(2),
    Op::new("acl-default", "a default access list of a directory", directory, |cell, _| {
        set_list(cell, "sub", DEFAULT, 4)
    }),
    Op::new(
        "acl-remove",
        "an access list is removed",
        |cell| {
            file(cell)?;
            set_list(cell, "f", ACCESS, 4)
        },
        |cell, _| Ok(removexattr(cell.path("f"), ACCESS)?),
    ),
    Op::new("inode-flags", "`FS_IOC_SETFLAGS`", file, |cell, _| {
        let file = cell.open()?;
        let flags = ioctl_getflags(&file)?;
        Ok(ioctl_setflags(&file, flags | IFlags::NODUMP)?)
    }),
];

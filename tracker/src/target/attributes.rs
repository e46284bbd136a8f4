//! Sets owner, extended attributes, mode and times of one inode, in an order in which none undoes another.
//!
//! Nothing here ends a restore: what the file system refuses, or accepts and does not keep, becomes a warning.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use engine::model::{Kind, Meta, Time};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use crate::source::stat::{self, stat_fd};
use crate::source::xattrs;
use crate::target::state::Target;
use crate::target::warning::Shortfall;

pub(crate) const SETID: u32 = 0o6000;
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// What was set without an error, to be compared with what the file system then reports.
struct Given {
    owner: bool,
    mode: Option<u32>,
    time: bool,
}

impl Target {
    /// Owner first (it clears setuid bits and capabilities), then extended attributes (ACLs last: they may take away the
    /// right to write the others), then the mode, then times. `fd` may be O_PATH: calls that do not take such a descriptor
    /// use `/proc/self/fd`, which leads to the inode itself.
    pub(crate) fn give(&self, rel: &Path, fd: impl AsFd, meta: &Meta) {
        let fd = fd.as_fd();
        let mut mode = meta.mode;
        let owner = self.give_owner(rel, fd, meta);
        if !owner {
            mode &= !SETID;
        }
        if self.options.untrusted && mode & SETID != 0 {
            mode &= !SETID;
            self.warn(rel, Shortfall::Privilege);
        }
        self.give_xattrs(rel, fd, meta);
        let mut given = Given { owner, mode: None, time: false };
        if meta.kind != Kind::Symlink {
            match rustix::fs::chmod(stat::proc_path(fd), Mode::from_raw_mode(mode)) {
                Ok(()) => given.mode = Some(mode),
                Err(errno) => self.warn(rel, Shortfall::Mode { mode, cause: errno.to_string() }),
            }
        }
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        match give_times(fd, omit, meta.mtime) {
            Ok(()) => given.time = true,
            Err(errno) => self.warn(rel, Shortfall::Time { cause: errno.to_string() }),
        }
        self.check(rel, fd, meta, &given);
    }

    /// Returns `false` if the owner or the group is wrong afterwards.
    fn give_owner(&self, rel: &Path, fd: BorrowedFd<'_>, meta: &Meta) -> bool {
        let own = |uid, gid| rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW);
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        if own(Some(uid), Some(gid)).is_ok() {
            return true;
        }
        // It may have the right owner already, where owners cannot be set.
        if stat_fd(fd).is_ok_and(|found| (found.stat.uid, found.stat.gid) == (meta.uid, meta.gid)) {
            return true;
        }
        // A member of the group may set at least that; the warning is reported either way.
        let _ = own(None, Some(gid));
        self.warn(rel, Shortfall::Owner { uid: meta.uid, gid: meta.gid });
        false
    }

    /// Makes the extended attributes equal to `meta`. Removes others (inherited ACLs, an older file's), except labels that
    /// the system's policy sets.
    fn give_xattrs(&self, rel: &Path, fd: BorrowedFd<'_>, meta: &Meta) {
        let path = stat::proc_path(fd);
        let warn = |name: &[u8], cause| self.warn(rel, Shortfall::Xattr { name: name.to_vec(), cause });
        // If a file system cannot list them, setting each one fails too and is reported.
        for (name, _) in xattrs::xattrs(fd).unwrap_or_default() {
            let wanted = meta.xattrs.iter().any(|(other, _)| *other == name);
            let policy = name.starts_with(b"security.") && name != CAPABILITY;
            if wanted || policy {
                continue;
            }
            match rustix::fs::removexattr(&path, &name[..]) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno) => warn(&name, format!("not removed: {errno}")),
            }
        }
        let acl = |name: &[u8]| name.starts_with(b"system.");
        let (last, first): (Vec<_>, Vec<_>) = meta.xattrs.iter().partition(|(name, _)| acl(name));
        for (name, value) in first.into_iter().chain(last) {
            if self.options.untrusted && name == CAPABILITY {
                self.warn(rel, Shortfall::Privilege);
                continue;
            }
            if !xattrs::kept(name) {
                continue;
            }
            if let Err(errno) = rustix::fs::setxattr(&path, &name[..], value, XattrFlags::empty()) {
                warn(name, errno.to_string());
            }
        }
    }

    /// Some file systems report success and do nothing (FAT, and some FUSE file systems).
    fn check(&self, rel: &Path, fd: BorrowedFd<'_>, meta: &Meta, given: &Given) {
        let Ok(found) = stat_fd(fd).map(|found| found.stat) else { return };
        if given.owner && (found.uid, found.gid) != (meta.uid, meta.gid) {
            self.warn(rel, Shortfall::Owner { uid: meta.uid, gid: meta.gid });
        }
        if let Some(mode) = given.mode.filter(|mode| *mode != found.mode) {
            self.warn(rel, Shortfall::Mode { mode, cause: format!("the file system made it {:04o}", found.mode) });
        }
        if given.time && found.mtime != meta.mtime {
            // Some FUSE file systems set either both times or silently none.
            let both = Timespec { tv_sec: meta.mtime.sec, tv_nsec: i64::from(meta.mtime.nsec) };
            let Ok(found) = give_times(fd, both, meta.mtime).and_then(|()| stat_fd(fd)) else { return };
            let Time { sec, nsec } = found.stat.mtime;
            if found.stat.mtime == meta.mtime {
                return;
            }
            self.warn(rel, Shortfall::Time { cause: format!("the file system made it {sec}.{nsec:09}") });
        }
    }
}

fn give_times(fd: BorrowedFd<'_>, last_access: Timespec, mtime: Time) -> Result<(), Errno> {
    let times =
        Timestamps { last_access, last_modification: Timespec { tv_sec: mtime.sec, tv_nsec: i64::from(mtime.nsec) } };
    match rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH) {
        // Before 5.8 the kernel takes no empty path here; the descriptor's own link leads to the same inode.
        Err(Errno::INVAL | Errno::NOENT) => {
            rustix::fs::utimensat(rustix::fs::CWD, stat::proc_path(fd), &times, AtFlags::empty())
        }
        other => other,
    }
}

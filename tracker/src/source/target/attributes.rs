//! Owner, extended attributes, mode and times of one inode, in the order in which none undoes another.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use engine::model::{Kind, Meta};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Shortfall, Target, TargetError, io, stat};
use crate::source::xattrs;

const SETID: u32 = 0o6000;
const CAPABILITY: &[u8] = b"security.capability";

impl Target {
    /// Owner first (it clears setuid bits and capabilities), then extended attributes (ACLs last: they may take away
    /// the right to write the others), then the mode, then times. `fd` may be O_PATH: all goes by `/proc/self/fd`,
    /// which leads to the inode itself.
    pub(super) fn give(&self, rel: &Path, fd: impl AsFd, meta: &Meta) -> Result<(), TargetError> {
        let fd = fd.as_fd();
        let mut mode = meta.mode;
        if !self.give_owner(rel, fd, meta)? {
            mode &= !SETID;
        }
        if self.options.untrusted && mode & SETID != 0 {
            mode &= !SETID;
            self.warn(rel, Shortfall::Privilege);
        }
        if meta.kind != Kind::Symlink {
            // A file being merged may be closed even to its owner: open it for the steps between.
            let path = stat::proc_path(fd);
            let open = if meta.kind == Kind::Dir { 0o700 } else { 0o600 };
            rustix::fs::chmod(&path, Mode::from_raw_mode(open)).map_err(io("change mode of", rel))?;
            self.give_xattrs(rel, fd, meta)?;
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).map_err(io("change mode of", rel))?;
        } else {
            self.give_xattrs(rel, fd, meta)?;
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: meta.mtime.sec, tv_nsec: i64::from(meta.mtime.nsec) },
        };
        match rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH) {
            // Before 5.8 the kernel knows no empty path here; following the descriptor's own link is the same inode.
            Err(Errno::INVAL | Errno::NOENT) => {
                rustix::fs::utimensat(rustix::fs::CWD, stat::proc_path(fd), &times, AtFlags::empty())
            }
            other => other,
        }
        .map_err(io("set times of", rel))
    }

    /// `false`: the owner or the group is another than it should be.
    fn give_owner(&self, rel: &Path, fd: BorrowedFd<'_>, meta: &Meta) -> Result<bool, TargetError> {
        let own = |uid, gid| rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW);
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        match own(Some(uid), Some(gid)) {
            Ok(()) => Ok(true),
            // EINVAL: an id that this user namespace does not have.
            Err(Errno::PERM | Errno::INVAL) => {
                // A member of the group may give that much; the warning stands either way.
                let _ = own(None, Some(gid));
                self.warn(rel, Shortfall::Owner { uid: meta.uid, gid: meta.gid });
                Ok(false)
            }
            Err(errno) => Err(io("change owner of", rel)(errno)),
        }
    }

    /// Makes the extended attributes those of `meta`: what is there beside them (inherited ACLs, an older file's) goes,
    /// but for labels that the system's policy sets itself.
    fn give_xattrs(&self, rel: &Path, fd: BorrowedFd<'_>, meta: &Meta) -> Result<(), TargetError> {
        let path = stat::proc_path(fd);
        for (name, _) in xattrs::xattrs(fd).map_err(io("read attributes of", rel))? {
            let wanted = meta.xattrs.iter().any(|(other, _)| *other == name);
            let policy = name.starts_with(b"security.") && name != CAPABILITY;
            if wanted || policy {
                continue;
            }
            match rustix::fs::removexattr(&path, &name[..]) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno) => self.warn(rel, Shortfall::Xattr { name, cause: format!("not removed: {errno}") }),
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
                self.warn(rel, Shortfall::Xattr { name: name.clone(), cause: errno.to_string() });
            }
        }
        Ok(())
    }
}

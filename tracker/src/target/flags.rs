//! Inode flags and project of restored files and directories.
//!
//! They are set last, when an entry has its names: an immutable or append-only file cannot be changed any more. Some affect
//! only what is written after them, and are also set first ([`early`]).
//!
//! Flags of the commit are set. Of existing or inherited flags that are not in the commit, only those are removed that say
//! how the file may be used ([`TAKEN`]). How a file system stores a file, and which project it counts it to, is the
//! target's own affair. Immutability is never removed, except by whoever set it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use engine::model::{InodeFlags, Kind, Meta};
use rustix::io::Errno;

use crate::source::flags::{self, SEALS};
use crate::source::stat::stat_fd;
use crate::source::{FsType, xattrs};
use crate::target::attributes::CAPABILITY;
use crate::target::state::Target;
use crate::target::warning::Shortfall;

/// Flags that are removed from a restored file if they are not in the commit.
const TAKEN: u32 = InodeFlags::NODUMP | InodeFlags::NOATIME | InodeFlags::SYNC | InodeFlags::DIRSYNC;
/// Flags that say how content is stored: they affect only new content, and btrfs sets no-COW only on empty files.
const OF_CONTENT: u32 = InodeFlags::NOCOW
    | InodeFlags::COMPRESS
    | InodeFlags::NOCOMPRESS
    | InodeFlags::JOURNAL_DATA
    | InodeFlags::NOTAIL
    | InodeFlags::DAX;

/// Sets the flags that a file or directory must have while it is still empty. A refusal occurs again, and is reported, when
/// all flags are set.
pub(crate) fn early(fd: impl AsFd, meta: &Meta) {
    let of_kind = if meta.kind == Kind::Dir { InodeFlags::CASEFOLD } else { OF_CONTENT };
    let wanted = meta.flags & of_kind;
    // One by one: a flag that this file system lacks must not keep out the others.
    for bit in (0..u32::BITS).map(|n| 1 << n).filter(|bit| wanted & bit != 0) {
        let _ = flags::change(&fd, bit, 0);
    }
}

impl Target {
    /// Sets flags and project, when everything else is set, names too. `fd` is open for reading.
    pub(crate) fn give_flags(&self, rel: &Path, fd: BorrowedFd<'_>, meta: &Meta) {
        let (wanted, project) = self.wanted(meta);
        if (wanted, project) != (meta.flags, meta.project) {
            let names = flags::flag_names(meta.flags & !wanted);
            self.warn(rel, Shortfall::FlagsUnwanted { names, project: meta.project });
        }
        if project != 0
            && let Err(cause) = give_project(fd, project)
        {
            self.warn(rel, Shortfall::Project { project, cause });
        }
        let unset = |bits, cause| self.warn(rel, Shortfall::Flags { names: flags::flag_names(bits), cause });
        let now = match flags::bits(fd) {
            Ok(Some(now)) => now,
            _ if wanted == 0 => return,
            Ok(None) => return unset(wanted, "the file system has no inode flags".into()),
            Err(errno) => return unset(wanted, errno.to_string()),
        };
        let clear = if self.options.flags_known { now & !wanted & TAKEN } else { 0 };
        let set = wanted & !now;
        if let Err(errno) = flags::change(fd, 0, clear) {
            let names = flags::flag_names(clear);
            self.warn(rel, Shortfall::Flags { names, cause: format!("not taken away: {errno}") });
        }
        // Flags that seal the file come last: after them the others could not be set.
        let refused = [set & !SEALS, set & SEALS].into_iter().flat_map(|bits| refused(fd, bits)).collect::<Vec<_>>();
        let named = refused.iter().fold(0, |named, (bit, _)| named | bit);
        for (bit, errno) in refused {
            unset(bit, errno.to_string());
        }
        let missing = flags::bits(fd).ok().flatten().map_or(0, |found| set & !found & !named);
        if missing != 0 {
            unset(missing, "the file system did not take it".into());
        }
    }

    /// Which of the flags and which project are set.
    fn wanted(&self, meta: &Meta) -> (u32, u32) {
        // An untrusted store may neither make files that only root can remove, nor count them against somebody's quota.
        if self.options.untrusted { (meta.flags & !SEALS, 0) } else { (meta.flags, meta.project) }
    }

    /// Leaves an immutable or append-only file of the target alone if its content is right. If its attributes differ, that
    /// is reported: a restore does not remove such a flag.
    pub(crate) fn leave_sealed(&self, rel: &Path, fd: BorrowedFd<'_>, meta: &Meta) {
        if !self.has_all(fd, meta) {
            self.warn(rel, Shortfall::Sealed);
        }
    }

    /// Whether a regular file or directory has all of `meta` already.
    fn has_all(&self, fd: BorrowedFd<'_>, meta: &Meta) -> bool {
        let (wanted, project) = self.wanted(meta);
        has_plain(fd, meta)
            && flags::bits(fd).is_ok_and(|found| {
                let found = found.unwrap_or_default();
                let known = !self.options.flags_known || found & !wanted & (TAKEN | SEALS) == 0;
                known && wanted & !found == 0
            })
            && (project == 0 || flags::project(fd).is_ok_and(|found| found == Some(project)))
    }

    /// Whether this entry, which is not a regular file, can stay: it is as it should be, and nothing can be created at its
    /// place.
    pub(crate) fn is_there_for_good(&self, names: &[&Path], meta: &Meta) -> bool {
        use rustix::fs::{Mode, OFlags, openat};
        let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let there = |rel: &Path| {
            let place = self.place(rel).ok().filter(|place| flags::is_sealed(&place.dir))?;
            let fd = openat(&place.dir, place.name, how, Mode::empty()).ok()?;
            let found = stat_fd(&fd).ok()?;
            let target = match meta.kind {
                Kind::Symlink => rustix::fs::readlinkat(&fd, c"", Vec::new()).ok()?.into_bytes(),
                _ => Vec::new(),
            };
            let same = found.stat.rdev == meta.rdev && target == meta.target && has_plain(fd.as_fd(), meta);
            same.then_some(found.stat.inode)
        };
        let found: Option<Vec<_>> = names.iter().map(|rel| there(rel)).collect();
        found.is_some_and(|found| found.windows(2).all(|pair| pair[0] == pair[1]))
    }

    /// Whether a file with the right content must be created again, because one of its flags can only be set on an empty
    /// file.
    pub(crate) fn must_be_empty_first(&self, fd: impl AsFd, size: u64, meta: &Meta) -> bool {
        meta.flags & InodeFlags::NOCOW != 0
            && size > 0
            && FsType::of(&fd) == Ok(FsType::Btrfs)
            && flags::bits(&fd).is_ok_and(|found| found.unwrap_or_default() & InodeFlags::NOCOW == 0)
    }
}

/// Whether kind, owner, mode, time and extended attributes are equal.
fn has_plain(fd: BorrowedFd<'_>, meta: &Meta) -> bool {
    let Ok(found) = stat_fd(fd).map(|found| found.stat) else { return false };
    let mut wanted = meta.xattrs.iter().filter(|(name, _)| xattrs::kept(name)).peekable();
    (found.kind, found.uid, found.gid, found.mtime) == (meta.kind, meta.uid, meta.gid, meta.mtime)
        && (meta.kind == Kind::Symlink || found.mode == meta.mode)
        && xattrs::xattrs(fd).is_ok_and(|found| {
            // Labels that the system's policy sets do not count as a difference.
            let policy = |name: &[u8]| name.starts_with(b"security.") && name != CAPABILITY;
            found.iter().all(|have| wanted.next_if(|want| *want == have).is_some() || policy(&have.0))
                && wanted.next().is_none()
        })
}

fn give_project(fd: BorrowedFd<'_>, project: u32) -> Result<(), String> {
    match flags::project(fd) {
        Ok(Some(found)) if found == project => Ok(()),
        Ok(Some(_)) => flags::set_project(fd, project).map_err(|errno| errno.to_string()),
        Ok(None) => Err("the file system has no projects".into()),
        Err(errno) => Err(errno.to_string()),
    }
}

/// Sets flags, all at once or, if that fails, one by one. Returns those that cannot be set.
fn refused(fd: BorrowedFd<'_>, bits: u32) -> Vec<(u32, Errno)> {
    if bits == 0 || flags::change(fd, bits, 0).is_ok() {
        return Vec::new();
    }
    let single = (0..u32::BITS).map(|n| 1 << n).filter(|bit| bits & bit != 0);
    single.filter_map(|bit| flags::change(fd, bit, 0).err().map(|errno| (bit, errno))).collect()
}

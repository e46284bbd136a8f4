//! Places in the target: directories recognised by their inode, the area of each, and how an entry gets its names.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::model::{Kind, Meta};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::source::stat::{self, stat_fd};
use crate::source::{flags, xattrs};
use crate::target::area;
use crate::target::area::Area;
use crate::target::error::{TargetError, io};
use crate::target::flags::early;
use crate::target::identity::Identity;
use crate::target::nodes::make_in;
use crate::target::state::Target;
use crate::target::warning::Shortfall;

/// How often another directory may be found at a path before it is an error.
const TRIES: u32 = 8;
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.nfs4_acl"];

/// A name that an entry could not be given, and why.
#[derive(Debug)]
pub struct Unplaced {
    pub path: PathBuf,
    pub cause: TargetError,
}

/// A parent directory and a name in it.
pub(crate) struct Place<'a> {
    pub(crate) dir: OwnedFd,
    pub(crate) name: &'a OsStr,
    parent: &'a Path,
    at: Identity,
}

/// An entry in an area, with its attributes.
pub(crate) struct Made<'a> {
    pub(crate) area: &'a Area,
    pub(crate) name: OsString,
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) meta: &'a Meta,
}

impl Target {
    /// Makes a directory that only its owner may enter until [`Target::finish_dir`]. An existing one is closed to others as
    /// far as `meta`, its later attributes, does not let them in.
    pub fn make_dir(&self, rel: &Path, meta: &Meta) -> Result<(), TargetError> {
        let place = self.place(rel)?;
        for _ in 0..TRIES {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let at = match rustix::fs::openat(&place.dir, place.name, flags, Mode::empty()) {
                Ok(fd) => {
                    self.close_to_others(rel, fd.as_fd(), meta)?;
                    Identity::of(&fd)
                }
                Err(Errno::NOENT) => match self.new_dir(&place, meta) {
                    Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => continue,
                    made => made,
                },
                Err(Errno::NOTDIR | Errno::LOOP) if self.options.merge => {
                    self.remove(rel)?;
                    continue;
                }
                Err(errno) => Err(errno),
            };
            self.dirs.lock().insert(rel.to_path_buf(), at.map_err(io("make directory", rel))?);
            return Ok(());
        }
        Err(io("make directory", rel)(Errno::EXIST))
    }

    /// Made in the area, where nobody can replace it before its inode is known.
    fn new_dir(&self, place: &Place<'_>, meta: &Meta) -> Result<Identity, Errno> {
        let area = self.area(place.parent, place.at)?;
        let name = area.name();
        rustix::fs::mkdirat(area.dir(), &name, Mode::RWXU)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(area.dir(), &name, flags, Mode::empty())?;
        early_in(&fd, meta);
        let to = |flags| rustix::fs::renameat_with(area.dir(), &name, &place.dir, place.name, flags);
        let moved = match to(RenameFlags::NOREPLACE) {
            // A file system without the flag. Nothing was there; rename(2) replaces at most an empty directory.
            Err(Errno::INVAL | Errno::NOSYS) => to(RenameFlags::empty()),
            other => other,
        };
        match moved {
            Ok(()) => Identity::of(&fd),
            Err(errno) => {
                // If it stays, it is removed with the area.
                let _ = rustix::fs::unlinkat(area.dir(), &name, AtFlags::REMOVEDIR);
                if errno != Errno::XDEV {
                    return Err(errno);
                }
                rustix::fs::mkdirat(&place.dir, place.name, Mode::RWXU)?;
                let fd = rustix::fs::openat(&place.dir, place.name, flags, Mode::empty())?;
                early_in(&fd, meta);
                Identity::of(fd)
            }
        }
    }

    /// Sets the attributes of a directory (empty `rel`: the target itself), after everything in it is written.
    pub fn finish_dir(&self, rel: &Path, meta: &Meta) -> Result<(), TargetError> {
        let fd = self.own_dir(rel)?.0;
        // Reopen while its owner may still read it.
        let readable = flags::reopen(&fd);
        if flags::is_sealed(&fd) {
            self.leave_sealed(rel, readable.map_err(io("open", rel))?.as_fd(), meta);
            return Ok(());
        }
        self.give(rel, &fd, meta);
        match readable {
            Ok(fd) => self.give_flags(rel, fd.as_fd(), meta),
            Err(errno) if meta.has_flags() => return Err(io("give inode flags to", rel)(errno)),
            Err(_) => {}
        }
        Ok(())
    }

    /// Removes the rights of others to an existing directory that `meta` will not give them; adds what its owner needs. If
    /// that is refused, `finish_dir` reports it.
    pub(crate) fn close_to_others(&self, rel: &Path, fd: BorrowedFd<'_>, meta: &Meta) -> Result<(), TargetError> {
        let found = stat_fd(fd).map_err(io("stat", rel))?.stat;
        if found.uid != meta.uid {
            let own = rustix::process::geteuid();
            let _ = rustix::fs::chownat(fd, c"", Some(own), None, AtFlags::EMPTY_PATH);
        }
        let acl = |names: &[(Vec<u8>, Vec<u8>)]| names.iter().any(|(name, _)| ACLS.contains(&name.as_slice()));
        let plain = !acl(&meta.xattrs) && xattrs::xattrs(fd).is_ok_and(|names| !acl(&names));
        let same_owner = (found.uid, found.gid) == (meta.uid, meta.gid);
        let common = if self.options.merge && plain && same_owner { found.mode & meta.mode & 0o077 } else { 0 };
        let mode = found.mode & 0o1000 | 0o700 | common;
        if mode != found.mode {
            let _ = rustix::fs::chmod(stat::proc_path(fd), Mode::from_raw_mode(mode));
        }
        Ok(())
    }

    /// Removes what is at `rel`, a directory with everything below it. If nothing is there, that is not an error.
    pub fn remove(&self, rel: &Path) -> Result<(), TargetError> {
        let (dir, name) = self.reach(rel)?;
        match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(io("remove", rel)(errno)),
        }
        match self.names(rel) {
            Ok(names) => names.into_iter().try_for_each(|name| self.remove(&rel.join(name)))?,
            // Not a directory: report the first error of unlink.
            Err(TargetError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {
                return Err(io("remove", rel)(Errno::PERM));
            }
            Err(error) => return Err(error),
        }
        match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(io("remove", rel)(errno)),
        }
    }

    /// Removes the temporary files that a restore by an older version left in the directory at `rel`: entries named
    /// `.tracker-PID-N.tmp` that belong to this user, are not directories, are of no running process, and are not
    /// `planned`.
    pub fn remove_old_temporaries(
        &self,
        rel: &Path,
        planned: impl Fn(&Path) -> bool,
    ) -> Result<Vec<PathBuf>, TargetError> {
        let mut removed = Vec::new();
        for name in self.names(rel)? {
            let Some(pid) = area::old_temporary(&name).and_then(rustix::process::Pid::from_raw) else { continue };
            let path = rel.join(&name);
            let runs = rustix::process::test_kill_process(pid) != Err(Errno::SRCH);
            let ours = self.stat(&path)?.is_some_and(|found| {
                found.stat.kind != Kind::Dir && found.stat.uid == rustix::process::geteuid().as_raw()
            });
            if ours && !runs && !planned(&path) {
                self.remove(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }

    /// Gives an entry its names, the last one by moving it. Returns the names that it could not be given.
    pub(crate) fn put(&self, made: &Made<'_>, names: &[&Path]) -> Vec<Unplaced> {
        let mut failed = Vec::new();
        for (n, rel) in names.iter().enumerate() {
            if let Err(cause) = self.put_one(made, rel, n + 1 == names.len()) {
                failed.push(Unplaced { path: rel.to_path_buf(), cause });
            }
        }
        failed
    }

    fn put_one(&self, made: &Made<'_>, rel: &Path, last: bool) -> Result<(), TargetError> {
        let place = self.place(rel)?;
        let dir = made.area.dir();
        let linked = made.area.name();
        let name = if last {
            &made.name
        } else {
            match rustix::fs::linkat(dir, &made.name, dir, &linked, AtFlags::empty()) {
                Ok(()) => &linked,
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                    self.warn(rel, Shortfall::Copy);
                    return self.put_copy(made, rel, &place, made.area);
                }
                Err(errno) => return Err(io("link", rel)(errno)),
            }
        };
        match self.move_in(dir, name, rel, &place) {
            // The directory accepts no entries from elsewhere, because of its quota project or encryption.
            Err(TargetError::Io { source, .. }) if source.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => {
                let here = Area::make(place.dir.as_fd()).map_err(io("make the temporary area beside", rel))?;
                self.put_copy(made, rel, &place, &here)
            }
            other => other,
        }
        .inspect_err(|_| {
            made.area.discard(&linked);
        })
    }

    /// Puts a copy with the same content and attributes in place, made in `area`.
    fn put_copy(&self, made: &Made<'_>, rel: &Path, place: &Place<'_>, area: &Area) -> Result<(), TargetError> {
        let (name, fd) = if made.meta.kind == Kind::File {
            self.copy_in(area, made, rel)?
        } else {
            make_in(area, made.meta).map_err(io("make", rel))?
        };
        self.give(rel, &fd, made.meta);
        if let Err(error) = self.move_in(area.dir(), &name, rel, place) {
            area.discard(&name);
            return Err(error);
        }
        if made.meta.kind == Kind::File {
            self.give_flags(rel, fd.as_fd(), made.meta);
        }
        Ok(())
    }

    fn move_in(&self, from: BorrowedFd<'_>, name: &OsStr, rel: &Path, place: &Place<'_>) -> Result<(), TargetError> {
        let moved = || rustix::fs::renameat(from, name, &place.dir, place.name);
        match moved() {
            Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) if self.options.merge => {
                self.remove(rel)?;
                moved()
            }
            other => other,
        }
        .map_err(|errno| refused("move into place", rel, place, errno))
    }

    /// The parent of `rel`, which must be the directory that was created or found there.
    pub(crate) fn place<'a>(&self, rel: &'a Path) -> Result<Place<'a>, TargetError> {
        let bad = || TargetError::BadPath { path: rel.to_path_buf() };
        let name = rel.file_name().ok_or_else(bad)?;
        let parent = rel.parent().ok_or_else(bad)?;
        let (dir, at) = self.own_dir(parent)?;
        Ok(Place { dir, name, parent, at })
    }

    fn own_dir(&self, rel: &Path) -> Result<(OwnedFd, Identity), TargetError> {
        let not_ours = || TargetError::NotOurs { path: rel.to_path_buf() };
        let known = self.dirs.lock().get(rel).copied();
        let dir = self.beneath.open(rel, OFlags::PATH | OFlags::DIRECTORY).map_err(|errno| match errno {
            Errno::INVAL => TargetError::BadPath { path: rel.to_path_buf() },
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => not_ours(),
            errno => io("open", rel)(errno),
        })?;
        let at = Identity::of(&dir).map_err(io("stat", rel))?;
        if known == Some(at) { Ok((dir, at)) } else { Err(not_ours()) }
    }

    /// The parent of `rel`, whatever directory it is.
    fn reach<'a>(&self, rel: &'a Path) -> Result<(OwnedFd, &'a OsStr), TargetError> {
        let bad = || TargetError::BadPath { path: rel.to_path_buf() };
        let name = rel.file_name().ok_or_else(bad)?;
        let dir = self.beneath.open(rel.parent().ok_or_else(bad)?, OFlags::PATH | OFlags::DIRECTORY);
        dir.map(|dir| (dir, name)).map_err(|errno| if errno == Errno::INVAL { bad() } else { io("open", rel)(errno) })
    }

    /// The area in which the entry at `rel` is made.
    pub(crate) fn area_of(&self, rel: &Path) -> Result<Arc<Area>, TargetError> {
        let place = self.place(rel)?;
        let made = self.area(place.parent, place.at);
        made.map_err(|errno| refused("make the temporary area for", rel, &place, errno))
    }

    /// The area on the file system of the directory at `rel`, in the highest directory of that file system in the target in
    /// which an area can be made.
    pub(crate) fn area(&self, rel: &Path, at: Identity) -> Result<Arc<Area>, Errno> {
        let mut areas = self.areas.lock();
        if let Some(area) = areas.get(&at.file_system()) {
            return Ok(area.clone());
        }
        let mut highest = self.beneath.open(rel, OFlags::PATH | OFlags::DIRECTORY)?;
        for above in rel.ancestors().skip(1) {
            let dir = self.beneath.open(above, OFlags::PATH | OFlags::DIRECTORY)?;
            if Identity::of(&dir)?.file_system() != at.file_system() {
                break;
            }
            if !flags::is_sealed(&dir) {
                highest = dir;
            }
        }
        let area = Area::make(highest.as_fd())?;
        areas.insert(at.file_system(), area.clone());
        Ok(area)
    }
}

/// Sets what a new directory must have while it is empty; a refusal is reported when it is finished.
fn early_in(dir: &OwnedFd, meta: &Meta) {
    if let Ok(fd) = flags::reopen(dir) {
        early(fd, meta);
    }
}

/// The error, with words about a seal if that is the likely cause.
fn refused(step: &'static str, rel: &Path, place: &Place<'_>, errno: Errno) -> TargetError {
    let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let there = || rustix::fs::openat(&place.dir, place.name, how, Mode::empty());
    if errno == Errno::PERM && (flags::is_sealed(&place.dir) || there().is_ok_and(flags::is_sealed)) {
        let source = std::io::Error::other("it, or its directory, is immutable or append-only");
        return TargetError::Io { step, path: rel.to_path_buf(), source };
    }
    io(step, rel)(errno)
}

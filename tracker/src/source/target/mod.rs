//! Writing a restored tree, beneath one directory only: no symlink on the way is followed, every file is made under a
//! temporary name beside its place and renamed over it when it is whole.
//!
//! The caller's order: `make_dir` from the top, files and specials and hard links in any order, `finish_dir` from the
//! deepest up (making an entry changes its directory's mtime). What could not be given (an owner without the right to,
//! a device) is kept as a [`Warning`], never passed over in silence.

mod attributes;
mod file;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use engine::model::{Kind, Meta};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::beneath::{Beneath, open_root};
use super::stat::{self, SourceStat, stat_fd};

pub use file::TargetFile;

/// Why a step of the restore failed. Paths are relative to the target.
#[derive(Debug, Error)]
pub enum TargetError {
    #[error("target {}: {source}", path.display())]
    Root { path: PathBuf, source: std::io::Error },
    /// An empty path, or one with `..`, a leading `/` or an empty name: the store's word is not trusted.
    #[error("{} is no path beneath the target", path.display())]
    BadPath { path: PathBuf },
    #[error("cannot {step} {}: {source}", path.display())]
    Io { step: &'static str, path: PathBuf, source: std::io::Error },
}

/// What was left out or not fully given, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub path: PathBuf,
    pub what: Shortfall,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// Owner or group not given. Setuid and setgid bits are left out then: they would serve another user.
    Owner {
        uid: u32,
        gid: u32,
    },
    Xattr {
        name: Vec<u8>,
        cause: String,
    },
    /// A device that was not made: no right to, or `untrusted`.
    Device,
    /// `untrusted`: setuid, setgid or a file capability left out.
    Privilege,
}

/// Warnings kept; more are only counted.
const WARNINGS_MAX: usize = 1_000;

/// How to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetOptions {
    /// The store is another's: leave out devices, setuid and setgid bits and file capabilities.
    pub untrusted: bool,
    /// fsync each file before it gets its name.
    pub sync: bool,
}

/// The directory a tree is written to. Can be shared by threads that write different files.
#[derive(Debug)]
pub struct Target {
    beneath: Beneath,
    options: TargetOptions,
    temporary: AtomicU64,
    warnings: Mutex<(Vec<Warning>, u64)>,
}

/// A parent directory and a name in it.
struct Place<'a> {
    dir: OwnedFd,
    name: &'a OsStr,
}

impl Target {
    /// Opens an existing directory.
    pub fn open(dir: &Path, options: TargetOptions) -> Result<Target, TargetError> {
        let fd = open_root(dir).map_err(|source| TargetError::Root { path: dir.to_path_buf(), source })?;
        Ok(Target {
            beneath: Beneath::new(fd, true),
            options,
            temporary: AtomicU64::new(0),
            warnings: Mutex::new((Vec::new(), 0)),
        })
    }

    /// Whether the target holds nothing.
    pub fn is_empty(&self) -> Result<bool, TargetError> {
        Ok(self.names(Path::new(""))?.is_empty())
    }

    /// The names in a directory of the target.
    pub fn names(&self, rel: &Path) -> Result<Vec<OsString>, TargetError> {
        use std::os::unix::ffi::OsStringExt;
        let fd = self.open_beneath(rel, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let entries = Dir::new(fd).and_then(|dir| dir.collect::<Result<Vec<_>, _>>());
        let names = entries.map_err(io("list", rel))?.into_iter().map(|entry| entry.file_name().to_bytes().to_vec());
        Ok(names.filter(|name| name != b"." && name != b"..").map(OsString::from_vec).collect())
    }

    /// What lies at `rel` now; `None` when nothing does.
    pub fn stat(&self, rel: &Path) -> Result<Option<SourceStat>, TargetError> {
        match self.beneath.open(rel, OFlags::PATH) {
            Ok(fd) => stat_fd(&fd).map(Some).map_err(io("stat", rel)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(io("stat", rel)(errno)),
        }
    }

    /// Opens a regular file of the target for reading: what `--merge` compares with, what verification reads.
    pub fn read(&self, rel: &Path) -> Result<std::fs::File, TargetError> {
        Ok(self.open_beneath(rel, OFlags::RDONLY | OFlags::NONBLOCK)?.into())
    }

    /// Makes a directory only its owner may enter, until [`Target::finish_dir`]; one that exists is taken as it is,
    /// but made writable. Anything else in its place is an error (see [`Target::remove`]).
    pub fn make_dir(&self, rel: &Path) -> Result<(), TargetError> {
        let place = self.place(rel)?;
        match rustix::fs::mkdirat(&place.dir, place.name, Mode::RWXU) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(io("make directory", rel)(errno)),
        }
        let fd = self.open_beneath(rel, OFlags::PATH | OFlags::DIRECTORY)?;
        let mode = stat_fd(&fd).map_err(io("stat", rel))?.stat.mode;
        if mode & 0o700 != 0o700 {
            rustix::fs::chmod(stat::proc_path(&fd), Mode::from_raw_mode(mode | 0o700))
                .map_err(io("change mode of", rel))?;
        }
        Ok(())
    }

    /// Gives a directory (empty `rel`: the target itself) its attributes. After everything in it is written.
    pub fn finish_dir(&self, rel: &Path, meta: &Meta) -> Result<(), TargetError> {
        let fd = self.open_beneath(rel, OFlags::PATH | OFlags::DIRECTORY)?;
        self.give(rel, &fd, meta)
    }

    /// Gives attributes only (a file whose content is right already).
    pub fn set_meta(&self, rel: &Path, meta: &Meta) -> Result<(), TargetError> {
        let fd = self.open_beneath(rel, OFlags::PATH)?;
        self.give(rel, &fd, meta)
    }

    /// Makes a symlink, fifo, socket or device with all its attributes, in place of what is there unless that is a
    /// directory. `false`: a device that was left out (a warning says so).
    pub fn make_special(&self, rel: &Path, meta: &Meta) -> Result<bool, TargetError> {
        let place = self.place(rel)?;
        let device = matches!(meta.kind, Kind::CharDevice | Kind::BlockDevice);
        if device && self.options.untrusted {
            self.warn(rel, Shortfall::Device);
            return Ok(false);
        }
        let made = self.temporary(|name| match meta.kind {
            Kind::Symlink => rustix::fs::symlinkat(&meta.target[..], &place.dir, name),
            kind => {
                let Some(kind) = file_type(kind) else { return Err(Errno::INVAL) };
                rustix::fs::mknodat(&place.dir, name, kind, Mode::RUSR | Mode::WUSR, meta.rdev)
            }
        });
        let temporary = match made {
            Err(Errno::PERM) if device => {
                self.warn(rel, Shortfall::Device);
                return Ok(false);
            }
            made => made.map_err(io("make", rel))?,
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let done = rustix::fs::openat(&place.dir, &temporary, flags, Mode::empty())
            .map_err(io("open", rel))
            .and_then(|fd| self.give(rel, &fd, meta))
            .and_then(|()| self.move_in(rel, &place, &temporary));
        if done.is_err() {
            // The error itself is what matters; a leftover keeps its telling name.
            let _ = rustix::fs::unlinkat(&place.dir, &temporary, AtFlags::empty());
        }
        done.map(|()| true)
    }

    /// Makes `rel` another name of `existing`, in place of what is there unless that is a directory.
    pub fn hard_link(&self, existing: &Path, rel: &Path) -> Result<(), TargetError> {
        let (from, to) = (self.place(existing)?, self.place(rel)?);
        let temporary = self
            .temporary(|name| rustix::fs::linkat(&from.dir, from.name, &to.dir, name, AtFlags::empty()))
            .map_err(io("link", rel))?;
        let moved = self.move_in(rel, &to, &temporary);
        // rename(2) does nothing when both names are the same inode already, and leaves the temporary one.
        match rustix::fs::unlinkat(&to.dir, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => moved,
            Err(errno) => moved.and(Err(io("remove the temporary name of", rel)(errno))),
        }
    }

    /// Moves what is at `from` to `to`, over what is there unless that is a directory with entries.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), TargetError> {
        let (source, place) = (self.place(from)?, self.place(to)?);
        rustix::fs::renameat(&source.dir, source.name, &place.dir, place.name).map_err(io("rename", to))
    }

    /// Removes what lies at `rel`, a directory with all below it; nothing there is no error.
    pub fn remove(&self, rel: &Path) -> Result<(), TargetError> {
        let place = self.place(rel)?;
        match rustix::fs::unlinkat(&place.dir, place.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(io("remove", rel)(errno)),
        }
        for name in self.names(rel)? {
            self.remove(&rel.join(name))?;
        }
        match rustix::fs::unlinkat(&place.dir, place.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(io("remove", rel)(errno)),
        }
    }

    /// What could not be given so far (the first 1,000), and how many there were in all.
    pub fn warnings(&self) -> (Vec<Warning>, u64) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn warn(&self, rel: &Path, what: Shortfall) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.1 += 1;
        if warnings.0.len() < WARNINGS_MAX {
            warnings.0.push(Warning { path: rel.to_path_buf(), what });
        }
    }

    fn open_beneath(&self, rel: &Path, flags: OFlags) -> Result<OwnedFd, TargetError> {
        self.beneath.open(rel, flags).map_err(io("open", rel))
    }

    fn place<'a>(&self, rel: &'a Path) -> Result<Place<'a>, TargetError> {
        let bad = || TargetError::BadPath { path: rel.to_path_buf() };
        let name = rel.file_name().ok_or_else(bad)?;
        let parent = rel.parent().ok_or_else(bad)?;
        let dir = self.beneath.open(parent, OFlags::PATH | OFlags::DIRECTORY).map_err(|errno| match errno {
            Errno::INVAL => bad(),
            errno => io("open the directory of", rel)(errno),
        })?;
        Ok(Place { dir, name })
    }

    /// Calls `make` with temporary names until one is free.
    fn temporary(&self, make: impl Fn(&OsStr) -> Result<(), Errno>) -> Result<OsString, Errno> {
        loop {
            let number = self.temporary.fetch_add(1, Ordering::Relaxed);
            let name = OsString::from(format!(".tracker-{}-{number}.tmp", std::process::id()));
            match make(&name) {
                Err(Errno::EXIST) => {}
                other => return other.map(|()| name),
            }
        }
    }

    fn move_in(&self, rel: &Path, place: &Place<'_>, temporary: &OsStr) -> Result<(), TargetError> {
        rustix::fs::renameat(&place.dir, temporary, &place.dir, place.name).map_err(io("move into place", rel))
    }
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

fn io<'a>(step: &'static str, rel: &'a Path) -> impl Fn(Errno) -> TargetError + 'a {
    move |errno| TargetError::Io { step, path: rel.to_path_buf(), source: errno.into() }
}

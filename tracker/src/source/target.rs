//! Writing a restored tree, beneath one directory only: no symlink on the way is followed, and every entry is made in a
//! private area (`area`) and renamed to its place when it is whole, with its owner and mode.
//!
//! The caller's order: `prepare`, `make_dir` from the top, files and specials in any order, `remove_own_areas`,
//! `finish_dir` from the deepest up (making an entry changes its directory's mtime), the target itself last. Until then directories are closed to
//! others. Attributes are set on open descriptors, never on a name, and a directory is known again by its inode: who may
//! write to the target cannot put something else in its place. What could not be given (an owner without the right to, a
//! device) is kept as a [`Warning`], never passed over in silence.

mod area;
mod attributes;
mod file;
mod flags;
mod kept;
mod place;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_flags;
#[cfg(test)]
mod tests_hostile;

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::model::{Kind, Meta};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use self::area::Area;
use self::place::Identity;
use super::beneath::{Beneath, open_root};
use super::flags::is_sealed;
use super::stat::{self, SourceStat, stat_fd};
use crate::quoting::quote_path;

pub(crate) use area::is_area;
pub use area::{has_area_name, remove_all as remove_areas};
pub use file::TargetFile;
pub use place::Unplaced;

/// Why a step of the restore failed. Paths are relative to the target.
#[derive(Debug, Error)]
pub enum TargetError {
    #[error("target {}: {source}", path.display())]
    Root { path: PathBuf, source: std::io::Error },
    /// An empty path, or one with `..`, a leading `/` or an empty name: the store's word is not trusted.
    #[error("{} is no path beneath the target", shown(path))]
    BadPath { path: PathBuf },
    /// The directory that was made or found at this path is not there any more, or never was.
    #[error("the directory {} could not be made, or was replaced meanwhile", shown(path))]
    NotOurs { path: PathBuf },
    #[error("cannot {step} {}: {source}", shown(path))]
    Io { step: &'static str, path: PathBuf, source: std::io::Error },
}

impl TargetError {
    /// Nothing more can be written after it: the disk or a quota is full, or this process may open no more files.
    pub fn is_fatal(&self) -> bool {
        let full = [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::NOMEM];
        match self {
            TargetError::Root { .. } => true,
            TargetError::BadPath { .. } | TargetError::NotOurs { .. } => false,
            TargetError::Io { source, .. } => Errno::from_io_error(source).is_some_and(|errno| full.contains(&errno)),
        }
    }
}

fn shown(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    match path.as_os_str().as_bytes() {
        b"" => "the target itself".into(),
        bytes => quote_path(bytes),
    }
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
    Mode {
        mode: u32,
        cause: String,
    },
    /// The modification time.
    Time {
        cause: String,
    },
    Xattr {
        name: Vec<u8>,
        cause: String,
    },
    /// Inode flags, by their names.
    Flags {
        names: Vec<&'static str>,
        cause: String,
    },
    Project {
        project: u32,
        cause: String,
    },
    /// An entry of an existing tree that is immutable or append-only there, with other attributes than it should have.
    Sealed,
    /// A device that was not made: no right to.
    Device,
    /// A second name of a file is a file of its own with the same content: the file system makes no hard links.
    Copy,
    /// `untrusted`: a device left out.
    DeviceUnwanted,
    /// `untrusted`: setuid, setgid or a file capability left out.
    Privilege,
    /// `untrusted`: flags that only root may take away, and the project unless that is 0.
    FlagsUnwanted {
        names: Vec<&'static str>,
        project: u32,
    },
}

impl Shortfall {
    /// Asked for by `untrusted`.
    fn by_wish(&self) -> bool {
        matches!(self, Shortfall::DeviceUnwanted | Shortfall::Privilege | Shortfall::FlagsUnwanted { .. })
    }
}

/// The first of many, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounded<T> {
    pub first: Vec<T>,
    pub count: u64,
}

/// What [`Bounded::first`] holds at most.
pub const BOUNDED_MAX: usize = 1_000;

impl<T> Bounded<T> {
    pub fn push(&mut self, item: T) {
        self.count += 1;
        if self.first.len() < BOUNDED_MAX {
            self.first.push(item);
        }
    }
}

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Bounded { first: Vec::new(), count: 0 }
    }
}

/// How to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetOptions {
    /// The store is another's: leave out devices, setuid and setgid bits, file capabilities, what makes files immutable, and
    /// projects.
    pub untrusted: bool,
    /// Inode flags that are not in the commit were not there. Commits of format version 1 say nothing of them.
    pub flags_known: bool,
    /// fsync each file before it gets its name.
    pub sync: bool,
    /// The target held something before (`--merge`): what stands in the way of an entry is removed, and directories that
    /// are there keep what their old and their new mode both allow.
    pub merge: bool,
}

/// The directory a tree is written to. Can be shared by threads that write different files.
#[derive(Debug)]
pub struct Target {
    beneath: Beneath,
    options: TargetOptions,
    /// The directories that were made or found, by path. The target itself is one of them after `prepare`.
    dirs: Mutex<HashMap<PathBuf, Identity>>,
    /// One for each mount and device beneath the target.
    areas: Mutex<HashMap<(u64, u64), Arc<Area>>>,
    warnings: Mutex<(Bounded<Warning>, Bounded<Warning>)>,
}

impl Target {
    /// Opens an existing directory. Nothing is changed yet.
    pub fn open(dir: &Path, options: TargetOptions) -> Result<Target, TargetError> {
        let fd = open_root(dir).map_err(|source| TargetError::Root { path: dir.to_path_buf(), source })?;
        Ok(Target {
            beneath: Beneath::new(fd, true),
            options,
            dirs: Mutex::default(),
            areas: Mutex::default(),
            warnings: Mutex::default(),
        })
    }

    /// Closes the target to others, until `finish_dir` of it, and makes the area in it. `meta` is what it will have.
    pub fn prepare(&self, meta: &Meta) -> Result<(), TargetError> {
        let rel = Path::new("");
        self.close_to_others(rel, self.beneath.root(), meta)?;
        let at = Identity::of(self.beneath.root()).map_err(io("stat", rel))?;
        lock(&self.dirs).insert(PathBuf::new(), at);
        if is_sealed(self.beneath.root()) {
            // Perhaps all is there already; else each entry that cannot be made says so.
            return Ok(());
        }
        self.area(rel, at).map_err(io("make the temporary area in", rel)).map(|_| ())
    }

    /// Removes the areas: nothing more is made. Before directories are finished, since it changes their times.
    pub fn remove_own_areas(&self) {
        lock(&self.areas).clear();
    }

    /// Whether the target holds nothing; the area of an interrupted restore does not count.
    pub fn is_empty(&self) -> Result<bool, TargetError> {
        use std::os::unix::ffi::OsStrExt;
        let names = self.names(Path::new(""))?;
        Ok(names.iter().all(|name| is_area(self.beneath.root(), name.as_bytes())))
    }

    /// The names in a directory of the target.
    pub fn names(&self, rel: &Path) -> Result<Vec<OsString>, TargetError> {
        let fd = self.beneath.open(rel, OFlags::RDONLY | OFlags::DIRECTORY).map_err(io("open", rel))?;
        area::names(fd.as_fd()).map_err(io("list", rel))
    }

    /// What lies at `rel` now; `None` when nothing does.
    pub fn stat(&self, rel: &Path) -> Result<Option<SourceStat>, TargetError> {
        match self.beneath.open(rel, OFlags::PATH) {
            Ok(fd) => stat_fd(&fd).map(Some).map_err(io("stat", rel)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(io("stat", rel)(errno)),
        }
    }

    /// Makes a symlink, fifo, socket or device with all its attributes and names, in place of what is there. Empty: a
    /// device that was left out (a warning says so), or all names were given; else the names that could not be.
    pub fn make_special(&self, names: &[&Path], meta: &Meta) -> Result<Vec<Unplaced>, TargetError> {
        let Some(first) = names.first() else { return Ok(Vec::new()) };
        let device = matches!(meta.kind, Kind::CharDevice | Kind::BlockDevice);
        if device && self.options.untrusted {
            self.warn(first, Shortfall::DeviceUnwanted);
            return Ok(Vec::new());
        }
        if let Some(what) = meta.unmakeable() {
            let source = std::io::Error::other(format!("it is {what}"));
            return Err(TargetError::Io { step: "make", path: first.to_path_buf(), source });
        }
        if self.options.merge && self.is_there_for_good(names, meta) {
            return Ok(Vec::new());
        }
        let area = self.area_of(first)?;
        match make_in(&area, meta) {
            Err(Errno::PERM) if device => {
                self.warn(first, Shortfall::Device);
                Ok(Vec::new())
            }
            Err(errno) => Err(io("make", first)(errno)),
            Ok((name, fd)) => {
                self.give(first, &fd, meta);
                let made = place::Made { area: &area, name, fd: fd.as_fd(), meta };
                let failed = self.put(&made, names);
                let _ = area.discard(&made.name);
                Ok(failed)
            }
        }
    }

    /// What could not be given so far, and what `untrusted` left out.
    pub fn warnings(&self) -> (Bounded<Warning>, Bounded<Warning>) {
        lock(&self.warnings).clone()
    }

    fn warn(&self, rel: &Path, what: Shortfall) {
        let mut warnings = lock(&self.warnings);
        let list = if what.by_wish() { &mut warnings.1 } else { &mut warnings.0 };
        list.push(Warning { path: rel.to_path_buf(), what });
    }
}

/// Makes what is no regular file and no directory, in an area.
fn make_in(area: &Area, meta: &Meta) -> Result<(OsString, OwnedFd), Errno> {
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

fn io<'a>(step: &'static str, rel: &'a Path) -> impl Fn(Errno) -> TargetError + 'a {
    move |errno| TargetError::Io { step, path: rel.to_path_buf(), source: errno.into() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

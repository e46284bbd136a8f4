//! One open directory of the source: its entries, and single names in it.
//!
//! Every query uses the descriptor, so an answer never comes from another directory that took its path meanwhile: such
//! answers decide whether a name is absent.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use engine::model::{InodeId, Kind};
use engine::source::{Entry, Stat, Unknown};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::beneath::Beneath;
use super::error::SourceError;
use super::restore_area::is_area;
use super::root::{RawEntry, SourceRoot, is_metacopy, names, whole_in_upper};
use super::stat::{Births, SourceStat};

/// From this many names on, several threads read attributes: a thread pays off for about 10 ms of such calls.
const MANY: usize = 16_384;
const THREADS: usize = 4;

/// Why an entry does not belong to the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    MountPoint,
    /// A directory with another device number: a btrfs subvolume, which has its own inode numbers.
    OtherDevice,
    /// The temporary area of a `tracker restore` that runs in this directory, or was killed there.
    RestoreArea,
}

/// A directory's entries, each with its `statx`, in the order of the listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    pub entries: Vec<Entry>,
    /// Names left out.
    pub foreign: Vec<(Vec<u8>, Foreign)>,
    /// Names that could not be looked up, each with the cause.
    pub unknown: Unknown,
}

/// A directory held open, with its place in the upper layer on overlayfs.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    fd: OwnedFd,
    found: SourceStat,
    births: Births,
    above: Option<(OwnedFd, Births)>,
}

/// The file at one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    Entry(Stat),
    Foreign(Foreign),
}

impl SourceRoot {
    /// Opens the directory at `rel` (empty: the source itself).
    pub fn directory(&self, rel: &Path) -> Result<Directory, SourceError> {
        let fail = |errno| SourceError::at(rel, errno);
        let Some(beneath) = self.upper.as_ref().and_then(|upper| upper.beneath()) else {
            let fd = self.beneath.open(rel, OFlags::RDONLY | OFlags::DIRECTORY).map_err(fail)?;
            let births = self.births_of(false);
            let found = births.stat_fd(&fd).map_err(fail)?;
            return Ok(Directory { path: rel.into(), fd, found, births, above: None });
        };
        // Two opens by path. Both give the same directory if the upper layer shows the same one before and after.
        let upper = self.births_of(true);
        let before = above(beneath, rel, upper)?;
        let fd = self.beneath.open(rel, OFlags::RDONLY | OFlags::DIRECTORY).map_err(fail)?;
        let births = self.births_of(false);
        let merged = births.stat_fd(&fd).map_err(fail)?;
        let after = above(beneath, rel, upper)?;
        let inode = |found: &Option<(OwnedFd, SourceStat)>| found.as_ref().map(|(_, found)| found.stat.inode);
        if inode(&before) != inode(&after) {
            return Err(SourceError::Gone { path: rel.into() });
        }
        let (above, found) = match after {
            Some((fd, found)) => (Some((fd, upper)), SourceStat { device: merged.device, ..found }),
            None => (None, merged),
        };
        Ok(Directory { path: rel.into(), fd, found, births, above })
    }

    /// The entries of the directory that is at `rel` now.
    pub fn entries(&self, rel: &Path) -> Result<Entries, SourceError> {
        self.directory(rel)?.entries()
    }
}

/// The directory in the upper layer; `None` if it is only in lower layers.
fn above(beneath: &Beneath, rel: &Path, births: Births) -> Result<Option<(OwnedFd, SourceStat)>, SourceError> {
    match beneath.open(rel, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(fd) => {
            let found = births.stat_fd(&fd).map_err(|errno| SourceError::at(rel, errno))?;
            Ok(Some((fd, found)))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(SourceError::at(rel, errno)),
    }
}

impl Directory {
    /// The inode in marks of this directory.
    pub fn inode(&self) -> InodeId {
        self.found.stat.inode
    }

    /// Its entries, each with a `statx` made after the listing. Entries that vanished in between are left out.
    pub fn entries(&self) -> Result<Entries, SourceError> {
        let fd = self.fd.try_clone().map_err(|source| SourceError::Io { path: self.path.clone(), source })?;
        let mut all = names(fd).map_err(|errno| SourceError::at(&self.path, errno))?;
        if all.len() < MANY {
            return Ok(self.those(all));
        }
        // A large listing spends nearly all of its time in these calls.
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        let share = all.len().div_ceil(threads);
        let mut shares = Vec::new();
        while !all.is_empty() {
            shares.push(all.split_off(all.len().saturating_sub(share)));
        }
        let parts = std::thread::scope(|scope| {
            let running: Vec<_> = shares.into_iter().rev().map(|part| scope.spawn(|| self.those(part))).collect();
            running.into_iter().map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic))).collect::<Vec<_>>()
        });
        let mut out = Entries::default();
        for part in parts {
            out.entries.extend(part.entries);
            out.foreign.extend(part.foreign);
            out.unknown.extend(part.unknown);
        }
        Ok(out)
    }

    fn those(&self, names: Vec<RawEntry>) -> Entries {
        let mut out = Entries { entries: Vec::with_capacity(names.len()), ..Entries::default() };
        for RawEntry { name, .. } in names {
            match self.named(&name) {
                Ok(Some(Named::Entry(stat))) => out.entries.push(Entry { name, stat }),
                Ok(Some(Named::Foreign(why))) => out.foreign.push((name, why)),
                Ok(None) => {}
                // One damaged inode, or a dead mount of another program, must not hide the other names.
                Err(error) => out.unknown.push((name, error.cause())),
            }
        }
        out
    }

    /// The file at `name` now; `None` if there is none.
    pub fn named(&self, name: &[u8]) -> Result<Option<Named>, SourceError> {
        let name = OsStr::from_bytes(name);
        let found = match self.births.stat_at(&self.fd, name) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(SourceError::at(&self.path.join(name), errno)),
        };
        if found.mount_root {
            return Ok(Some(Named::Foreign(Foreign::MountPoint)));
        }
        if found.stat.kind == Kind::Dir && found.device != self.found.device {
            return Ok(Some(Named::Foreign(Foreign::OtherDevice)));
        }
        if found.stat.kind == Kind::Dir && is_area(self.fd.as_fd(), name.as_bytes()) {
            return Ok(Some(Named::Foreign(Foreign::RestoreArea)));
        }
        if let Some((above, births)) = &self.above
            && let Ok(upper) = births.stat_at(above, name)
            && whole_in_upper(&found.stat, &upper.stat, || self.metacopy(name))
        {
            return Ok(Some(Named::Entry(upper.stat)));
        }
        Ok(Some(Named::Entry(found.stat)))
    }

    /// If it cannot be determined, the answer is yes.
    fn metacopy(&self, name: &OsStr) -> bool {
        use rustix::fs::{Mode, openat};
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = self.above.as_ref().and_then(|(above, _)| openat(above, name, flags, Mode::empty()).ok());
        opened.is_none_or(|fd| is_metacopy(std::os::fd::AsFd::as_fd(&fd)))
    }
}

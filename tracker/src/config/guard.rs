//! Refuses paths that would feed back into themselves: a flush that writes into what it watches never ends.
//!
//! Compares paths by superblock and inode while walking to the root, and by their place inside the file system (mount
//! table), so that neither symlinks nor bind mounts hide a cycle. Only reads.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use engine::model::{Dev, Ino};

use crate::error::{AppError, ExitCode};
use crate::mountinfo::{self, MOUNTINFO, Mount};

/// What the guard needs to know of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardedVolume {
    pub name: String,
    pub source: PathBuf,
    /// The store's directory, when it is a local one.
    pub store: Option<PathBuf>,
}

/// One refusal.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct GuardError {
    /// The volume that it concerns; `None` if it concerns all.
    pub volume: Option<String>,
    #[source]
    pub kind: GuardKind,
}

#[derive(Debug, thiserror::Error)]
pub enum GuardKind {
    #[error("the source {} does not exist", .path.display())]
    SourceAbsent { path: PathBuf },
    #[error("the source {} is not a directory", .path.display())]
    SourceNotDirectory { path: PathBuf },
    #[error("cannot look at {}: {cause}", .path.display())]
    Look { path: PathBuf, cause: io::Error },
    #[error("the store {} exists and is not a directory", .path.display())]
    StoreNotDirectory { path: PathBuf },
    #[error("the store {} lies inside the source {}: every commit would be a change to commit", .store.display(), .source_dir.display())]
    StoreInSource { store: PathBuf, source_dir: PathBuf },
    #[error("the source {} lies inside the store {}", .source_dir.display(), .store.display())]
    SourceInStore { source_dir: PathBuf, store: PathBuf },
    #[error("the state directory {} lies inside the source {}: every flush would be a change to flush", .state_dir.display(), .source_dir.display())]
    StateInSource { state_dir: PathBuf, source_dir: PathBuf },
    #[error("the source {} lies inside the state directory {}", .source_dir.display(), .state_dir.display())]
    SourceInState { source_dir: PathBuf, state_dir: PathBuf },
    #[error("the log file {} lies inside the source {}", .log.display(), .source_dir.display())]
    LogInSource { log: PathBuf, source_dir: PathBuf },
    #[error("the target {} lies inside {what} {}, or is it", .target.display(), .place.display())]
    TargetInside { target: PathBuf, what: &'static str, place: PathBuf },
    #[error("{what} {} lies inside the target {}", .place.display(), .target.display())]
    TargetAround { target: PathBuf, what: &'static str, place: PathBuf },
    #[error("the sources {} and {} lie one inside the other", .inner.display(), .outer.display())]
    Nested { inner: PathBuf, outer: PathBuf },
}

impl GuardKind {
    /// Whether nothing that can be protected is at the source's path now; that can change without any action on tracker.
    pub fn is_away(&self) -> bool {
        matches!(self, GuardKind::SourceAbsent { .. } | GuardKind::SourceNotDirectory { .. } | GuardKind::Look { .. })
    }
}

/// The server of a mounted file system is gone.
fn is_dead_mount(cause: &io::Error) -> bool {
    matches!(rustix::io::Errno::from_io_error(cause), Some(rustix::io::Errno::NOTCONN | rustix::io::Errno::STALE))
}

impl From<GuardError> for AppError {
    fn from(error: GuardError) -> AppError {
        let (code, hint) = match &error.kind {
            GuardKind::SourceAbsent { .. } => (ExitCode::Error, "create the directory first, or correct its name"),
            GuardKind::SourceNotDirectory { .. } => (ExitCode::Error, "protect the directory the file lies in"),
            GuardKind::Look { cause, .. } if is_dead_mount(cause) => (ExitCode::Error, crate::store::error::DEAD_MOUNT),
            GuardKind::Look { .. } => (ExitCode::Error, "check the permissions of the path and of its parents"),
            GuardKind::StoreNotDirectory { .. } => {
                (ExitCode::Error, "name a directory, or a path that does not exist yet")
            }
            GuardKind::StoreInSource { .. } | GuardKind::SourceInStore { .. } => {
                (ExitCode::Guard, "keep the store in a directory of its own, outside every source")
            }
            GuardKind::StateInSource { .. } | GuardKind::SourceInState { .. } => {
                (ExitCode::Guard, "name a directory outside every source with --state-dir")
            }
            GuardKind::TargetInside { .. } | GuardKind::TargetAround { .. } => {
                (ExitCode::Guard, "restore into a directory outside of it that does not contain it either")
            }
            GuardKind::LogInSource { .. } => (ExitCode::Guard, "redirect the log to a file outside every source"),
            GuardKind::Nested { .. } => {
                (ExitCode::Guard, "protect the outer directory only, or two that do not overlap")
            }
        };
        AppError::new(code, &error.kind).hint(hint)
    }
}

/// Checks all volumes of one process against each other, their local stores, the state directory and the log files. Stores
/// and state directory need not exist yet. Returns all refusals, not just the first.
pub fn check_paths(volumes: &[GuardedVolume], state_dir: &Path, logs: &[PathBuf]) -> Vec<GuardError> {
    let mounts = read_mounts();
    let mut found = Vec::new();
    let mut sources = Vec::new();
    for volume in volumes {
        let refuse = |kind| GuardError { volume: Some(volume.name.clone()), kind };
        match source_place(&volume.source, &mounts) {
            Ok(place) => sources.push((volume, place)),
            Err(kind) => found.push(refuse(kind)),
        }
        if let Some(store) = &volume.store
            && fs::metadata(store).is_ok_and(|meta| !meta.is_dir())
        {
            found.push(refuse(GuardKind::StoreNotDirectory { path: store.clone() }));
        }
    }
    let mut other_place = |path: &Path, volume: Option<&str>| {
        let place = Place::of(path, &mounts);
        place.map_err(|kind| found.push(GuardError { volume: volume.map(str::to_string), kind })).ok()
    };
    let state = other_place(state_dir, None);
    let logs: Vec<_> = logs.iter().filter_map(|log| Some((log, other_place(log, None)?))).collect();
    let stores: Vec<_> = volumes
        .iter()
        .filter_map(|v| Some((v.store.as_ref()?, other_place(v.store.as_ref()?, Some(&v.name))?)))
        .collect();
    let mut seen_stores = HashSet::new();
    let stores: Vec<_> = stores.into_iter().filter(|(path, _)| seen_stores.insert(path.as_path())).collect();

    for (at, (volume, source)) in sources.iter().enumerate() {
        let source_dir = || volume.source.clone();
        let mut refuse = |kind| found.push(GuardError { volume: Some(volume.name.clone()), kind });
        for (store, place) in &stores {
            if place.is_inside(source) {
                refuse(GuardKind::StoreInSource { store: store.to_path_buf(), source_dir: source_dir() });
            } else if source.is_inside(place) {
                refuse(GuardKind::SourceInStore { source_dir: source_dir(), store: store.to_path_buf() });
            }
        }
        if let Some(state) = &state {
            let state_dir = || state_dir.to_path_buf();
            if state.is_inside(source) {
                refuse(GuardKind::StateInSource { state_dir: state_dir(), source_dir: source_dir() });
            } else if source.is_inside(state) {
                refuse(GuardKind::SourceInState { source_dir: source_dir(), state_dir: state_dir() });
            }
        }
        for (log, place) in &logs {
            if place.is_inside(source) {
                refuse(GuardKind::LogInSource { log: log.to_path_buf(), source_dir: source_dir() });
            }
        }
        for (earlier, other) in &sources[..at] {
            if source.is_inside(other) {
                refuse(GuardKind::Nested { inner: source_dir(), outer: earlier.source.clone() });
            } else if other.is_inside(source) {
                refuse(GuardKind::Nested { inner: earlier.source.clone(), outer: source_dir() });
            }
        }
    }
    found
}

/// Refuses a restore that would write into the store it reads, or into the state of a daemon: into them, or into a
/// directory that contains them. A path that does not exist yet is not refused.
pub fn check_restore(target: &Path, store: Option<&Path>, state_dir: Option<&Path>) -> Result<(), GuardError> {
    let mounts = read_mounts();
    let refuse = |kind| GuardError { volume: None, kind };
    let own = Place::of(target, &mounts).map_err(refuse)?;
    for (what, path) in [("the store", store), ("the state directory", state_dir)] {
        let Some(path) = path.filter(|path| path.exists()) else { continue };
        let other = Place::of(path, &mounts).map_err(refuse)?;
        let (target, place) = (target.to_path_buf(), path.to_path_buf());
        if own.is_inside(&other) {
            return Err(refuse(GuardKind::TargetInside { target, what, place }));
        }
        if other.is_inside(&own) {
            return Err(refuse(GuardKind::TargetAround { target, what, place }));
        }
    }
    Ok(())
}

/// The regular files that stdout and stderr of this process are redirected to, if any.
pub fn log_files() -> Vec<PathBuf> {
    let file_of = |fd: &str| {
        let path = fs::read_link(Path::new("/proc/self/fd").join(fd)).ok()?;
        fs::metadata(&path).is_ok_and(|meta| meta.is_file()).then_some(path)
    };
    ["1", "2"].into_iter().filter_map(file_of).collect()
}

fn source_place(source: &Path, mounts: &[Mount]) -> Result<Place, GuardKind> {
    let path = || source.to_path_buf();
    match fs::metadata(source) {
        Ok(meta) if meta.is_dir() => Place::of(source, mounts),
        Ok(_) => Err(GuardKind::SourceNotDirectory { path: path() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(GuardKind::SourceAbsent { path: path() }),
        Err(cause) => Err(GuardKind::Look { path: path(), cause }),
    }
}

/// The location of a path: itself and all its ancestors.
#[derive(Debug)]
struct Place {
    /// {superblock device, inode} of the path, when it exists.
    own: Option<(Dev, Ino)>,
    /// The same of every existing ancestor and of the path itself.
    chain: HashSet<(Dev, Ino)>,
    /// {mounted device, path inside that file system}: the same for one directory seen through a bind mount.
    inside_fs: Option<(Dev, PathBuf)>,
}

impl Place {
    fn of(path: &Path, mounts: &[Mount]) -> Result<Place, GuardKind> {
        let look = |cause| GuardKind::Look { path: path.to_path_buf(), cause };
        let absolute = std::path::absolute(path).map_err(look)?;
        // Resolves the part that exists; keeps the rest as written.
        let mut existing = absolute.as_path();
        let resolved = loop {
            match fs::canonicalize(existing) {
                Ok(resolved) => break resolved,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    existing = existing.parent().ok_or_else(|| look(e))?;
                }
                Err(e) => return Err(look(e)),
            }
        };
        let missing = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
        let mut chain = HashSet::new();
        for ancestor in resolved.ancestors() {
            let meta = fs::metadata(ancestor).map_err(look)?;
            chain.insert(inode_of(&meta));
        }
        let meta = fs::metadata(&resolved).map_err(look)?;
        let own = missing.as_os_str().is_empty().then_some(inode_of(&meta));
        let full = if own.is_some() { resolved } else { resolved.join(missing) };
        Ok(Place { own, chain, inside_fs: inside_fs(mounts, &full) })
    }

    /// Whether this path is `other` or below it.
    fn is_inside(&self, other: &Place) -> bool {
        if other.own.is_some_and(|own| self.chain.contains(&own)) {
            return true;
        }
        match (&self.inside_fs, &other.inside_fs) {
            (Some((dev, path)), Some((other_dev, other_path))) => dev == other_dev && path.starts_with(other_path),
            _ => false,
        }
    }
}

/// What the file is, whatever its path.
fn inode_of(meta: &fs::Metadata) -> (Dev, Ino) {
    (Dev::of_stat(meta.dev()), Ino(meta.ino()))
}

/// The mount table; empty without /proc, which leaves only the inode walk.
fn read_mounts() -> Vec<Mount> {
    mountinfo::mounts(&fs::read(MOUNTINFO).unwrap_or_default()).collect()
}

/// Superblock and path inside it, of an absolute path without symlinks.
fn inside_fs(mounts: &[Mount], path: &Path) -> Option<(Dev, PathBuf)> {
    // A later line with the same mount point is mounted over the earlier one; max_by_key returns the last.
    let covering = mounts.iter().filter(|mount| path.starts_with(&mount.mount_point));
    let mount = covering.max_by_key(|mount| mount.mount_point.components().count())?;
    Some((mount.kernel_dev, mount.root.join(path.strip_prefix(&mount.mount_point).ok()?)))
}

#[cfg(test)]
mod tests;

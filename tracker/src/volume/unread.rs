//! What a flush could not read or could not commit, by path and in words.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use engine::flush::Report;
use engine::flush::world::FileError;
use engine::model::FileId;

use super::world::{VolumeWorld, WorldError};

/// Paths that one flush warns of.
const WARNED_MAX: usize = 10;

/// Made before the flush forgets where it looked: new files that cannot be read have no other path.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// What keeps a flush from being one that leaves nothing over.
    pub(super) left_over: Vec<String>,
    /// What cannot be read until somebody acts, and why.
    pub(super) paths: BTreeMap<PathBuf, String>,
    pub(super) write_back: Vec<(PathBuf, String)>,
}

impl Unread {
    pub(super) fn of(world: &VolumeWorld, report: &Report) -> Result<Unread, WorldError> {
        let path = |id: FileId| -> Result<PathBuf, WorldError> {
            Ok(match world.path(id)? {
                Some(path) if path.as_os_str().is_empty() => PathBuf::from("."),
                Some(path) => path,
                None => PathBuf::from(format!("a file that moved ({id})")),
            })
        };
        let mut unread = Unread::default();
        for (id, error) in &report.errors {
            let path = path(*id)?;
            unread.left_over.push(format!("{}: {error}", crate::quoting::path(&path)));
            match error {
                FileError::WriteBack { cause } => unread.write_back.push((path, cause.clone())),
                error if error.is_lasting() => unread.add(path, error),
                _ => {}
            }
        }
        for (id, cause) in &report.unlisted {
            let path = path(*id)?;
            unread.left_over.push(format!("{}: directory cannot be listed: {cause}", crate::quoting::path(&path)));
            unread.add(path, cause);
        }
        for (id, names) in &report.unknown {
            let dir = path(*id)?;
            for (name, cause) in names {
                let path =
                    if dir == Path::new(".") { PathBuf::new() } else { dir.clone() }.join(OsStr::from_bytes(name));
                unread.left_over.push(format!("{}: {cause}", crate::quoting::path(&path)));
                unread.add(path, cause);
            }
        }
        for (id, what) in &report.partial {
            let path = path(*id)?;
            unread.left_over.push(format!("{}: {what}", crate::quoting::path(&path)));
            unread.add(path, what);
        }
        Ok(unread)
    }

    fn add(&mut self, path: PathBuf, cause: impl ToString) {
        self.paths.entry(path).or_insert_with(|| cause.to_string());
    }

    /// Warns of what the flush before did not know.
    pub(super) fn warn(&self, volume: &str, before: &BTreeMap<PathBuf, String>) {
        let new = || self.paths.iter().filter(|(path, _)| !before.contains_key(*path));
        for (path, cause) in new().take(WARNED_MAX) {
            tracing::warn!(volume, path = ?path, cause, "not protected as it is on the disk");
        }
        let more = new().count().saturating_sub(WARNED_MAX);
        if more > 0 {
            tracing::warn!(
                volume,
                more,
                "others are not protected as they are on the disk; `tracker status` names them"
            );
        }
    }
}

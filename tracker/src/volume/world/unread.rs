//! What a flush could not read or commit, by path and in words.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use engine::flush::Report;
use engine::model::FileId;
use engine::source::FileError;

use super::error::WorldError;
use super::parts::VolumeWorld;

/// Most paths that one flush warns about.
const WARNED_MAX: usize = 10;

/// Built before the flush forgets where it looked: new files that cannot be read have no other path.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// Why the flush is not one that leaves nothing.
    pub(crate) left_over: Vec<String>,
    /// Files that cannot be read until somebody acts, and why.
    pub(crate) paths: BTreeMap<PathBuf, String>,
    pub(crate) write_back: Vec<(PathBuf, String)>,
    /// Files that were not read this time for a passing cause: late, moved, no room.
    passing: Vec<PathBuf>,
}

impl Unread {
    pub(crate) fn of(world: &VolumeWorld, report: &Report) -> Result<Unread, WorldError> {
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
                _ => unread.passing.push(path),
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

    /// Keeps what the previous flush reported of files that this one did not try.
    pub(crate) fn carry_on(&mut self, before: &BTreeMap<PathBuf, String>) {
        for path in std::mem::take(&mut self.passing) {
            if let Some(cause) = before.get(&path) {
                self.paths.entry(path).or_insert_with(|| cause.clone());
            }
        }
    }

    /// Warns of files that the previous flush did not report.
    pub(crate) fn warn(&self, volume: &str, before: &BTreeMap<PathBuf, String>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_late_once_is_named_as_before() {
        let before = BTreeMap::from([("a".into(), "too much".to_owned()), ("b".into(), "no right".to_owned())]);
        let mut unread = Unread { passing: vec!["a".into(), "c".into()], ..Unread::default() };
        unread.carry_on(&before);
        assert_eq!(unread.paths, BTreeMap::from([("a".into(), "too much".to_owned())]), "b was read, c is new");
    }
}

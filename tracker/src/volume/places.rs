//! Where the files of a volume are: by the names that the catalog has, and by those that the running flush has seen.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use engine::flush::world::Record;
use engine::model::FileId;

use super::world::{VolumeWorld, WorldError};
use crate::catalog::CatalogError;
use crate::source::{Directory, SourceError};

impl VolumeWorld {
    /// Forgets what the last flush has seen.
    pub fn end_flush(&mut self) {
        self.placed.clear();
        self.moved.clear();
        self.pending.clear_fresh();
    }

    /// Path below the source; `None` when no name is known.
    pub fn path(&self, id: FileId) -> Result<Option<PathBuf>, CatalogError> {
        if self.moved.is_empty() {
            let mut names: Vec<&[u8]> = Vec::new();
            let mut at = id;
            while let Some(((parent, name), _)) = self.placed.get(&at) {
                names.push(name);
                at = *parent;
            }
            let Some(mut path) = self.catalog.path_of(at)? else { return Ok(None) };
            path.extend(names.into_iter().rev().map(OsStr::from_bytes));
            return Ok(Some(path));
        }
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut passed: HashSet<FileId> = HashSet::new();
        let mut at = id;
        while at != FileId::ROOT {
            let seen = self.moved.get(&at).or_else(|| self.placed.get(&at).map(|(place, _)| place));
            let place = match seen {
                // Names of two times can lead in a circle.
                Some(_) if !passed.insert(at) => return Ok(None),
                Some(place) => place.clone(),
                None => match self.catalog.names_of(at)?.into_iter().next() {
                    Some(place) => place,
                    None => return Ok(None),
                },
            };
            names.push(place.1);
            at = place.0;
        }
        Ok(Some(names.iter().rev().map(|name| OsStr::from_bytes(name)).collect()))
    }

    /// A handle for a file that gets a record for the first time; it proves later that an inode is gone.
    pub(super) fn handle(&self, record: &Record) -> Option<Vec<u8>> {
        if !self.placed.contains_key(&record.id) {
            return None;
        }
        let path = self.path(record.id).ok()??;
        self.root.handle(&path, record.inode).ok()?
    }

    /// Opens the directory `dir`; `None` if it is at its path no more, an inner error if it is and cannot be opened.
    #[expect(clippy::type_complexity, reason = "two kinds of failure, one of them an answer")]
    pub(super) fn directory(
        &self,
        dir: FileId,
    ) -> Result<Option<(PathBuf, Result<Directory, SourceError>)>, WorldError> {
        let Some(path) = self.path(dir)? else { return Ok(None) };
        let expect = match self.placed.get(&dir) {
            Some((_, inode)) => Some(*inode),
            None => self.catalog.file(dir)?.map(|row| row.inode),
        };
        match self.root.directory(&path) {
            Ok(opened) if Some(opened.inode()) != expect => Ok(None),
            Err(SourceError::Gone { .. } | SourceError::MountPoint { .. }) => Ok(None),
            opened => Ok(Some((path, opened))),
        }
    }
}

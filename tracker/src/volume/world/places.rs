//! Where the files of a volume are: by the catalog's names and by those that the running flush has seen.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use engine::catalog::Record;
use engine::flush::world::Moved;
use engine::model::{FileId, InodeId};

use super::error::WorldError;
use super::parts::VolumeWorld;
use super::paths::{MOST, Paths};
use crate::catalog::{CatalogError, MAX_DEPTH};
use crate::source::{Directory, SourceError};

impl VolumeWorld {
    /// Forgets what the last flush saw.
    pub fn end_flush(&mut self) {
        self.placed.clear();
        self.moved.clear();
        self.paths.get_mut().clear();
        self.pending.clear_fresh();
    }

    /// Records where a new file was seen.
    pub(crate) fn set_place(&mut self, id: FileId, parent: FileId, name: &[u8], inode: InodeId) {
        let place = (parent, name.to_vec());
        if self.placed.get(&id).is_none_or(|(before, _)| *before != place) {
            if self.placed.contains_key(&id) {
                self.paths.get_mut().clear();
            }
            self.placed.insert(id, (place, inode));
        } else if let Some((_, before)) = self.placed.get_mut(&id) {
            *before = inode;
        }
    }

    /// Records where known files were seen.
    pub(crate) fn set_moved(&mut self, places: &Moved) {
        if self.moved != *places {
            self.paths.get_mut().clear();
            self.moved.clone_from(places);
        }
    }

    /// Path below the source; `None` when no name is known.
    pub fn path(&self, id: FileId) -> Result<Option<PathBuf>, CatalogError> {
        let version = self.catalog.names_version();
        let mut paths = self.paths.borrow_mut();
        if paths.version != version || paths.steps.len() > MOST {
            paths.clear();
            paths.version = version;
        }
        self.find_path(id, &mut paths)?;
        Ok(paths.path(id))
    }

    /// Finds the path of `id` and adds it to `paths`. Adds nothing if no name is known, or the names lead nowhere.
    pub(crate) fn find_path(&self, id: FileId, paths: &mut Paths) -> Result<(), CatalogError> {
        let mut names: Vec<(FileId, Arc<[u8]>)> = Vec::new();
        let mut passed: HashSet<FileId> = HashSet::new();
        let mut at = id;
        loop {
            if let Some(above) = paths.find(at) {
                paths.add(above, names);
                return Ok(());
            }
            // Names from different moments can form a circle.
            if names.len() == MAX_DEPTH || !(self.moved.is_empty() || passed.insert(at)) {
                return Ok(());
            }
            let seen = self.moved.get(&at).or_else(|| self.placed.get(&at).map(|(place, _)| place));
            let place = match seen {
                Some((parent, name)) => Some((*parent, name.as_slice().into())),
                None => self.catalog.place_of(at, at != id)?,
            };
            let Some((above, name)) = place else { return Ok(()) };
            names.push((at, name));
            at = above;
        }
    }

    /// A handle for a file that gets its first record; it later proves that the inode is gone.
    pub(crate) fn handle(&self, record: &Record) -> Option<Vec<u8>> {
        if !self.placed.contains_key(&record.id) {
            return None;
        }
        let path = self.path(record.id).ok()??;
        self.root.handle(&path, record.inode).ok()?
    }

    /// Opens the directory `dir`; `None` if it is no longer at its path; an inner error if it is but cannot be opened.
    #[expect(clippy::type_complexity, reason = "two kinds of failure, one of them an answer")]
    pub(crate) fn directory(
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

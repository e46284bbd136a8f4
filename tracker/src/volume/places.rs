//! Where the files of a volume are: by the names that the catalog has, by those that the running flush has seen, and, for what
//! moved since, by handle.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use engine::flush::world::{FileError, Record};
use engine::model::{FileId, InodeId};

use super::world::{VolumeWorld, WorldError, unreadable};
use crate::catalog::CatalogError;
use crate::source::{Directory, SourceError};

/// A file that the catalog does not have yet.
pub(super) struct Placed {
    parent: FileId,
    name: Vec<u8>,
    inode: InodeId,
    handle: Option<Vec<u8>>,
}

impl VolumeWorld {
    pub(super) fn note_place(&mut self, id: FileId, parent: FileId, name: &[u8], inode: InodeId) {
        self.placed.insert(id, Placed { parent, name: name.to_vec(), inode, handle: None });
        let take = |path: PathBuf| self.root.handle(&path, inode).ok().flatten();
        let handle = self.path(id).ok().flatten().and_then(take).or_else(|| {
            let parent = self.whereabouts(parent)?;
            take(parent.join(OsStr::from_bytes(name)))
        });
        if let Some(placed) = self.placed.get_mut(&id) {
            placed.handle = handle;
        }
    }

    /// Forgets where new files of the last flush were seen.
    pub fn end_flush(&mut self) {
        self.placed.clear();
        self.pending.clear_fresh();
    }

    /// Path below the source; `None` when no name is known.
    pub fn path(&self, id: FileId) -> Result<Option<PathBuf>, CatalogError> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = id;
        while let Some(placed) = self.placed.get(&at) {
            names.push(&placed.name);
            at = placed.parent;
        }
        let Some(mut path) = self.catalog.path_of(at)? else { return Ok(None) };
        for name in names.into_iter().rev() {
            path.push(OsStr::from_bytes(name));
        }
        Ok(Some(path))
    }

    /// The inode that a file was last known as.
    pub(super) fn inode(&self, id: FileId) -> Result<Option<InodeId>, CatalogError> {
        match self.placed.get(&id) {
            Some(placed) => Ok(Some(placed.inode)),
            None => Ok(self.catalog.file(id)?.map(|row| row.inode)),
        }
    }

    /// Where a file is now by its handle; `None` where that does not tell.
    pub(super) fn whereabouts(&self, id: FileId) -> Option<PathBuf> {
        let (handle, inode) = match self.placed.get(&id) {
            Some(placed) => (placed.handle.clone()?, placed.inode),
            None => self.catalog.file(id).ok()?.and_then(|row| Some((row.handle?, row.inode)))?,
        };
        self.root.whereabouts(&handle, inode)
    }

    /// Does `what` at the path of a file, and once more at the one that it moved to.
    pub(super) fn at_its_path<T>(
        &self,
        id: FileId,
        what: impl Fn(&Path) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let done = match self.path(id).map_err(unreadable)? {
            Some(path) => what(&path),
            None => Err(FileError::Moved),
        };
        match done {
            Err(FileError::Moved) => self.whereabouts(id).map_or(Err(FileError::Moved), |path| what(&path)),
            done => done,
        }
    }

    /// The handle of a file that gets a record for the first time; it proves later that an inode is gone.
    pub(super) fn new_handle(&self, record: &Record) -> Option<Vec<u8>> {
        self.placed.get(&record.id)?.handle.clone()
    }

    /// Opens the directory `dir`; `None` if it is nowhere to be found, an inner error if it is and cannot be opened.
    #[expect(clippy::type_complexity, reason = "two kinds of failure, one of them an answer")]
    pub(super) fn directory(
        &self,
        dir: FileId,
    ) -> Result<Option<(PathBuf, Result<Directory, SourceError>)>, WorldError> {
        let expect = self.inode(dir)?;
        let open = |path: PathBuf| match self.root.directory(&path) {
            Ok(opened) if Some(opened.inode()) != expect => None,
            Err(SourceError::Gone { .. } | SourceError::MountPoint { .. }) => None,
            opened => Some((path, opened)),
        };
        let opened = self.path(dir)?.and_then(open);
        Ok(opened.or_else(|| self.whereabouts(dir).and_then(open)))
    }
}

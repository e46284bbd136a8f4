//! Caches the paths from files up to the source directory.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use engine::model::FileId;

/// Most names in one cache; with more it starts over.
pub(super) const MOST: usize = 200_000;
/// Stands for the source directory.
const TOP: u32 = u32::MAX;

/// Paths from files up to the source directory. A directory above many files is held once: as whole paths, a tree of a
/// thousand levels would take five hundred times as much memory.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    at: HashMap<FileId, u32>,
    /// Each name, with the index of its parent's.
    pub(super) steps: Vec<(u32, Arc<[u8]>)>,
    /// Version of the catalog's names.
    pub(super) version: u64,
}

impl Paths {
    pub(super) fn clear(&mut self) {
        self.at.clear();
        self.steps.clear();
    }

    pub(super) fn find(&self, id: FileId) -> Option<u32> {
        if id == FileId::ROOT { Some(TOP) } else { self.at.get(&id).copied() }
    }

    /// Adds names below `above`, the lowest first.
    pub(super) fn add(&mut self, above: u32, names: Vec<(FileId, Arc<[u8]>)>) {
        let mut above = above;
        for (id, name) in names.into_iter().rev() {
            let here = u32::try_from(self.steps.len()).unwrap_or(TOP);
            self.steps.push((above, name));
            self.at.insert(id, here);
            above = here;
        }
    }

    /// Path below the source; `None` if none was found.
    pub(crate) fn path(&self, id: FileId) -> Option<PathBuf> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = self.find(id)?;
        while at != TOP {
            let (above, name) = self.steps.get(at as usize)?;
            names.push(name);
            at = *above;
        }
        names.reverse();
        Some(OsString::from_vec(names.join(&b'/')).into())
    }
}

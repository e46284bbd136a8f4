//! Answers of the file system and the catalog, cached for one flush.

use std::collections::HashMap;

use super::world::{CommittedState, SourceTree};
use crate::catalog::Record;
use crate::model::{FileId, InodeId, Kind};
use crate::reconcile::Lookup;
use crate::source::{Alive, Named};

/// Caches the answers of one flush. A flush decides its plan several times; the cache makes each decision use the same
/// facts even if the tree changes meanwhile.
#[derive(Default)]
pub(super) struct Asked {
    direct: HashMap<(FileId, Vec<u8>), Named>,
    alive: HashMap<FileId, Alive>,
    /// The committed file of an inode. The cached answer stays true, since nothing is committed while a flush gathers.
    known: HashMap<(InodeId, Kind), Option<FileId>>,
}

pub(super) struct Answers<'a, W> {
    pub(super) world: &'a mut W,
    pub(super) asked: &'a mut Asked,
}

impl<W: SourceTree + CommittedState> Lookup for Answers<'_, W> {
    type Error = W::Error;

    fn by_inode(&mut self, inode: InodeId, kind: Kind) -> Result<Option<FileId>, W::Error> {
        if let Some(answer) = self.asked.known.get(&(inode, kind)) {
            return Ok(*answer);
        }
        let mut records = self.world.by_inode(inode.ino)?.into_iter();
        let found = records.find(|record| record.inode == inode && record.meta.kind == kind).map(|record| record.id);
        self.asked.known.insert((inode, kind), found);
        Ok(found)
    }

    fn all_by_inode(&mut self, inode: InodeId, kind: Kind) -> Result<Vec<FileId>, W::Error> {
        let records = self.world.by_inode(inode.ino)?.into_iter();
        Ok(records.filter(|record| record.inode == inode && record.meta.kind == kind).map(|record| record.id).collect())
    }

    fn record(&mut self, id: FileId) -> Result<Option<Record>, W::Error> {
        self.world.record(id)
    }

    fn names_of(&mut self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>, W::Error> {
        self.world.names_of(id)
    }

    fn children(&mut self, dir: FileId) -> Result<Vec<(Vec<u8>, FileId)>, W::Error> {
        self.world.children(dir)
    }

    fn direct(&mut self, dir: FileId, name: &[u8]) -> Result<Named, W::Error> {
        if let Some(answer) = self.asked.direct.get(&(dir, name.to_vec())) {
            return Ok(answer.clone());
        }
        let answer = self.world.lookup(dir, name)?;
        self.asked.direct.insert((dir, name.to_vec()), answer.clone());
        Ok(answer)
    }

    fn alive(&mut self, id: FileId) -> Result<Alive, W::Error> {
        if let Some(answer) = self.asked.alive.get(&id) {
            return Ok(*answer);
        }
        let answer = self.world.alive(id)?;
        self.asked.alive.insert(id, answer);
        Ok(answer)
    }

    fn is_of_one_moment(&self) -> bool {
        self.world.is_of_one_moment()
    }
}

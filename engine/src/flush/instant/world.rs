//! The view as a flush sees it: the tree from what is held, everything else as it is.

use std::cell::RefCell;

use super::view::View;
use crate::catalog::{CatalogChange, Head, Intent, Known, Missing, NodeKey, Record};
use crate::dirty::DirtySet;
use crate::flush::steps::Steps;
use crate::flush::world::{
    CommitStore, CommittedState, Count, Created, Fails, Live, Moved, Paused, SourceTree, WatchSet, World,
};
use crate::image::ImageError;
use crate::model::{FileId, Hash, Ino, InodeId, ObjectRef, Seq};
use crate::source::{Alive, Attributes, Entry, FileError, FileImage, Listed, Named, ReadJob};
use crate::tree::Memo;

impl<W: World> Fails for View<'_, W> {
    type Error = W::Error;

    fn plan_error(error: ImageError<W::Error>) -> W::Error {
        W::plan_error(error)
    }
}

impl<W: World> SourceTree for View<'_, W> {
    type File = W::File;

    fn list(&mut self, dir: FileId) -> Result<Listed, W::Error> {
        let inode = self.inode_of(dir)?;
        if let Some(found) = inode.and_then(|inode| self.listings.get(&inode)) {
            return Ok(found.clone());
        }
        if self.sealed && inode.is_some_and(|inode| self.nowhere.contains(&inode)) {
            return Ok(Listed::NotThere);
        }
        self.ask();
        let found = self.world.list(dir)?;
        match (inode, &found) {
            (Some(inode), Listed::Entries(_)) => _ = self.listings.insert(inode, found.clone()),
            (Some(inode), Listed::NotThere) => {
                self.nowhere.insert(inode);
                self.unsteady = true;
            }
            _ => self.unsteady = true,
        }
        Ok(found)
    }

    fn lookup(&mut self, dir: FileId, name: &[u8]) -> Result<Named, W::Error> {
        let inode = self.inode_of(dir)?;
        if let Some(found) = inode.and_then(|inode| self.named.get(&(inode, name.to_vec()))) {
            return Ok(found.clone());
        }
        self.ask();
        let found = self.world.lookup(dir, name)?;
        if let Some(inode) = inode {
            self.named.insert((inode, name.to_vec()), found.clone());
        }
        Ok(found)
    }

    fn alive(&mut self, id: FileId) -> Result<Alive, W::Error> {
        let inode = self.inode_of(id)?;
        if let Some(found) = inode.and_then(|inode| self.alive.get(&inode)) {
            return Ok(*found);
        }
        self.ask();
        let found = self.world.alive(id)?;
        if let Some(inode) = inode {
            self.alive.insert(inode, found);
        }
        Ok(found)
    }

    fn is_of_one_moment(&self) -> bool {
        // What is asked after the look is of a later moment.
        let holds = self.of_one_moment && !self.was_asked();
        self.moment_decided.set(self.moment_decided.get() || holds);
        holds
    }

    fn place(&mut self, id: FileId, parent: FileId, name: &[u8], inode: InodeId) {
        self.placed.insert(id, inode);
        self.world.place(id, parent, name, inode);
    }

    fn moved(&mut self, places: &Moved) {
        self.world.moved(places);
    }

    fn attributes(&mut self, id: FileId, inode: InodeId) -> Result<Attributes, FileError> {
        if let Some(found) = self.attributes.get(&inode) {
            return Ok(found.clone());
        }
        self.ask();
        let found = self.world.attributes(id, inode)?;
        self.attributes.insert(inode, found.clone());
        Ok(found)
    }

    fn read_files(&mut self, jobs: &[ReadJob], steps: Steps) -> Vec<Result<FileImage, FileError>> {
        let mut results: Vec<Option<Result<FileImage, FileError>>> = Vec::with_capacity(jobs.len());
        let mut first = Vec::new();
        for job in jobs {
            if let Some(image) = self.answer(job) {
                results.push(Some(Ok(image.clone())));
            } else if self.is_held(job.inode) {
                let again = self.refresh(job).and_then(|()| {
                    let image = self.answer(job).cloned();
                    image.ok_or(FileError::Unsteady { times: 1 })
                });
                results.push(Some(again));
            } else {
                first.push(job.clone());
                results.push(None);
            }
        }
        if !first.is_empty() {
            self.ask();
        }
        let mut read = self.world.read_files(&first, steps).into_iter();
        for (job, slot) in jobs.iter().zip(&mut results).filter(|(_, slot)| slot.is_none()) {
            let image = self.note(job.id, read.next().unwrap_or(Err(FileError::Late)));
            if let Ok(image) = &image {
                self.hold(job, image);
            }
            *slot = Some(image);
        }
        results.into_iter().map(|result| result.unwrap_or(Err(FileError::Late))).collect()
    }

    fn open(&mut self, job: &ReadJob) -> Result<W::File, FileError> {
        self.ask();
        self.world.open(job)
    }

    fn is_mapped(&mut self, file: &W::File) -> bool {
        self.world.is_mapped(file)
    }
}

impl<W: World> CommittedState for View<'_, W> {
    fn record(&self, id: FileId) -> Result<Option<Record>, W::Error> {
        self.world.record(id)
    }

    fn by_inode(&self, ino: Ino) -> Result<Vec<Record>, W::Error> {
        self.world.by_inode(ino)
    }

    fn children(&self, dir: FileId) -> Result<Vec<(Vec<u8>, FileId)>, W::Error> {
        self.world.children(dir)
    }

    fn known_in(&self, dir: FileId) -> Result<Vec<(Vec<u8>, Known)>, W::Error> {
        self.world.known_in(dir)
    }

    fn others_in(&self, dir: FileId, seen: &mut Vec<Entry>) -> Result<Vec<(Vec<u8>, Known)>, W::Error> {
        self.world.others_in(dir, seen)
    }

    fn names_of(&self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>, W::Error> {
        self.world.names_of(id)
    }

    fn node(&self, key: NodeKey) -> Result<Option<Vec<u8>>, W::Error> {
        self.world.node(key)
    }

    fn signature(&self, id: FileId, group: u64) -> Result<Option<Vec<u8>>, W::Error> {
        self.world.signature(id, group)
    }

    fn memo(&self) -> Option<&RefCell<Memo>> {
        self.world.memo()
    }

    fn files(&self) -> Result<u64, W::Error> {
        self.world.files()
    }

    fn missing(&self) -> Result<Vec<Missing>, W::Error> {
        self.world.missing()
    }

    fn next_id(&self) -> Result<FileId, W::Error> {
        self.world.next_id()
    }

    fn head(&self) -> Result<Head, W::Error> {
        self.world.head()
    }

    fn intent(&self) -> Result<Option<Intent>, W::Error> {
        self.world.intent()
    }

    fn bind(&mut self, inodes: &[(FileId, InodeId)]) -> Result<(), W::Error> {
        self.world.bind(inodes)
    }

    fn begin_commit(&mut self, intent: &Intent, change: CatalogChange) -> Result<(), W::Error> {
        self.world.begin_commit(intent, change)
    }

    fn settle(&mut self, head: Head, taken: &[Ino], kept: &DirtySet) -> Result<(), W::Error> {
        self.world.settle(head, taken, kept)
    }

    fn forget(
        &mut self,
        records: Vec<Record>,
        missing: Vec<Missing>,
        taken: &[Ino],
        kept: &DirtySet,
    ) -> Result<(), W::Error> {
        self.world.forget(records, missing, taken, kept)
    }
}

impl<W: World> CommitStore for View<'_, W> {
    fn era_before(&mut self, seq: Seq) -> Result<Option<Hash>, W::Error> {
        self.world.era_before(seq)
    }

    fn era_closed_by_other(&mut self, seq: Seq) -> Result<bool, W::Error> {
        self.world.era_closed_by_other(seq)
    }

    fn next_attempt(&mut self) -> Result<u32, W::Error> {
        self.world.next_attempt()
    }

    fn put_pack(&self, at: ObjectRef, bytes: Vec<u8>) -> Result<(), W::Error> {
        self.world.put_pack(at, bytes)
    }

    fn create_commit(&mut self, seq: Seq, bytes: &[u8]) -> Result<Created, W::Error> {
        self.world.create_commit(seq, bytes)
    }

    fn read_commit(&mut self, seq: Seq) -> Result<Option<Vec<u8>>, W::Error> {
        self.world.read_commit(seq)
    }

    fn commit_damaged(&mut self, seq: Seq, cause: &str) {
        self.world.commit_damaged(seq, cause);
    }
}

impl<W: World> WatchSet for View<'_, W> {
    fn watch(&mut self, inodes: &[Ino]) -> Result<(), W::Error> {
        let fresh: Vec<Ino> = inodes.iter().copied().filter(|ino| self.watched.insert(*ino)).collect();
        self.world.watch(&fresh)
    }

    fn unwatch(&mut self, inodes: &[Ino]) -> Result<(), W::Error> {
        self.world.unwatch(inodes)
    }

    fn count(&mut self) -> Result<Count, W::Error> {
        self.world.count()
    }

    fn live(&mut self) -> Result<Live, W::Error> {
        self.world.live()
    }

    fn is_sure(&mut self) -> Result<bool, W::Error> {
        self.world.is_sure()
    }

    fn hurry(&mut self, looking: bool) {
        self.world.hurry(looking);
    }

    fn try_again(&mut self, tries: u32) -> Result<bool, W::Error> {
        self.world.try_again(tries)
    }

    fn is_late(&self) -> bool {
        self.world.is_late()
    }

    fn freeze(&mut self) -> Result<Paused, W::Error> {
        self.world.freeze()
    }

    fn thaw(&mut self) -> Result<u32, W::Error> {
        self.world.thaw()
    }
}

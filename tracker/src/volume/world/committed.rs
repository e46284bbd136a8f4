//! The committed state as a flush sees it: the catalog, with the pending marks.

use std::cell::RefCell;

use engine::catalog::{CatalogChange, Head, Intent, Known, Missing, NodeKey, Record};
use engine::dirty::DirtySet;
use engine::flush::world::CommittedState;
use engine::model::{FileId, Ino, InodeId};
use engine::source::Entry;
use engine::tree::Memo;

use super::error::WorldError;
use super::parts::VolumeWorld;
use super::timestamp_granularity;
use crate::catalog::Handles;
use crate::test_switches;

impl CommittedState for VolumeWorld {
    fn record(&self, id: FileId) -> Result<Option<Record>, WorldError> {
        Ok(self.catalog.file(id)?)
    }

    fn by_inode(&self, ino: Ino) -> Result<Vec<Record>, WorldError> {
        Ok(self.catalog.by_ino(ino)?)
    }

    fn children(&self, dir: FileId) -> Result<Vec<(Vec<u8>, FileId)>, WorldError> {
        Ok(self.catalog.children(dir)?)
    }

    fn known_in(&self, dir: FileId) -> Result<Vec<(Vec<u8>, Known)>, WorldError> {
        Ok(self.catalog.known_in(dir)?)
    }

    fn others_in(&self, dir: FileId, seen: &mut Vec<Entry>) -> Result<Vec<(Vec<u8>, Known)>, WorldError> {
        Ok(self.catalog.others_in(dir, seen)?)
    }

    fn names_of(&self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>, WorldError> {
        Ok(self.catalog.names_of(id)?)
    }

    fn node(&self, (file, level, index): NodeKey) -> Result<Option<Vec<u8>>, WorldError> {
        Ok(self.catalog.node(file, level, index)?)
    }

    fn signature(&self, id: FileId, group: u64) -> Result<Option<Vec<u8>>, WorldError> {
        Ok(self.catalog.sig(id, group)?)
    }

    fn memo(&self) -> Option<&RefCell<Memo>> {
        Some(&self.memo)
    }

    fn files(&self) -> Result<u64, WorldError> {
        Ok(self.catalog.files()?)
    }

    fn missing(&self) -> Result<Vec<Missing>, WorldError> {
        Ok(self.catalog.load_missing()?)
    }

    fn next_id(&self) -> Result<FileId, WorldError> {
        Ok(self.catalog.next_id()?)
    }

    fn head(&self) -> Result<Head, WorldError> {
        Ok(self.catalog.head()?.unwrap_or_default())
    }

    fn intent(&self) -> Result<Option<Intent>, WorldError> {
        Ok(self.catalog.intent()?)
    }

    fn bind(&mut self, inodes: &[(FileId, InodeId)]) -> Result<(), WorldError> {
        self.bind_files(inodes)
    }

    fn begin_commit(&mut self, intent: &Intent, mut change: CatalogChange) -> Result<(), WorldError> {
        let mut handles = Handles::new();
        for record in &mut change.records {
            handles.extend(self.handle(record).map(|handle| (record.id, handle)));
            self.forget_recent_ctime(record);
        }
        test_switches::hit("before-intent");
        self.catalog.begin_commit(intent, &change, &handles)?;
        test_switches::hit("intent");
        Ok(())
    }

    fn settle(&mut self, head: Head, taken: &[Ino], kept: &DirtySet) -> Result<(), WorldError> {
        test_switches::hit("before-settle");
        self.pending.settle(head, taken, kept)?;
        test_switches::hit("settle");
        Ok(())
    }

    fn forget(
        &mut self,
        mut records: Vec<Record>,
        missing: Vec<Missing>,
        taken: &[Ino],
        kept: &DirtySet,
    ) -> Result<(), WorldError> {
        records.iter_mut().for_each(|record| self.forget_recent_ctime(record));
        let change = CatalogChange { records, missing: Some(missing), ..CatalogChange::default() };
        Ok(self.pending.forget(&change, taken, kept)?)
    }
}

impl VolumeWorld {
    /// Forgets a change time that a later change could also get: the file is then compared by its content.
    fn forget_recent_ctime(&self, record: &mut Record) {
        record.ctime = record.ctime.and_then(|ctime| timestamp_granularity::settled(ctime, self.began));
    }

    pub(crate) fn bind_files(&self, inodes: &[(FileId, InodeId)]) -> Result<(), WorldError> {
        let mut change = CatalogChange::default();
        for (id, inode) in inodes {
            if let Some(record) = self.catalog.file(*id)? {
                change.records.push(Record { inode: *inode, ctime: None, ..record });
            }
        }
        if change.records.is_empty() { Ok(()) } else { Ok(self.catalog.apply(&change)?) }
    }
}

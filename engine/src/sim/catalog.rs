//! The model's catalog, which survives the daemon.

use std::collections::BTreeMap;

use super::check::VOLUME;
use super::places::walk;
use super::world::{SimError, SimWorld};
use crate::catalog::{CatalogChange, Head, Intent, Missing, NodeKey, Record};
use crate::dirty::DirtySet;
use crate::flush::world::CommittedState;
use crate::format::commit::{self, Expect};
use crate::model::{Consistency, FileId, Ino, InodeId, Kind, NameChange};

impl CommittedState for SimWorld {
    fn record(&self, id: FileId) -> Result<Option<Record>, SimError> {
        Ok(self.catalog.records.get(&id).cloned())
    }

    fn by_inode(&self, ino: Ino) -> Result<Vec<Record>, SimError> {
        self.inner.borrow_mut().asked += 1;
        Ok(self.catalog.records.values().filter(|record| record.inode.ino == ino).cloned().collect())
    }

    fn children(&self, dir: FileId) -> Result<Vec<(Vec<u8>, FileId)>, SimError> {
        Ok(self.catalog.names.iter().filter(|((p, _), _)| *p == dir).map(|((_, n), id)| (n.clone(), *id)).collect())
    }

    fn names_of(&self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>, SimError> {
        Ok(self.catalog.names.iter().filter(|(_, i)| **i == id).map(|(place, _)| place.clone()).collect())
    }

    fn node(&self, key: NodeKey) -> Result<Option<Vec<u8>>, SimError> {
        Ok(self.catalog.nodes.get(&key).cloned())
    }

    fn signature(&self, id: FileId, group: u64) -> Result<Option<Vec<u8>>, SimError> {
        Ok(self.catalog.signatures.get(&(id, group)).cloned())
    }

    fn files(&self) -> Result<u64, SimError> {
        Ok(self.catalog.records.values().filter(|record| record.meta.kind != Kind::Dir).count() as u64)
    }

    fn missing(&self) -> Result<Vec<Missing>, SimError> {
        Ok(self.catalog.missing.clone())
    }

    fn next_id(&self) -> Result<FileId, SimError> {
        Ok(self.catalog.next_id)
    }

    fn head(&self) -> Result<Head, SimError> {
        Ok(self.catalog.head)
    }

    fn intent(&self) -> Result<Option<Intent>, SimError> {
        Ok(self.catalog.intent.clone())
    }

    fn bind(&mut self, inodes: &[(FileId, InodeId)]) -> Result<(), SimError> {
        self.bind_files(inodes)
    }

    fn begin_commit(&mut self, intent: &Intent, change: CatalogChange) -> Result<(), SimError> {
        self.step()?;
        let catalog = &mut self.catalog;
        for id in &change.gone {
            catalog.nodes.retain(|(file, _, _), _| file != id);
            catalog.signatures.retain(|(file, _), _| file != id);
        }
        for (key, blob) in change.nodes {
            match blob {
                Some(blob) => catalog.nodes.insert(key, blob),
                None => catalog.nodes.remove(&key),
            };
        }
        for (key, blob) in change.signatures {
            match blob {
                Some(blob) => catalog.signatures.insert(key, blob),
                None => catalog.signatures.remove(&key),
            };
        }
        for record in change.records {
            catalog.records.insert(record.id, record);
        }
        apply_names(&mut catalog.names, &change.names);
        let put = commit::decode(&intent.bytes, Expect { volume: VOLUME, seq: intent.seq });
        let put = put.map_err(|error| SimError::Tree(error.to_string()))?;
        // Of one instant: that is held against the tree of that instant.
        let instant = put.header.consistency.is_some_and(Consistency::is_instant);
        // What was held when the tree was quiet is content of the names that it had then.
        let was_at = |id: FileId, path: &[Vec<u8>]| {
            let inode = catalog.records.get(&id).map(|record| record.inode.ino);
            self.at_count.as_ref().is_some_and(|files| walk(files, path) == inode)
        };
        if let Some(id) = self.opened.borrow().elsewhere(&put.changes, &catalog.names, was_at).filter(|_| !instant) {
            return Err(SimError::Elsewhere(id));
        }
        if let Some(files) = self.at_count.take().filter(|_| instant) {
            self.claims.insert(intent.seq, files);
            let paused = matches!(put.header.consistency, Some(Consistency::Instant { pause_us: 1.., .. }));
            self.paused_instants += u64::from(paused);
        }
        for id in &change.gone {
            catalog.records.remove(id);
        }
        if let Some(missing) = change.missing {
            catalog.missing = missing;
        }
        catalog.next_id = catalog.next_id.max(change.next_id.unwrap_or_default());
        catalog.intent = Some(intent.clone());
        self.step()
    }

    fn settle(&mut self, head: Head, taken: &[Ino], kept: &DirtySet) -> Result<(), SimError> {
        self.step()?;
        self.catalog.head = head;
        self.catalog.intent = None;
        self.forget_pending(taken, kept);
        self.step()
    }

    fn forget(
        &mut self,
        records: Vec<Record>,
        missing: Vec<Missing>,
        taken: &[Ino],
        kept: &DirtySet,
    ) -> Result<(), SimError> {
        self.step()?;
        for record in records {
            self.catalog.records.insert(record.id, record);
        }
        self.catalog.missing = missing;
        self.forget_pending(taken, kept);
        self.step()
    }
}

/// Applies the name changes of one commit: all removals, then all settings.
fn apply_names(names: &mut BTreeMap<(FileId, Vec<u8>), FileId>, changes: &[NameChange]) {
    for change in changes {
        if let NameChange::Unset { parent, name } = change {
            names.remove(&(*parent, name.clone()));
        }
    }
    for change in changes {
        if let NameChange::Set { parent, name, id } = change {
            names.insert((*parent, name.clone()), *id);
        }
    }
}

impl SimWorld {
    pub(super) fn forget_pending(&mut self, taken: &[Ino], kept: &DirtySet) {
        for ino in taken {
            self.catalog.pending.remove(ino);
        }
        for (ino, waiting) in kept.iter() {
            self.catalog.pending.entry(ino).or_default().merge(&waiting.marks);
        }
    }
}

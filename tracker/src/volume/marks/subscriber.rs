//! What one volume has at the dispatcher.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::dirty::Marks;
use engine::model::{Dev, FileId, Ino, Kind};
use parking_lot::Mutex;

use crate::capture::quiet::{QuietProbe, slot_of};
use crate::catalog::{Catalog, CatalogError};
use crate::volume::clock::now_ns;
use crate::volume::marks::waiting::Pending;

/// Receives one volume's marks.
#[derive(Debug)]
pub struct Subscriber {
    pub volume: String,
    /// Superblock, in the kernel's encoding.
    pub dev: Dev,
    pub catalog: Arc<Catalog>,
    pub pending: Arc<Pending>,
    /// Causes of full re-reads since they were last taken, and how often each occurred.
    pub rereads: Mutex<BTreeMap<String, u64>>,
    /// Where the kernel counts its changes.
    pub slot: u32,
    /// What the last drain found counted there, and what tells what is counted now. `None`: there was no drain yet.
    counted: Mutex<Option<(Arc<QuietProbe>, u64)>>,
}

impl Subscriber {
    pub fn new(volume: &str, dev: Dev, catalog: Arc<Catalog>, pending: Arc<Pending>) -> Subscriber {
        let slot = slot_of(volume);
        Subscriber {
            volume: volume.to_owned(),
            dev,
            catalog,
            pending,
            rereads: Mutex::default(),
            slot,
            counted: Mutex::default(),
        }
    }

    /// A drain that began when `probe` told this number has ended.
    pub(crate) fn drained(&self, probe: &Arc<QuietProbe>, counted: u64) {
        *self.counted.lock() = Some((Arc::clone(probe), counted));
    }

    /// The capture ends: what it has counted tells nothing any more.
    pub(crate) fn forget_counted(&self) {
        *self.counted.lock() = None;
    }

    /// Whether nothing was marked since the last drain, by whichever volume, and nothing waits: another drain would bring nothing.
    pub fn is_idle(&self) -> bool {
        let is_still = self.counted.lock().as_ref().is_some_and(|(probe, then)| probe.marked(self.slot) == *then);
        is_still && !self.pending.has_any_except(false, |_, _| false) && self.pending.unsaved() == 0
    }

    pub(crate) fn note_reread(&self, cause: &str) {
        let mut rereads = self.rereads.lock();
        *rereads.entry(cause.to_owned()).or_default() += 1;
    }

    /// Makes a full re-read of the volume pending, for the files that `only` selects: each file is read again and compared,
    /// each directory listed. Includes files that a running flush is about to commit.
    pub fn widen(&self, cause: &str, only: impl Fn(Ino) -> bool) -> Result<u64, CatalogError> {
        self.note_reread(cause);
        let fresh = self.pending.fresh().into_iter().filter(|ino| only(*ino));
        let fresh: Vec<(Ino, Marks)> = fresh.map(|ino| (ino, Marks { names: true, ..Marks::rescan() })).collect();
        self.pending.add(&fresh, now_ns())?;
        let (mut after, mut count) = (FileId(0), fresh.len() as u64);
        loop {
            let rows = self.catalog.files_after(after, 4096)?;
            let Some(last) = rows.last() else { return Ok(count) };
            after = last.id;
            let marks: Vec<(Ino, Marks)> = rows
                .iter()
                .filter(|row| only(row.inode.ino))
                .map(|row| (row.inode.ino, if row.meta.kind == Kind::Dir { Marks::names() } else { Marks::rescan() }))
                .collect();
            count += marks.len() as u64;
            self.pending.add(&marks, now_ns())?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flush may have read the file already and commit it only afterwards.
    #[test]
    fn a_full_reread_reaches_files_that_are_not_in_the_catalog_yet() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Arc::new(Catalog::open_or_create(&folder.path().join("catalog")).unwrap());
        let pending = Arc::new(Pending::load(Arc::clone(&catalog)).unwrap());
        let subscriber = Subscriber::new("v", Dev::of_kernel(1), catalog, pending);
        subscriber.pending.add_fresh(&[Ino(7), Ino(8)]);
        assert_eq!(subscriber.widen("kernel map full", |ino| ino == Ino(7)).unwrap(), 1);
        assert!(subscriber.pending.marks(Ino(7)).is_some_and(|marks| marks.rescan && marks.names));
        assert_eq!(subscriber.pending.marks(Ino(8)), None);
    }
}

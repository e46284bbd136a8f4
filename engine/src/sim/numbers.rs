//! A file system without generations: it reuses inode numbers while it is mounted, and renumbers all files when it is
//! mounted again. It is flushed as the scan back end does it, and files of equal size and time are common.

use std::collections::{BTreeMap, BTreeSet};

use super::files::{Files, OUTSIDE, ROOT};
use super::world::{SimError, SimWorld};
use crate::dirty::{DirtySet, Marks};
use crate::flush::Steps;
use crate::flush::rebind::{is_void, rebind};
use crate::model::{BLOCK_BYTES, FileId, Ino, InodeId, Kind};

/// How far inode numbers and times identify files and changes.
#[derive(Clone, Debug)]
pub(super) enum Numbers {
    /// A generation tells two holders of a number apart, and no two changes have the same time.
    Lasting,
    /// No generation. A change can be told only by its time under one name; the map has the newest time of each name.
    OfOneMount(BTreeMap<Vec<u8>, u64>),
}

impl Numbers {
    pub(super) fn generation(&self, generation: u64) -> u64 {
        if matches!(self, Numbers::Lasting) { generation } else { 0 }
    }

    /// The time of a change after `before`.
    pub(super) fn changed(&self, before: u64, clock: u64) -> u64 {
        if matches!(self, Numbers::Lasting) { clock } else { before + 1 }
    }

    /// Rounded to whole blocks, at least so many, where sizes are to be equal.
    pub(super) fn rounded(&self, bytes: u64, least: u64) -> u64 {
        match self {
            Numbers::Lasting => bytes,
            Numbers::OfOneMount(_) => (bytes / BLOCK_BYTES / 2).max(least) * BLOCK_BYTES,
        }
    }
}

impl Files {
    /// Called before a name leads to another inode.
    pub(super) fn leaves(&mut self, dir: Ino, name: &[u8]) {
        let Some(time) = self.entry(dir, name).and_then(|ino| self.inodes.get(&ino)).map(|inode| inode.time) else {
            return;
        };
        if let Numbers::OfOneMount(times) = &mut self.numbers {
            let newest = times.entry(name.to_vec()).or_default();
            *newest = time.max(*newest);
        }
    }

    /// A name leads to another inode: give it a time that no file had under this name.
    pub(super) fn arrives(&mut self, name: &[u8], ino: Ino) {
        if let Numbers::OfOneMount(times) = &self.numbers
            && let Some(inode) = self.inodes.get_mut(&ino)
        {
            inode.time = inode.time.max(times.get(name).copied().unwrap_or_default() + 1);
        }
    }

    /// Called after a change that marks but sets no time: a scan needs a new time.
    pub(super) fn seen_by_time_alone(&mut self, ino: Ino) {
        if let (Numbers::OfOneMount(_), Some(inode)) = (&self.numbers, self.inodes.get_mut(&ino)) {
            inode.time += 1;
        }
    }

    /// Sets one time on everything, as `touch -d` does, newer than any other.
    pub(super) fn touch_all(&mut self) {
        let newest = self.inodes.values().map(|inode| inode.time).max().unwrap_or_default();
        self.inodes.values_mut().for_each(|inode| inode.time = newest + 1);
    }

    /// A new mount: all inodes but the roots are renumbered in another order.
    fn renumber(&mut self) {
        self.quiesce();
        let mut old: Vec<Ino> = self.inodes.keys().copied().filter(|ino| *ino != ROOT && *ino != OUTSIDE).collect();
        let mut numbers = BTreeMap::from([(ROOT, ROOT), (OUTSIDE, OUTSIDE)]);
        while !old.is_empty() {
            let at = self.rng.below(old.len() as u64) as usize;
            numbers.insert(old.swap_remove(at), Ino(3 + numbers.len() as u64));
        }
        self.next_ino = 3 + numbers.len() as u64;
        self.free.clear();
        let inodes = std::mem::take(&mut self.inodes).into_iter();
        self.inodes = inodes
            .map(|(ino, mut inode)| {
                inode.entries.iter_mut().for_each(|(_, ino)| *ino = numbers[ino]);
                (numbers[&ino], inode)
            })
            .collect();
    }
}

impl SimWorld {
    /// A world on a file system without generations.
    pub(super) fn without_generations(seed: u64) -> SimWorld {
        let mut world = SimWorld::new(seed);
        world.inner.borrow_mut().files.numbers = Numbers::OfOneMount(BTreeMap::new());
        if let Some(root) = world.catalog.records.get_mut(&FileId::ROOT) {
            root.inode.generation = 0;
        }
        world
    }

    pub(super) fn has_generations(&self) -> bool {
        matches!(self.inner.borrow().files.numbers, Numbers::Lasting)
    }

    /// The daemon ended, the file system was mounted again, and the daemon starts.
    pub(super) fn remount(&mut self, steps: Steps) -> Result<(), SimError> {
        self.restart();
        self.inner.borrow_mut().files.renumber();
        self.inner.borrow_mut().unreadable = BTreeSet::new();
        if !steps.rebind {
            return Ok(());
        }
        loop {
            match rebind(self, |record| is_void(record.inode)) {
                Err(SimError::Crash) => self.restart(),
                done => return done.map(drop),
            }
        }
    }

    /// What a scan takes: all that is pending, and every directory.
    pub(super) fn scanned(&self, taken: &mut DirtySet, round: u64) {
        self.opened.take();
        let records = self.catalog.records.values();
        for dir in records.filter(|record| record.meta.kind == Kind::Dir && record.inode.ino != Ino::NONE) {
            taken.add(dir.inode.ino, &Marks::names(), round);
        }
    }

    pub(super) fn bind_files(&mut self, inodes: &[(FileId, InodeId)]) -> Result<(), SimError> {
        if !self.inner.borrow_mut().step() {
            return Err(SimError::Crash);
        }
        for (id, inode) in inodes {
            if let Some(record) = self.catalog.records.get_mut(id) {
                (record.inode, record.ctime) = (*inode, None);
            }
        }
        Ok(())
    }
}

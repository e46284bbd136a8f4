//! Exchanging blocks of the disk: a file's pages in memory keep the old content, and give way later without an event.

use std::collections::BTreeSet;

use super::files::{BLOCK, BLOCKS_MAX, Files, Inode};
use super::stalled::Stalled;
use crate::dirty::Marks;
use crate::model::{BLOCK_BYTES, Ino, Kind};

impl Files {
    /// Exchanges a block of a file with a block that was never written; no time is set. Only of committed files.
    pub(super) fn exchange(&mut self) {
        if self.rng.one_in(2) {
            // Memory is needed.
            if let Some(ino) = self.pick(Kind::File) {
                self.drop_pages(ino);
            }
            return;
        }
        let Some(ino) = self.pick(Kind::File).filter(|ino| !self.locked(*ino)) else { return };
        let busy = self.stalled.iter().any(|s| matches!(s, Stalled::Direct { ino: writing, .. } if *writing == ino));
        let generation = self.inodes.get(&ino).map_or(0, |inode| inode.generation);
        if busy || !self.committed.contains(&(ino, generation)) {
            return;
        }
        let block = self.rng.below(BLOCKS_MAX);
        let mut marks = Marks { remapped: true, ..Marks::default() };
        marks.mark_bytes(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
        self.kernel.mark(&mut self.rng, ino, marks);
        self.stalled.push(Stalled::Punch { ino, block, keeps_page: true });
    }

    /// Takes note of which files are committed. What is not, or not any more, is not promised: its pages and blocks agree.
    pub(super) fn set_committed(&mut self, committed: BTreeSet<(Ino, u64)>) {
        self.committed = committed;
        for (ino, inode) in &mut self.inodes {
            if self.committed.contains(&(*ino, inode.generation)) {
                continue;
            }
            inode.stale.clear();
            for stalled in &mut self.stalled {
                if let Stalled::Punch { ino: held, keeps_page, .. } = stalled
                    && held == ino
                {
                    *keeps_page = false;
                }
            }
        }
    }

    /// The clean pages of a file leave memory.
    pub(super) fn drop_pages(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.stale.clear();
        }
    }
}

impl Inode {
    /// The block gets another one of the disk, if its page is clean, and keeps the page.
    pub(super) fn exchange(&mut self, block: u64) {
        let at = block as usize * BLOCK;
        let end = (at + BLOCK).min(self.data.len());
        if at < end && !self.dirty.contains(&block) && !self.writable.contains(&block) {
            let page = self.cached()[at..end].to_vec();
            self.data[at..end].fill(0);
            self.holes.insert(block);
            self.stale.insert(block, page);
        }
    }

    /// The page becomes dirty, so what is in memory counts.
    pub(super) fn takes_page(&mut self, block: u64) {
        if let Some(page) = self.stale.remove(&block) {
            place(&mut self.data, block, &page);
            self.holes.remove(&block);
        }
    }

    /// The content as it is read through the pages in memory.
    pub(super) fn cached(&self) -> Vec<u8> {
        let mut data = self.data.clone();
        self.stale.iter().for_each(|(block, page)| place(&mut data, *block, page));
        data
    }
}

fn place(data: &mut [u8], block: u64, page: &[u8]) {
    let rest = data.get_mut(block as usize * BLOCK..).unwrap_or_default();
    let len = rest.len().min(page.len());
    rest[..len].copy_from_slice(&page[..len]);
}

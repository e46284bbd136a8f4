//! Punching a hole, and writing directly: the mark comes first, the bytes change later, for a hole under the inode lock.

use super::files::{BLOCKS_MAX, Files};
use super::stalled::Stalled;
use crate::dirty::Marks;
use crate::model::{BLOCK_BYTES, Ino, Kind};

impl Files {
    pub(super) fn punch(&mut self) {
        let Some(ino) = self.pick(Kind::File).filter(|ino| !self.locked(*ino)) else { return };
        let block = self.rng.below(BLOCKS_MAX);
        let mut marks = Marks::meta();
        marks.mark_bytes(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
        self.tick(ino);
        self.kernel.mark(&mut self.rng, ino, marks);
        self.stalled.push(Stalled::Punch { ino, block, keeps_page: false });
    }

    pub(super) fn direct(&mut self) {
        if let Some(ino) = self.pick(Kind::File).filter(|ino| !self.locked(*ino)) {
            self.direct_to(ino);
        }
    }

    pub(super) fn direct_to(&mut self, ino: Ino) {
        let size = self.inodes.get(&ino).map_or(0, |inode| inode.data.len() as u64);
        let blocks = size / BLOCK_BYTES;
        if blocks == 0 {
            return;
        }
        let (block, fill) = (self.rng.below(blocks), self.rng.below(250) as u8 + 1);
        let count = 1 + self.rng.below(blocks - block);
        self.token += 1;
        let (token, start, end) = (self.token, block * BLOCK_BYTES, (block + count) * BLOCK_BYTES);
        self.kernel.in_flight.insert(token, (ino, start, end));
        let mut marks = Marks::meta();
        marks.mark_bytes(start, end);
        self.kernel.mark(&mut self.rng, ino, marks);
        self.stalled.push(Stalled::Direct { token, ino, block, count, fill });
    }
}

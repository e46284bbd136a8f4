//! Punching a hole: the mark comes first, the bytes change later, under the inode lock.

use super::files::{BLOCKS_MAX, Files};
use super::stalled::Stalled;
use crate::dirty::Marks;
use crate::model::{BLOCK_BYTES, Kind};

impl Files {
    pub(super) fn punch(&mut self) {
        let Some(ino) = self.pick(Kind::File).filter(|ino| !self.locked(*ino)) else { return };
        let block = self.rng.below(BLOCKS_MAX);
        let mut marks = Marks::meta();
        marks.mark_bytes(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
        self.tick(ino);
        self.kernel.mark(&mut self.rng, ino, marks);
        self.stalled.push(Stalled::Punch { ino, block });
    }
}

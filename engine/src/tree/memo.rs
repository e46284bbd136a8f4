//! The values of parts of groups that were folded before: a group that changes is folded again only where it changed.
//!
//! What is remembered is found by the value of the whole group. That is a hash of all its bytes, so what is found was right for the same
//! content, whichever file and commit it was of.

use std::collections::HashMap;

use crate::block::GROUP_BLOCKS;

/// Parts of a group.
pub(super) const PARTS: usize = 16;
/// Blocks of a part. A subtree of the group, since both are powers of two.
pub(super) const PART_BLOCKS: usize = GROUP_BLOCKS as usize / PARTS;
/// Groups that are remembered in each half: together 4 MiB, of 8 GiB of content that changes again and again.
const HALF: usize = 2048;

/// Which parts of a group changed: a bit for each.
pub(super) type Parts = u16;
/// All of them, or it is not known which.
pub(super) const ALL_PARTS: Parts = Parts::MAX;

const _: () = assert!(Parts::BITS as usize == PARTS);

/// The part of a block, as a bit.
pub(super) fn part_of(index: u64) -> Parts {
    1 << ((index % GROUP_BLOCKS) as usize / PART_BLOCKS)
}

/// Chaining values of all parts of a group.
pub(super) type PartValues = [[u8; 32]; PARTS];

/// Parts of the groups that were folded last, by the value of the group.
#[derive(Clone, Debug, Default)]
pub struct Memo {
    young: HashMap<[u8; 32], PartValues>,
    /// Forgotten when `young` is full, which then takes its place.
    old: HashMap<[u8; 32], PartValues>,
}

impl Memo {
    /// How many groups are remembered.
    #[cfg(test)]
    pub(super) fn groups(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Forgets the group of this value, whose content is about to be another.
    pub(super) fn take(&mut self, group: &[u8; 32]) -> Option<PartValues> {
        self.young.remove(group).or_else(|| self.old.remove(group))
    }

    pub(super) fn put(&mut self, group: [u8; 32], parts: PartValues) {
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(group, parts);
    }
}

//! Groups of blocks as the kernel marks them, and the block indexes that they mean.

use common::{
    limits::GROUP_BLOCKS,
    maps::{GroupKey, GroupMarks},
};
use engine::model::{Dev, Ino};
use roaring::RoaringBitmap;

/// A group of blocks of one inode, and its marks.
pub(super) type Group = (GroupKey, GroupMarks);

/// The inode of a group.
pub(super) fn inode_of((key, _): &Group) -> (Dev, Ino) {
    (Dev::of_kernel(key.dev), Ino(key.ino))
}

/// Inserts the marked blocks of a group; false: they lie beyond 16 TiB, where block indexes no longer fit into the bitmap.
pub(super) fn insert_group(blocks: &mut RoaringBitmap, (key, marks): &Group) -> bool {
    let last = u64::from(key.group) * GROUP_BLOCKS + GROUP_BLOCKS - 1;
    let Ok(last) = u32::try_from(last) else { return false };
    insert_bits(blocks, last - (GROUP_BLOCKS as u32 - 1), &marks.bits);
    true
}

fn insert_bits(blocks: &mut RoaringBitmap, base: u32, bits: &[u64]) {
    for (index, &word) in bits.iter().enumerate() {
        let first = base + index as u32 * 64;
        if word == u64::MAX {
            blocks.insert_range(first..=first + 63);
            continue;
        }
        let mut left = word;
        while left != 0 {
            blocks.insert(first + left.trailing_zeros());
            left &= left - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_become_block_indexes() {
        let mut blocks = RoaringBitmap::new();
        insert_bits(&mut blocks, 1024, &[1 | 1 << 63, u64::MAX, 0, 0, 0, 0, 0, 1 << 5]);
        let mut expected: Vec<u32> = vec![1024, 1024 + 63];
        expected.extend(1088..1152);
        expected.push(1024 + 7 * 64 + 5);
        assert_eq!(blocks.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_last_group_a_bitmap_can_hold_does_not_wrap() {
        let mut blocks = RoaringBitmap::new();
        insert_bits(&mut blocks, u32::MAX - 511, &[0, 0, 0, 0, 0, 0, 0, u64::MAX]);
        assert_eq!(blocks.max(), Some(u32::MAX));
        assert_eq!(blocks.len(), 64);
    }
}

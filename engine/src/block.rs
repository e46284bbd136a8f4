//! Arithmetic of blocks (4 KiB), groups (512 blocks, 2 MiB) and the 512-ary levels above them.
//!
//! Only numbers: no bytes, no hashes. Sizes and offsets are in bytes. No function overflows or panics, whatever its
//! arguments.

use crate::model::BLOCK_BYTES;

/// Blocks of one group, and children of one node at every level.
pub const GROUP_BLOCKS: u64 = 512;
/// Bytes of one full group.
pub const GROUP_BYTES: u64 = GROUP_BLOCKS * BLOCK_BYTES;
/// [`BLOCK_BYTES`] for lengths in memory.
pub const BLOCK_LEN: usize = BLOCK_BYTES as usize;
/// [`GROUP_BYTES`] for lengths in memory.
pub const GROUP_LEN: usize = GROUP_BYTES as usize;
/// [`GROUP_BLOCKS`] for lengths in memory.
pub const FAN: usize = GROUP_BLOCKS as usize;

/// Blocks of a file of `size` bytes.
pub fn count(size: u64) -> u64 {
    size.div_ceil(BLOCK_BYTES)
}

/// Groups of a file of `size` bytes.
pub fn groups(size: u64) -> u64 {
    size.div_ceil(GROUP_BYTES)
}

/// First byte of block `index`; `u64::MAX` if it does not fit into 64 bits.
pub fn offset(index: u64) -> u64 {
    index.saturating_mul(BLOCK_BYTES)
}

/// Bytes of block `index` in a file of `size` bytes: 4096, less in the tail, 0 beyond the end.
pub fn len(size: u64, index: u64) -> usize {
    size.saturating_sub(offset(index)).min(BLOCK_BYTES) as usize
}

/// Last block of a file of `size` bytes.
pub fn last(size: u64) -> Option<u64> {
    count(size).checked_sub(1)
}

/// The blocks that a change of size marks, ascending: the old tail if it still exists, and the new tail.
///
/// Both are `None` if the size is unchanged. One is `None` if both are the same block, or the new size is 0.
pub fn tails(old_size: u64, new_size: u64) -> [Option<u64>; 2] {
    if old_size == new_size {
        return [None, None];
    }
    let new = last(new_size);
    let old = last(old_size).filter(|block| *block < count(new_size));
    if old == new { [None, new] } else { [old, new] }
}

/// Children that exist at `level` in a file of `blocks` blocks: blocks at level 0, nodes of the level below else.
fn children(blocks: u64, level: u8) -> u64 {
    1u64.checked_shl(9 * u32::from(level)).map_or(blocks.min(1), |unit| blocks.div_ceil(unit))
}

/// Nodes at `level`; 0 above the top level and for an empty file.
pub fn nodes_at(blocks: u64, level: u8) -> u64 {
    if blocks == 0 || level > top_level(blocks) { 0 } else { children(blocks, level.saturating_add(1)) }
}

/// Level of the one node that covers the whole file.
pub fn top_level(blocks: u64) -> u8 {
    let mut level = 0;
    while children(blocks, level) > GROUP_BLOCKS {
        level += 1;
    }
    level
}

/// Entries of node (`level`, `index`) in a file of `blocks` blocks.
pub fn entries(blocks: u64, level: u8, index: u64) -> usize {
    children(blocks, level).saturating_sub(index.saturating_mul(GROUP_BLOCKS)).min(GROUP_BLOCKS) as usize
}

/// One past the last block below node (`level`, `index`), whatever the file's size.
pub fn end_of_node(level: u8, index: u64) -> u64 {
    let shift = 9 * (u32::from(level) + 1);
    1u64.checked_shl(shift).map_or(u64::MAX, |unit| index.saturating_add(1).saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_at_the_edges() {
        assert_eq!((count(0), count(1), count(4096), count(4097)), (0, 1, 1, 2));
        assert_eq!((len(4097, 0), len(4097, 1), len(4097, 2), len(5, u64::MAX)), (4096, 1, 0, 0));
        assert_eq!(count(u64::MAX), 1 << 52);
    }

    #[test]
    fn levels_of_known_sizes() {
        let blocks = |size: u64| count(size);
        assert_eq!(top_level(blocks(0)), 0);
        assert_eq!(top_level(blocks(GROUP_BYTES)), 0);
        assert_eq!(top_level(blocks(GROUP_BYTES + 1)), 1);
        assert_eq!(top_level(blocks(1 << 30)), 1);
        assert_eq!(top_level(blocks((1 << 30) + 1)), 2);
        assert_eq!(top_level(blocks(u64::MAX)), 5);
        let ten_gib = blocks(10 << 30);
        assert_eq!((nodes_at(ten_gib, 0), nodes_at(ten_gib, 1), nodes_at(ten_gib, 2)), (5120, 10, 1));
        assert_eq!((nodes_at(ten_gib, 3), nodes_at(0, 0)), (0, 0));
        assert_eq!((entries(ten_gib, 1, 9), entries(ten_gib, 2, 0), entries(513, 0, 1)), (512, 10, 1));
    }

    #[test]
    fn a_change_of_size_names_its_tails() {
        assert_eq!(tails(100, 100), [None, None]);
        assert_eq!(tails(100, 200), [None, Some(0)]);
        assert_eq!(tails(100, 8192), [Some(0), Some(1)]);
        assert_eq!(tails(20000, 5000), [None, Some(1)]);
        assert_eq!(tails(20000, 0), [None, None]);
        assert_eq!(tails(0, 1), [None, Some(0)]);
    }
}

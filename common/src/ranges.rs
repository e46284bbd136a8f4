//! Byte ranges to groups and bits: the arithmetic of a mark, in this crate so that it can be tested outside the kernel.

use crate::limits::{BLOCK_BYTES, GROUP_BLOCKS, RANGE_GROUPS_MAX};

/// Blocks `first..=last` of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Index of the first block.
    pub first: u64,
    /// Index of the last block.
    pub last: u64,
}

/// How a byte range is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is empty.
    Nothing,
    /// As bits in at most `RANGE_GROUPS_MAX` groups.
    Bits(Blocks),
    /// As `start..end` in the INODE map; an `end` that does not fit 64 bits is `u64::MAX`.
    Span(u64, u64),
}

/// Where the range of `len` bytes at `start` is recorded.
#[must_use]
#[inline(always)]
pub const fn place(start: u64, len: u64) -> Place {
    if len == 0 {
        return Place::Nothing;
    }
    let end = start.saturating_add(len);
    let first = start / BLOCK_BYTES;
    let last = (end - 1) / BLOCK_BYTES;
    // A group number must fit into the 32 bits of the key: files are not marked by block beyond 8 PiB.
    if last / GROUP_BLOCKS - first / GROUP_BLOCKS >= RANGE_GROUPS_MAX || last / GROUP_BLOCKS > u32::MAX as u64 {
        return Place::Span(start, end);
    }
    Place::Bits(Blocks { first, last })
}

/// Some bits of one group of blocks, `first..=last`, both below `GROUP_BLOCKS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// The lowest bit.
    pub first: u64,
    /// The highest bit.
    pub last: u64,
}

impl Bits {
    /// The bits of `group` that `blocks` covers. `group` is one of those that `blocks` touches.
    #[must_use]
    #[inline(always)]
    pub const fn of(blocks: Blocks, group: u64) -> Self {
        let base = group * GROUP_BLOCKS;
        let first = blocks.first.saturating_sub(base);
        let last = blocks.last.wrapping_sub(base);
        let last = if last < GROUP_BLOCKS { last } else { GROUP_BLOCKS - 1 };
        Self { first, last }
    }

    /// The word of the lowest bit (below `GROUP_WORDS`), which of its bits these are, and those in words behind it, if any.
    #[must_use]
    #[inline(always)]
    pub const fn lowest_word(self) -> (usize, u64, Option<Self>) {
        // The verifier does not know what is promised of `first`.
        let first = self.first & (GROUP_BLOCKS - 1);
        let end = first | 63;
        let from = u64::MAX << (first & 63);
        let word = (first / 64) as usize;
        if end < self.last {
            return (word, from, Some(Self { first: end + 1, last: self.last }));
        }
        (word, from & (u64::MAX >> (63 - (self.last & 63))), None)
    }
}

#[cfg(test)]
mod tests {
    use super::{Bits, Blocks, Place, place};
    use crate::limits::{GROUP_BLOCKS, GROUP_BYTES, GROUP_WORDS};

    fn words(blocks: Blocks, group: u64) -> [u64; GROUP_WORDS] {
        let mut words = [0; GROUP_WORDS];
        let mut left = Some(Bits::of(blocks, group));
        while let Some(bits) = left {
            let (word, mask, rest) = bits.lowest_word();
            assert!(words[word] == 0 && mask != 0, "{blocks:?} {group} {word}");
            (words[word], left) = (mask, rest);
        }
        words
    }

    #[test]
    fn masks_agree_with_the_plain_definition() {
        let edges = [0, 1, 62, 63, 64, 65, 127, 128, 510, 511, 512, 513, 575, 576, 1023, 1024];
        for &first in &edges {
            for &last in edges.iter().filter(|&&last| last >= first) {
                let blocks = Blocks { first, last };
                for group in first / GROUP_BLOCKS..=last / GROUP_BLOCKS {
                    let words = words(blocks, group);
                    for bit in 0..GROUP_BLOCKS {
                        let block = group * GROUP_BLOCKS + bit;
                        let covered = words[bit as usize / 64] >> (bit % 64) & 1 == 1;
                        assert_eq!(covered, block >= first && block <= last, "{blocks:?} {block}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_byte_marks_its_block_and_a_crossing_write_both() {
        assert_eq!(place(4095, 1), Place::Bits(Blocks { first: 0, last: 0 }));
        assert_eq!(place(4095, 2), Place::Bits(Blocks { first: 0, last: 1 }));
        assert_eq!(place(7, 0), Place::Nothing);
    }

    #[test]
    fn long_far_and_unbounded_ranges_become_spans() {
        assert!(matches!(place(0, 8 * GROUP_BYTES), Place::Bits(_)));
        assert_eq!(place(1, 8 * GROUP_BYTES), Place::Span(1, 8 * GROUP_BYTES + 1));
        assert_eq!(place(4096, u64::MAX), Place::Span(4096, u64::MAX));
        let far = (u64::from(u32::MAX) + 1) * GROUP_BYTES;
        assert_eq!(place(far, 1), Place::Span(far, far + 1));
        assert!(matches!(place(far - 1, 1), Place::Bits(_)));
    }
}

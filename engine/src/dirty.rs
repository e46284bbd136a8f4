//! Marks: what may have changed since the last commit, per inode, as roaring bitmaps of 4 KiB block indexes.
//!
//! Merging only ever widens (invariant I4). Nothing here knows paths, file sizes or what the store holds.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;

use crate::model::{BLOCK_BYTES, Ino};

/// What may have changed in one inode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    /// Blocks that may hold other bytes. Indexes of 2^32 and above (16 TiB) do not fit: `whole` is set instead.
    pub blocks: RoaringBitmap,
    /// Every byte from here on may differ (truncate, collapse, insert).
    pub from: Option<u64>,
    /// One large range: first byte, and first byte after it. Several are merged into one range that covers all of them.
    pub range: Option<(u64, u64)>,
    /// Attributes, or the size, may have changed.
    pub meta: bool,
    /// Directory: entries may have changed.
    pub names: bool,
    /// The whole content may have changed: an operation whose range the kernel does not tell.
    pub whole: bool,
    /// The file needs a full re-read: marks were lost (map full, missed program run, unclean stop). Counted.
    pub rescan: bool,
    /// In addition to marks of content: the file was given other blocks of the disk, and its pages in memory may still have
    /// the content of the old ones. It must be read from the disk.
    pub remapped: bool,
}

impl Marks {
    pub fn rescan() -> Marks {
        Marks { rescan: true, meta: true, ..Marks::default() }
    }

    pub fn meta() -> Marks {
        Marks { meta: true, ..Marks::default() }
    }

    pub fn names() -> Marks {
        Marks { names: true, meta: true, ..Marks::default() }
    }

    pub fn is_empty(&self) -> bool {
        *self == Marks::default()
    }

    /// Whether content (not only names or attributes) may have changed.
    pub fn has_data(&self) -> bool {
        self.all_content() || !self.blocks.is_empty() || self.from.is_some() || self.range.is_some()
    }

    /// Whether the file has to be read from first to last byte.
    pub fn all_content(&self) -> bool {
        self.whole || self.rescan
    }

    /// Adds the marks of another drain.
    pub fn merge(&mut self, other: &Marks) {
        self.blocks |= &other.blocks;
        self.from = match (self.from, other.from) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.range = match (self.range, other.range) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (a, b) => a.or(b),
        };
        self.meta |= other.meta;
        self.names |= other.names;
        self.whole |= other.whole;
        self.rescan |= other.rescan;
        self.remapped |= other.remapped;
    }

    /// Marks the bytes `start..end`.
    pub fn mark_bytes(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (first, last) = (start / BLOCK_BYTES, (end - 1) / BLOCK_BYTES);
        match (u32::try_from(first), u32::try_from(last)) {
            (Ok(first), Ok(last)) => {
                self.blocks.insert_range(first..=last);
            }
            _ => self.whole = true,
        }
    }

    /// The marked blocks of a file of `size` bytes. Callers check `all_content` first.
    pub fn blocks_within(&self, size: u64) -> RoaringBitmap {
        let count = size.div_ceil(BLOCK_BYTES).min(1 << 32);
        let mut blocks = self.blocks.clone();
        for (start, end) in self.range.into_iter().chain(self.from.map(|from| (from, u64::MAX))) {
            let first = (start / BLOCK_BYTES).min(count);
            let end = end.div_ceil(BLOCK_BYTES).min(count);
            if first < end {
                // `count` is at most 2^32, so both bounds of the inclusive range fit.
                blocks.insert_range(first as u32..=(end - 1) as u32);
            }
        }
        if count < 1 << 32 {
            blocks.remove_range(count as u32..);
        }
        blocks
    }
}

/// Marks of an inode, and since when they have been waiting (nanoseconds of the caller's clock).
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    pub marks: Marks,
    pub since_ns: u64,
}

/// The dirty set of one volume: inode number -> marks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DirtySet {
    inodes: BTreeMap<Ino, Waiting>,
}

impl DirtySet {
    pub fn add(&mut self, ino: Ino, marks: &Marks, since_ns: u64) {
        match self.inodes.get_mut(&ino) {
            Some(waiting) => {
                waiting.marks.merge(marks);
                waiting.since_ns = waiting.since_ns.min(since_ns);
            }
            None => {
                self.inodes.insert(ino, Waiting { marks: marks.clone(), since_ns });
            }
        }
    }

    /// Adds all marks of another set.
    pub fn add_all(&mut self, other: &DirtySet) {
        for (ino, waiting) in other.iter() {
            self.add(ino, &waiting.marks, waiting.since_ns);
        }
    }

    pub fn get(&self, ino: Ino) -> Option<&Waiting> {
        self.inodes.get(&ino)
    }

    pub fn remove(&mut self, ino: Ino) -> Option<Waiting> {
        self.inodes.remove(&ino)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Ino, &Waiting)> {
        self.inodes.iter().map(|(ino, waiting)| (*ino, waiting))
    }

    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// Since when the oldest mark has been waiting; `None` if nothing waits.
    pub fn oldest_ns(&self) -> Option<u64> {
        self.inodes.values().map(|waiting| waiting.since_ns).min()
    }

    /// Bytes of the marked blocks, without whole files, whose size is not known here.
    pub fn marked_bytes(&self) -> u64 {
        self.inodes.values().map(|waiting| waiting.marks.blocks.len() * BLOCK_BYTES).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_widens_and_never_narrows() {
        let mut a = Marks { from: Some(100), range: Some((5, 10)), ..Marks::default() };
        a.mark_bytes(4096, 4097);
        let b = Marks { from: Some(50), range: Some((20, 30)), meta: true, ..Marks::default() };
        a.merge(&b);
        assert_eq!(a.from, Some(50));
        assert_eq!(a.range, Some((5, 30)));
        assert!(a.meta && a.blocks.contains(1));
    }

    #[test]
    fn blocks_within_cuts_at_the_size_and_adds_from_and_range() {
        let mut m = Marks { from: Some(3 * 4096 + 1), range: Some((0, 1)), ..Marks::default() };
        m.mark_bytes(100 * 4096, 101 * 4096);
        let blocks: Vec<u32> = m.blocks_within(5 * 4096 + 7).iter().collect();
        assert_eq!(blocks, [0, 3, 4, 5]);
        assert!(m.blocks_within(0).is_empty());
    }

    #[test]
    fn a_mark_beyond_16_tib_widens_to_the_whole_file() {
        let mut m = Marks::default();
        m.mark_bytes(1 << 50, (1 << 50) + 1);
        assert!(m.whole && m.blocks.is_empty());
    }

    #[test]
    fn the_oldest_wait_is_kept_when_marks_merge() {
        let mut set = DirtySet::default();
        set.add(Ino(7), &Marks::names(), 20);
        set.add(Ino(7), &Marks::rescan(), 30);
        set.add(Ino(8), &Marks::rescan(), 25);
        assert_eq!(set.oldest_ns(), Some(20));
        assert!(set.get(Ino(7)).is_some_and(|w| w.marks.names && w.marks.rescan));
    }
}

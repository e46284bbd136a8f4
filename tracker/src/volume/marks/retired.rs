//! What a drain took out of the kernel's maps, in the words of the engine. Pure, so that every case can be tested.

use std::collections::BTreeMap;

use common::maps::flag;
use engine::dirty::Marks;
use engine::model::{Dev, Ino};

use crate::capture::{InflightWrite, InodeMarks, Retired};

/// Marks of each inode, by superblock. An inode can stand there twice. Overflow is not among it.
#[must_use]
pub fn marks_by_superblock(retired: &Retired) -> BTreeMap<Dev, Vec<(Ino, Marks)>> {
    let mut by_dev: BTreeMap<Dev, Vec<(Ino, Marks)>> = BTreeMap::new();
    for ((dev, ino), marks) in &retired.inodes {
        by_dev.entry(*dev).or_default().push((*ino, marks_of(marks)));
    }
    for io in &retired.inflight {
        by_dev.entry(io.dev).or_default().push((io.ino, marks_under_way(io)));
    }
    by_dev
}

/// Whether the file could be stored to through a mapping when it was marked.
pub(crate) fn is_mapped(retired: &Retired, dev: Dev, ino: Ino) -> bool {
    retired.inodes.get(&(dev, ino)).is_some_and(|marks| marks.flags & flag::MAPPED != 0)
}

pub(crate) fn marks_of(marks: &InodeMarks) -> Marks {
    let has = |flag: u64| marks.flags & flag != 0;
    Marks {
        blocks: marks.blocks.clone(),
        from: has(flag::FROM).then_some(marks.from),
        range: (has(flag::RANGE) && !has(flag::FROM)).then_some((marks.from, marks.end)),
        meta: has(flag::META) || has(flag::NAMES),
        names: has(flag::NAMES),
        whole: has(flag::WHOLE) || has(flag::DATA_NO_RANGE),
        rescan: has(flag::RESCAN),
        remapped: has(flag::REMAPPED),
    }
}

/// What a change that began and has not completed may have changed by now: all of it, at every drain until it completes.
fn marks_under_way(io: &InflightWrite) -> Marks {
    let mut marks = marks_of(&InodeMarks { flags: io.flags, ..InodeMarks::default() });
    match io.len {
        u64::MAX => marks.from = Some(io.start),
        len => marks.mark_bytes(io.start, io.start.saturating_add(len)),
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    use roaring::RoaringBitmap;

    const A: Dev = Dev::of_kernel(1);
    const B: Dev = Dev::of_kernel(9);

    fn io(start: u64, len: u64, flags: u64) -> InflightWrite {
        InflightWrite { dev: A, ino: Ino(2), start, len, flags, began_ns: 0, key: 7 }
    }

    /// Not by themselves, but with the content that they are about.
    #[test]
    fn remapped_blocks_are_told() {
        let blocks = RoaringBitmap::from_iter([4]);
        let marks = marks_of(&InodeMarks { flags: flag::REMAPPED, blocks: blocks.clone(), ..InodeMarks::default() });
        assert_eq!(marks, Marks { blocks, remapped: true, ..Marks::default() });
        let under_way = marks_under_way(&io(0, 0, flag::META | flag::RESCAN | flag::REMAPPED));
        assert_eq!(under_way, Marks { remapped: true, ..Marks::rescan() });
    }

    #[test]
    fn what_is_under_way_marks_every_block_that_it_touches() {
        let blocks = |start, len| marks_under_way(&io(start, len, 0)).blocks.iter().collect::<Vec<u32>>();
        assert_eq!(blocks(4095, 2), [0, 1]);
        assert_eq!(blocks(8192, 4096), [2]);
        assert_eq!(blocks(4095, 0), [0; 0], "a call without a range");
    }

    #[test]
    fn what_has_no_end_or_lies_too_far_is_widened() {
        let endless = marks_under_way(&io(5000, u64::MAX, flag::META));
        assert_eq!(endless, Marks { from: Some(5000), meta: true, ..Marks::default() });
        for far in [io(1 << 50, 4096, 0), io(u64::MAX - 1, 4096, 0)] {
            assert_eq!(marks_under_way(&far), Marks { whole: true, ..Marks::default() });
        }
        assert_eq!(marks_under_way(&io(0, 0, flag::NAMES)), Marks::names(), "a rename under way");
    }

    #[test]
    fn marks_and_what_is_under_way_stand_side_by_side_by_superblock() {
        let retired = Retired {
            inodes: [((A, Ino(2)), InodeMarks { flags: flag::META, ..InodeMarks::default() })].into(),
            overflow: Default::default(),
            inflight: vec![io(0, 1, 0), InflightWrite { dev: B, ..io(0, 1, 0) }],
            counters: Default::default(),
        };
        let block = Marks { blocks: [0].into_iter().collect(), ..Marks::default() };
        let found = marks_by_superblock(&retired);
        assert_eq!(found.get(&A), Some(&vec![(Ino(2), Marks::meta()), (Ino(2), block.clone())]));
        assert_eq!(found.get(&B), Some(&vec![(Ino(2), block)]));
    }
}

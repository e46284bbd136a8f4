//! What was marked again since the last look at marks that stay with the kernel.
//!
//! A mark that is made of what is marked already changes no bit. So each group of blocks counts its marks, too. Of files whose every write
//! is marked by what it writes, whoever has read the blocks at one look need read again at the next only those of groups that differ.

use std::collections::{HashMap, HashSet};

use common::maps::{GroupKey, GroupMarks};
use engine::model::{Dev, Ino};
use roaring::RoaringBitmap;

use super::groups::{inode_of, insert_group};
use super::retired::Live;

/// What the last look saw, of one volume.
#[derive(Debug, Default)]
pub struct Looked {
    generation: Option<u64>,
    groups: HashMap<GroupKey, GroupMarks>,
    exact: HashSet<(Dev, Ino)>,
}

impl Looked {
    /// The blocks of groups that were marked since the last look, of inodes of which `is_exact` answers now as it did then: that all their
    /// writes are marked by what they write. Of an inode that is not in the answer, everything is to be taken for new. `is_exact` must be
    /// asked after `live` was read: a mapping that is made after that raises the counter of changes.
    pub fn marked_since(
        &mut self,
        live: &Live,
        is_exact: impl Fn(Dev, Ino) -> bool,
    ) -> HashMap<(Dev, Ino), RoaringBitmap> {
        let known: HashSet<(Dev, Ino)> =
            live.inodes.keys().copied().filter(|(dev, ino)| is_exact(*dev, *ino)).collect();
        let is_same_set = self.generation == Some(live.generation);
        let both = known.intersection(&self.exact).filter(|_| is_same_set);
        let mut again: HashMap<_, _> = both.map(|inode| (*inode, RoaringBitmap::new())).collect();
        for group in live.groups.iter().filter(|(key, marks)| self.groups.get(key) != Some(marks)) {
            if let Some(blocks) = again.get_mut(&inode_of(group)) {
                // What lies beyond the bitmap has a flag of the inode, which every look sees.
                insert_group(blocks, group);
            }
        }
        let groups = live.groups.iter().filter(|group| known.contains(&inode_of(group))).copied().collect();
        *self = Looked { generation: Some(live.generation), groups, exact: known };
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::retired::InodeMarks;

    const FILE: (Dev, Ino) = (Dev::of_kernel(8), Ino(5));

    /// A look at two groups of a file, in which the first block of each was marked so often.
    fn look(generation: u64, times: [u64; 2]) -> Live {
        let group = |at: usize| {
            let mut marks = GroupMarks { times: times[at], ..GroupMarks::NONE };
            marks.bits[0] = 1;
            (GroupKey { ino: 5, dev: 8, group: at as u32 }, marks)
        };
        let inodes = HashMap::from([(FILE, InodeMarks::default())]);
        Live { inodes, groups: vec![group(0), group(1)], generation, inflight: Vec::new() }
    }

    fn blocks(of: &HashMap<(Dev, Ino), RoaringBitmap>) -> Option<Vec<u32>> {
        of.get(&FILE).map(|blocks| blocks.iter().collect())
    }

    #[test]
    fn only_groups_that_were_marked_again_are_told() {
        let mut looked = Looked::default();
        let mut next =
            |generation, times, is_exact| blocks(&looked.marked_since(&look(generation, times), |_, _| is_exact));
        assert_eq!(next(0, [1, 1], true), None, "there was no look before");
        assert_eq!(next(0, [1, 1], true), Some(vec![]));
        assert_eq!(next(0, [1, 2], true), Some(vec![512]), "a bit that was set is marked again");
        assert_eq!(next(0, [2, 2], false), None, "stores through mappings set no mark");
        assert_eq!(next(0, [2, 2], true), None, "they may have come until this look");
        assert_eq!(next(0, [3, 2], true), Some(vec![0]));
        assert_eq!(next(1, [3, 2], true), None, "the marks of before are retired");
        assert_eq!(next(3, [3, 2], true), None, "and so twice, where the maps are the same again");
    }

    #[test]
    fn a_new_bit_tells_also_before_its_count() {
        let mut looked = Looked::default();
        looked.marked_since(&look(0, [1, 1]), |_, _| true);
        let mut live = look(0, [1, 1]);
        live.groups[0].1.bits[3] = 1;
        assert_eq!(blocks(&looked.marked_since(&live, |_, _| true)), Some(vec![0, 192]));
    }
}

//! How marks are found in the kernel's maps. To walk one takes the kernel 50 microseconds and more, however little it holds.

use std::io;

use common::maps::{GroupKey, InodeKey};

use super::plain::Plain;
use super::sys::Table;

/// Most elements that are asked for one by one.
const FEW: usize = 64;

/// Which elements of a map are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Find<'k, K> {
    Nothing,
    All,
    /// Those of these keys: there are no others.
    These(&'k [K]),
}

impl<K: Plain> Find<'_, K> {
    /// Everything, unless it is known that there is nothing.
    pub(super) fn if_filled(filled: bool) -> Self {
        if filled { Find::All } else { Find::Nothing }
    }

    pub(super) fn read<V: Plain>(self, table: &Table<K, V>) -> io::Result<(Vec<K>, Vec<V>)> {
        match self {
            Find::Nothing => Ok(Default::default()),
            Find::All => table.read_all(),
            Find::These(keys) => {
                let values: io::Result<Vec<(K, Option<V>)>> =
                    keys.iter().map(|key| Ok((*key, table.get(*key)?))).collect();
                Ok(values?.into_iter().filter_map(|(key, value)| Some((key, value?))).unzip())
            }
        }
    }
}

/// The keys that a look found in the set that programs write, and how many marks had been inserted before it: by block, and by inode.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) generation: u64,
    pub(super) inserted: [u64; 2],
    pub(super) groups: Vec<GroupKey>,
    pub(super) inodes: Vec<InodeKey>,
}

impl Known {
    /// What is to be read of the two maps of the set of `generation`, into which `now` marks have been inserted, and which was empty after
    /// `before`. A program inserts first and counts then: if the count has not risen, there is no other key.
    pub(super) fn find(
        &self,
        generation: u64,
        before: Option<[u64; 2]>,
        now: [u64; 2],
    ) -> (Find<'_, GroupKey>, Find<'_, InodeKey>) {
        let is_empty = |map: usize| before.is_some_and(|before| before[map] == now[map]);
        let is_known = |map: usize, keys: usize| {
            self.generation == generation && self.inserted[map] == now[map] && (1..=FEW).contains(&keys)
        };
        let groups = match () {
            () if is_empty(0) => Find::Nothing,
            () if is_known(0, self.groups.len()) => Find::These(&self.groups),
            () => Find::All,
        };
        let inodes = match () {
            () if is_empty(1) => Find::Nothing,
            () if is_known(1, self.inodes.len()) => Find::These(&self.inodes),
            () => Find::All,
        };
        (groups, inodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_walked_again_when_something_was_inserted() {
        let inodes = vec![InodeKey::new(8, 5)];
        let known = Known { generation: 3, inserted: [7, 2], inodes: inodes.clone(), ..Known::default() };
        let find = |generation, before, now| known.find(generation, before, now).1;
        assert_eq!(find(3, Some([7, 1]), [7, 2]), Find::These(&inodes));
        assert_eq!(find(3, Some([7, 1]), [9, 2]), Find::These(&inodes), "the other map");
        assert_eq!(find(3, Some([7, 1]), [7, 3]), Find::All, "another key");
        assert_eq!(find(5, Some([7, 1]), [7, 2]), Find::All, "another set");
        assert_eq!(find(3, None, [7, 2]), Find::These(&inodes), "what was there at the swap was found, too");
        assert_eq!(find(3, Some([7, 2]), [7, 2]), Find::Nothing);
        assert_eq!(known.find(3, Some([6, 1]), [7, 2]).0, Find::All, "no key is known");
    }
}

//! The values of parts of groups that were folded before: a group that changes is folded again only where it changed.
//!
//! What is remembered is found by the value of the whole group. That is a hash of all its bytes, so what is found was right for the same
//! content, whichever file and commit it was of.

use std::collections::HashMap;

use super::fold::{Span, blocks_value, values_value};
use super::node::Value;
use crate::block::GROUP_BLOCKS;

/// Parts of a group.
const PARTS: usize = 16;
/// Blocks of a part. A subtree of the group, since both are powers of two.
const PART_BLOCKS: usize = GROUP_BLOCKS as usize / PARTS;
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

/// Parts of the groups that were folded last.
#[derive(Clone, Debug, Default)]
pub struct Memo {
    young: HashMap<Value, [Value; PARTS]>,
    /// Forgotten when `young` is full, which then takes its place.
    old: HashMap<Value, [Value; PARTS]>,
}

impl Memo {
    /// How many groups are remembered.
    #[cfg(test)]
    pub(super) fn groups(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Standard chaining value of a full group with these values. `before`: its value when all but `changed` was as now.
    pub(super) fn full_group(&mut self, entries: &[Value], span: Span, before: &Value, changed: Parts) -> Value {
        let known = self.young.remove(before).or_else(|| self.old.remove(before));
        let changed = if known.is_some() { changed } else { ALL_PARTS };
        let mut parts = known.unwrap_or([[0; 32]; PARTS]);
        for (at, part) in parts.iter_mut().enumerate().filter(|(at, _)| changed >> at & 1 != 0) {
            let first = at * PART_BLOCKS;
            let values = entries.get(first..entries.len().min(first + PART_BLOCKS)).unwrap_or_default();
            *part = blocks_value(values, Span { first: span.first + first as u64, width: PART_BLOCKS, ..span });
        }
        let value = values_value(&parts);
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(value, parts);
        value
    }
}

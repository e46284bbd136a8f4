//! From the values of one node to the value of its subtree, for both kinds of root.
//!
//! `entries` may be shorter than the node is wide: missing entries are holes.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::memo::{ALL_PARTS, Memo, PART_BLOCKS, PARTS, Parts};
use super::node::{HOLE, Value, ZERO};
use super::rules::RootKind;
use crate::block::{self, BLOCK_LEN};
use crate::model::Root;

/// Entries of the left child of a left-balanced tree over `width` entries (`width` > 1).
fn left_width(width: usize) -> usize {
    width.div_ceil(2).next_power_of_two()
}

fn split(entries: &[Value], at: usize) -> (&[Value], &[Value]) {
    entries.split_at(at.min(entries.len()))
}

/// Parent of two subtrees in a sparse tree.
pub(super) fn sparse_parent(left: &Value, right: &Value) -> Value {
    if *left == HOLE && *right == HOLE { HOLE } else { merge_subtrees_non_root(left, right, Mode::Hash) }
}

/// Value of a sparse subtree of `width` entries, all marks as [`HOLE`].
fn sparse_fold(entries: &[Value], width: usize) -> Value {
    if entries.is_empty() {
        return HOLE;
    }
    if width <= 1 {
        return if entries[0] == ZERO { HOLE } else { entries[0] };
    }
    let at = left_width(width);
    let (left, right) = split(entries, at);
    sparse_parent(&sparse_fold(left, at), &sparse_fold(right, width - at))
}

/// Value of a sparse node as its parent stores it: [`HOLE`] only when the node is absent.
pub(super) fn sparse_value(entries: &[Value], width: usize) -> Value {
    match sparse_fold(entries, width) {
        HOLE if entries.iter().any(|entry| *entry != HOLE) => ZERO,
        value => value,
    }
}

/// The root of a sparse file of `size` bytes whose whole tree has the value `top`.
pub(super) fn sparse_root_of(size: u64, top: &Value) -> Root {
    let mut hasher = blake3::Hasher::new_derive_key("tracker 2026-11 root of a sparse file");
    hasher.update(&size.to_le_bytes()).update(top);
    Root::Sparse(hasher.finalize().into())
}

/// Chaining value of zero bytes `from..to`, one whole subtree that starts at a block.
fn zeros_value(from: u64, to: u64) -> Value {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(from);
    let mut left = to.saturating_sub(from);
    while left > 0 {
        let part = left.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..part as usize]);
        left -= part;
    }
    hasher.finalize_non_root()
}

/// The part of a file that a level 0 fold covers.
#[derive(Clone, Copy)]
pub(super) struct Span {
    /// First block.
    pub(super) first: u64,
    /// Blocks.
    pub(super) width: usize,
    /// Bytes of the whole file.
    pub(super) size: u64,
}

impl Span {
    fn halves(self) -> (usize, Span, Span) {
        let at = left_width(self.width);
        let right = Span { first: self.first + at as u64, width: self.width - at, size: self.size };
        (at, Span { width: at, ..self }, right)
    }

    fn zeros(self) -> Value {
        zeros_value(block::offset(self.first), block::offset(self.first + self.width as u64).min(self.size))
    }
}

/// Standard chaining value of the blocks of `span` (at least one).
pub(super) fn blocks_value(entries: &[Value], span: Span) -> Value {
    // Runs of `HOLE` and `ZERO` are hashed as one piece, which is several times faster than block by block.
    if entries.iter().all(|entry| matches!(*entry, HOLE | ZERO)) {
        return span.zeros();
    }
    if span.width <= 1 {
        return entries[0];
    }
    let (at, left_span, right_span) = span.halves();
    let (left, right) = split(entries, at);
    merge_subtrees_non_root(&blocks_value(left, left_span), &blocks_value(right, right_span), Mode::Hash)
}

/// Standard chaining value of the blocks of `span`, a full group. `before`: its value when all but `changed` was as now.
pub(super) fn full_group(memo: &mut Memo, entries: &[Value], span: Span, before: &Value, changed: Parts) -> Value {
    let known = memo.take(before);
    let changed = if known.is_some() { changed } else { ALL_PARTS };
    let mut parts = known.unwrap_or([HOLE; PARTS]);
    for (at, part) in parts.iter_mut().enumerate().filter(|(at, _)| changed >> at & 1 != 0) {
        let first = at * PART_BLOCKS;
        let values = entries.get(first..entries.len().min(first + PART_BLOCKS)).unwrap_or_default();
        *part = blocks_value(values, Span { first: span.first + first as u64, width: PART_BLOCKS, ..span });
    }
    let value = values_value(&parts);
    memo.put(value, parts);
    value
}

/// Standard root of a file that is one group of at least two blocks.
pub(super) fn blocks_root(entries: &[Value], span: Span) -> Root {
    let (at, left_span, right_span) = span.halves();
    let (left, right) = split(entries, at);
    let (left, right) = (blocks_value(left, left_span), blocks_value(right, right_span));
    Root::Blake3(merge_subtrees_root(&left, &right, Mode::Hash).into())
}

/// Standard chaining value of a node above level 0 without missing entries (at least one).
pub(super) fn values_value(entries: &[Value]) -> Value {
    if let [only] = entries {
        return *only;
    }
    let (left, right) = entries.split_at(left_width(entries.len()));
    merge_subtrees_non_root(&values_value(left), &values_value(right), Mode::Hash)
}

/// Standard root of a file whose top node has these entries (at least two).
pub(super) fn values_root(entries: &[Value]) -> Root {
    let (left, right) = entries.split_at(left_width(entries.len()));
    Root::Blake3(merge_subtrees_root(&values_value(left), &values_value(right), Mode::Hash).into())
}

/// Value of group `group` as the level above stores it.
pub(crate) fn group_value(kind: RootKind, entries: &[Value], group: u64, size: u64) -> Value {
    let width = block::entries(block::count(size), 0, group);
    match kind {
        RootKind::Sparse => sparse_value(entries, width),
        RootKind::Blake3 => blocks_value(entries, Span { first: group * block::GROUP_BLOCKS, width, size }),
    }
}

const _: () = assert!(BLOCK_LEN.is_multiple_of(blake3::CHUNK_LEN));

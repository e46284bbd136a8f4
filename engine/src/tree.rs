//! Block values, the 512-ary nodes that hold them, and the roots made of them.
//!
//! The *value* of a block is its BLAKE3 chaining value at its offset (non-root). Two values that no hash can have are
//! marks: [`HOLE`] (the block was never written, or punched) and [`ZERO`] (written, all bytes zero). They are kept
//! apart so that punching zeros is seen as a change, but *hash* alike, so that a root depends on nothing but the bytes
//! (and on its kind).
//!
//! Node (level 0, g) holds the values of blocks `g * 512..`, node (level l, i) the values of nodes `i * 512..` of the
//! level below, 32 bytes each; the file's top node is the only one of its level. Trailing [`HOLE`]s are cut off and an
//! empty node is not stored, so an absent node is all hole. Level 0 is the same for both kinds of root; the levels
//! above are not.
//!
//! Kinds. A file is [`Root::Sparse`](crate::model::Root::Sparse) exactly if `hole blocks * 4096 > rules.sparse_bytes`.
//! A hole block is one whose value is [`HOLE`] (the tail block counts as a whole one). All other files are
//! [`Root::Blake3`](crate::model::Root::Blake3). There is no hysteresis: the kind, like the root, is a function of the
//! image alone. When an update changes the kind, all nodes above level 0 are computed again from the stored level 0
//! nodes; towards `Blake3` that also hashes the zeros of the holes, at most `rules.sparse_bytes`. Only the cost of such
//! an update grows with the file's data (32 bytes read and one parent hashed per block): about 80 MB of nodes for
//! 10 GiB.
//!
//! - `Blake3`: a mark represents the chaining value of that many zero bytes at that offset; the root is `blake3::hash`
//!   of the content. A file of at most one block has no parent to finalise: its root is computed from its bytes.
//! - `Sparse`: the tree has the same shape, but the value of a subtree of zeros is 32 zero bytes, at every level and
//!   position; the root is BLAKE3 in key derivation mode over the size (8 bytes, little endian) and the value of the
//!   top. The size fixes the shape, so no two contents share a root unless BLAKE3 collides.
//!
//! This module must not read a file nor know where nodes are stored.

mod fold;
mod hasher;
mod memo;
mod node;
mod rules;
mod update;

pub(crate) use fold::group_value;
pub use hasher::RootHasher;
pub use memo::Memo;
pub use node::{HOLE, NoNodes, NodeWrites, Nodes, Overlay, TreeError, VALUE_BYTES, Value, ZERO, block_value, is_zero};
pub(crate) use node::{encode, load};
pub use rules::{Image, RootKind, Rules};
pub(crate) use update::fold_groups;
pub use update::{Update, walk_present};

#[cfg(test)]
mod tests;

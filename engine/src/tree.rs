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
//! Kinds. A file is [`Root::Sparse`] exactly when `hole blocks * 4096 > rules.sparse_bytes`, where a hole block is one
//! whose value is [`HOLE`] (the tail block counts whole); else it is [`Root::Blake3`]. There is no hysteresis: the
//! kind, like the root, is a function of the image alone, however it came to be. When an update changes the kind, all
//! nodes above level 0 are made anew: from the stored level 0 nodes, and towards `Blake3` also by hashing the zeros of
//! the holes, which by then are at most `rules.sparse_bytes`. That is the one update whose cost follows the file's data
//! (32 bytes read and one parent hashed per block): about 80 MB of nodes for 10 GiB.
//!
//! - `Blake3`: marks stand for the chaining values of that many zero bytes at that offset; the root is `blake3::hash`
//!   of the content. A file of at most one block has no parent to finalise: its root is made from its bytes.
//! - `Sparse`: the tree has the same shape, but the value of a subtree of zeros is 32 zero bytes, at every level and
//!   position; the root is BLAKE3 in key derivation mode over the size (8 bytes, little endian) and the value of the
//!   top. The size fixes the shape, so no two contents share a root unless BLAKE3 collides.
//!
//! This module must not read a file nor know where nodes are stored.

mod fold;
mod hasher;
mod update;

use std::collections::BTreeMap;

use blake3::hazmat::HasherExt;

pub(crate) use fold::group_value;
pub use hasher::{RootHasher, RootKind};
pub(crate) use update::fold_groups;
pub use update::{Update, walk_present};

use crate::block::{self, BLOCK_LEN, FAN};
use crate::model::Root;

/// Chaining value of a block or of a subtree, or one of the two marks.
pub type Value = [u8; 32];

/// Mark of a block (or subtree) that takes no space in the source.
pub const HOLE: Value = [0; 32];
/// Mark of a block that is written but holds only zeros; above level 0, and only in sparse files, of a subtree of such.
pub const ZERO: Value = {
    let mut mark = [0; 32];
    mark[0] = 1;
    mark
};

/// Bytes of one stored value.
pub const VALUE_BYTES: usize = 32;

/// Where the nodes of one file's committed image are read from.
pub trait Nodes {
    type Error;
    /// The stored node, or `None` if there is none.
    fn get(&self, level: u8, index: u64) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// Node changes to store together with a commit: (level, index) -> new bytes, `None` = delete if it is there.
pub type NodeWrites = BTreeMap<(u8, u64), Option<Vec<u8>>>;

/// A file without nodes: for new files.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNodes;

impl Nodes for NoNodes {
    type Error = std::convert::Infallible;
    fn get(&self, _level: u8, _index: u64) -> Result<Option<Vec<u8>>, Self::Error> {
        Ok(None)
    }
}

/// Collected writes are nodes too.
impl Nodes for NodeWrites {
    type Error = std::convert::Infallible;
    fn get(&self, level: u8, index: u64) -> Result<Option<Vec<u8>>, Self::Error> {
        Ok(BTreeMap::get(self, &(level, index)).cloned().flatten())
    }
}

/// Stored nodes beneath writes that are not stored yet.
#[derive(Debug)]
pub struct Overlay<'n, N> {
    pub base: &'n N,
    pub writes: NodeWrites,
}

impl<N: Nodes> Nodes for Overlay<'_, N> {
    type Error = N::Error;
    fn get(&self, level: u8, index: u64) -> Result<Option<Vec<u8>>, Self::Error> {
        match self.writes.get(&(level, index)) {
            Some(write) => Ok(write.clone()),
            None => self.base.get(level, index),
        }
    }
}

/// Why nodes could not be read or do not fit the image they belong to.
#[derive(Debug, thiserror::Error)]
pub enum TreeError<E> {
    #[error("cannot read node ({level}, {index})")]
    Read { level: u8, index: u64, source: E },
    #[error("node ({level}, {index}) has {bytes} bytes, which is not a list of at most 512 values")]
    Malformed { level: u8, index: u64, bytes: usize },
    #[error("node ({level}, {index}) has {entries} values where the image needs {expected}")]
    Incomplete { level: u8, index: u64, entries: usize, expected: usize },
    #[error("the image counts {recorded} hole blocks but its nodes show {counted} below the cut")]
    HoleCount { recorded: u64, counted: u64 },
    #[error("a file of one block changed, but the bytes of its block were not given")]
    OneBlockBytes,
}

impl TreeError<std::convert::Infallible> {
    /// The same error for nodes that can fail to be read.
    pub(crate) fn widen<E>(self) -> TreeError<E> {
        match self {
            TreeError::Read { source, .. } => match source {},
            TreeError::Malformed { level, index, bytes } => TreeError::Malformed { level, index, bytes },
            TreeError::Incomplete { level, index, entries, expected } => {
                TreeError::Incomplete { level, index, entries, expected }
            }
            TreeError::HoleCount { recorded, counted } => TreeError::HoleCount { recorded, counted },
            TreeError::OneBlockBytes => TreeError::OneBlockBytes,
        }
    }
}

/// What the catalog keeps of a committed image beside its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Bytes.
    pub size: u64,
    pub root: Root,
    /// Blocks whose value is [`HOLE`].
    pub hole_blocks: u64,
    /// Whether there is a signature of the whole image (`signature`).
    pub signed: bool,
}

impl Image {
    /// The image of an empty file, which is also where every new file starts.
    pub fn empty() -> Image {
        Image { size: 0, root: Root::Blake3(blake3::hash(&[]).into()), hole_blocks: 0, signed: true }
    }
}

/// Limits that decide how an image is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// More bytes of hole blocks than this make a file sparse.
    pub sparse_bytes: u64,
    /// Files up to this size have a signature.
    pub signature_bytes: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { sparse_bytes: 1 << 30, signature_bytes: 256 << 20 }
    }
}

impl Rules {
    /// The kind of root of a file with so many hole blocks.
    pub fn kind(&self, hole_blocks: u64) -> RootKind {
        if block::offset(hole_blocks) > self.sparse_bytes { RootKind::Sparse } else { RootKind::Blake3 }
    }
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
    bytes.chunks(BLOCK_LEN).all(|part| part == &ZEROS[..part.len()])
}

/// Value of block `index` with these bytes, already cut to the file's size: 1 to 4096 of them.
///
/// No bytes give [`ZERO`]; more than 4096 are cut.
pub fn block_value(index: u64, bytes: &[u8]) -> Value {
    let bytes = &bytes[..bytes.len().min(BLOCK_LEN)];
    if is_zero(bytes) {
        return ZERO;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(block::offset(index) / BLOCK_LEN as u64 * BLOCK_LEN as u64);
    hasher.update(bytes).finalize_non_root()
}

/// Values of a stored node.
fn decode<E>(level: u8, index: u64, bytes: &[u8]) -> Result<Vec<Value>, TreeError<E>> {
    let (values, rest) = bytes.as_chunks::<VALUE_BYTES>();
    if !rest.is_empty() || values.len() > FAN {
        return Err(TreeError::Malformed { level, index, bytes: bytes.len() });
    }
    Ok(values.to_vec())
}

/// Values of node (`level`, `index`), none if it is absent.
pub(crate) fn load<N: Nodes>(nodes: &N, level: u8, index: u64) -> Result<Vec<Value>, TreeError<N::Error>> {
    match nodes.get(level, index) {
        Ok(Some(bytes)) => decode(level, index, &bytes),
        Ok(None) => Ok(Vec::new()),
        Err(source) => Err(TreeError::Read { level, index, source }),
    }
}

/// The stored form of a node: without trailing holes, `None` when nothing is left.
pub(crate) fn encode(values: &[Value]) -> Option<Vec<u8>> {
    let used = values.iter().rposition(|value| *value != HOLE)?;
    Some(values[..=used].as_flattened().to_vec())
}

#[cfg(test)]
mod tests;

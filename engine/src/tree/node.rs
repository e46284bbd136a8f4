//! Values of blocks, and the stored nodes that hold 512 of them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use blake3::hazmat::HasherExt;

use super::memo::Memo;
use crate::block::{self, BLOCK_LEN, FAN};

/// Chaining value of a block or of a subtree, or one of the two marks.
pub type Value = [u8; 32];

/// Mark of a block (or subtree) that takes no space in the source.
pub const HOLE: Value = [0; 32];
/// Mark of a block that is written but holds only zeros. Above level 0, in sparse files only: of a subtree of such blocks.
pub const ZERO: Value = {
    let mut mark = [0; 32];
    mark[0] = 1;
    mark
};

/// Bytes of one stored value.
pub const VALUE_BYTES: usize = 32;

/// Reads the nodes of one file's committed image.
pub trait Nodes {
    type Error;
    /// The stored node, or `None` if there is none.
    fn get(&self, level: u8, index: u64) -> Result<Option<Vec<u8>>, Self::Error>;
    /// What is remembered of groups that were folded before, if anything is.
    fn memo(&self) -> Option<&RefCell<Memo>> {
        None
    }
}

/// Node changes to store together with a commit: (level, index) -> new bytes, `None` = delete if it is there.
pub type NodeWrites = BTreeMap<(u8, u64), Option<Vec<u8>>>;

/// Nodes of a new file: there are none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNodes;

impl Nodes for NoNodes {
    type Error = std::convert::Infallible;
    fn get(&self, _level: u8, _index: u64) -> Result<Option<Vec<u8>>, Self::Error> {
        Ok(None)
    }
}

/// Collected writes can be read as nodes.
impl Nodes for NodeWrites {
    type Error = std::convert::Infallible;
    fn get(&self, level: u8, index: u64) -> Result<Option<Vec<u8>>, Self::Error> {
        Ok(BTreeMap::get(self, &(level, index)).cloned().flatten())
    }
}

/// Writes that are not stored yet, on top of stored nodes.
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

    fn memo(&self) -> Option<&RefCell<Memo>> {
        self.base.memo()
    }
}

/// Why nodes could not be read, or do not match the image they belong to.
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
    /// The same error, for nodes whose reading can fail.
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
/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
    bytes.chunks(BLOCK_LEN).all(|part| part == &ZEROS[..part.len()])
}

/// Value of block `index` with these bytes, already cut to the file's size: 1 to 4096 of them.
///
/// No bytes at all give [`ZERO`]; more than 4096 are cut.
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

/// Values of node (`level`, `index`); empty if it is absent.
pub(crate) fn load<N: Nodes>(nodes: &N, level: u8, index: u64) -> Result<Vec<Value>, TreeError<N::Error>> {
    match nodes.get(level, index) {
        Ok(Some(bytes)) => decode(level, index, &bytes),
        Ok(None) => Ok(Vec::new()),
        Err(source) => Err(TreeError::Read { level, index, source }),
    }
}

/// The stored form of a node, without trailing holes; `None` if nothing is left.
pub(crate) fn encode(values: &[Value]) -> Option<Vec<u8>> {
    let used = values.iter().rposition(|value| *value != HOLE)?;
    Some(values[..=used].as_flattened().to_vec())
}

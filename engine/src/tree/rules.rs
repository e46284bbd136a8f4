//! What is known of a file's committed image as a whole, and the rules that decide the kind of its root.

use crate::block;
use crate::model::Root;

/// By which rule a root is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootKind {
    Blake3,
    Sparse,
}

impl Root {
    pub fn kind(&self) -> RootKind {
        match self {
            Root::Blake3(_) => RootKind::Blake3,
            Root::Sparse(_) => RootKind::Sparse,
        }
    }
}

/// What the catalog keeps of a committed image besides its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Bytes.
    pub size: u64,
    pub root: Root,
    /// Blocks whose value is `HOLE`.
    pub hole_blocks: u64,
    /// Whether there is a signature of the whole image (`signature`).
    pub signed: bool,
}

impl Image {
    /// The image of an empty file, from which every new file starts.
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

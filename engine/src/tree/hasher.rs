//! The root of a file fed in order, as bytes and holes: how a restore verifies what it wrote.
//!
//! Keeps one block and one value per level of the tree, whatever the size. A `Blake3` root costs hashing every byte,
//! zeros of holes too (that is what the standard hash means); a `Sparse` root costs only the blocks that are not zero.

use super::fold::{sparse_parent, sparse_root_of};
use super::node::{HOLE, Value, ZERO, block_value};
use super::rules::RootKind;
use crate::block::BLOCK_LEN;
use crate::model::{BLOCK_BYTES, Root};

/// Fed with all of a file in order; [`RootHasher::finish`] returns its root.
#[derive(Clone, Debug)]
pub struct RootHasher(State);

#[derive(Clone, Debug)]
enum State {
    Blake3(Box<blake3::Hasher>),
    Sparse(Sparse),
}

#[derive(Clone, Debug, Default)]
struct Sparse {
    /// Complete subtrees left of the current block, as (log2 of blocks, value), widths falling.
    stack: Vec<(u32, Value)>,
    blocks: u64,
    /// The current block so far. If it has only hole bytes, it stays empty until a data byte arrives.
    part: Vec<u8>,
}

impl RootHasher {
    pub fn new(kind: RootKind) -> RootHasher {
        RootHasher(match kind {
            RootKind::Blake3 => State::Blake3(Box::new(blake3::Hasher::new())),
            RootKind::Sparse => State::Sparse(Sparse::default()),
        })
    }

    /// The next bytes of the file.
    pub fn bytes(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Blake3(hasher) => {
                hasher.update(bytes);
            }
            State::Sparse(sparse) => sparse.bytes(bytes),
        }
    }

    /// The next `len` bytes of the file are zeros.
    pub fn hole(&mut self, len: u64) {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        match &mut self.0 {
            State::Blake3(hasher) => {
                let mut left = len;
                while left > 0 {
                    let part = left.min(ZEROS.len() as u64);
                    hasher.update(&ZEROS[..part as usize]);
                    left -= part;
                }
            }
            State::Sparse(sparse) => sparse.hole(len),
        }
    }

    /// The root of everything that was fed.
    pub fn finish(self) -> Root {
        match self.0 {
            State::Blake3(hasher) => Root::Blake3(hasher.finalize().into()),
            State::Sparse(sparse) => sparse.finish(),
        }
    }
}

impl Sparse {
    fn bytes(&mut self, mut bytes: &[u8]) {
        if !self.part.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_LEN - self.part.len()));
            self.part.extend_from_slice(now);
            self.close_full();
            bytes = later;
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK_LEN>();
        for block in blocks {
            self.leaf(block);
        }
        self.part.extend_from_slice(rest);
    }

    fn hole(&mut self, mut len: u64) {
        if !self.part.is_empty() {
            let now = len.min((BLOCK_LEN - self.part.len()) as u64);
            self.part.resize(self.part.len() + now as usize, 0);
            self.close_full();
            len -= now;
        }
        self.hole_blocks(len / BLOCK_BYTES);
        let rest = (len % BLOCK_BYTES) as usize;
        if rest > 0 {
            self.part.resize(rest, 0);
        }
    }

    fn close_full(&mut self) {
        if self.part.len() == BLOCK_LEN {
            let part = std::mem::take(&mut self.part);
            self.leaf(&part);
            self.part = part;
            self.part.clear();
        }
    }

    fn leaf(&mut self, bytes: &[u8]) {
        let value = block_value(self.blocks, bytes);
        self.push(0, if value == ZERO { HOLE } else { value });
    }

    fn hole_blocks(&mut self, mut count: u64) {
        while count > 0 {
            let width = self.blocks.trailing_zeros().min(count.ilog2());
            self.push(width, HOLE);
            count -= 1 << width;
        }
    }

    fn push(&mut self, mut width: u32, mut value: Value) {
        self.blocks += 1 << width;
        while let Some((_, left)) = self.stack.pop_if(|(top, _)| *top == width) {
            value = sparse_parent(&left, &value);
            width += 1;
        }
        self.stack.push((width, value));
    }

    fn finish(mut self) -> Root {
        let size = self.blocks.saturating_mul(BLOCK_BYTES).saturating_add(self.part.len() as u64);
        let part = std::mem::take(&mut self.part);
        let mut top = if part.is_empty() {
            self.stack.pop().map_or(HOLE, |(_, value)| value)
        } else {
            match block_value(self.blocks, &part) {
                ZERO => HOLE,
                value => value,
            }
        };
        while let Some((_, left)) = self.stack.pop() {
            top = sparse_parent(&left, &top);
        }
        sparse_root_of(size, &top)
    }
}

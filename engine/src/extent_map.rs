//! A file's content as extents: for each part of the file, the stored run or the hole that it consists of.
//!
//! Ordered by offset; commits edit it in place. A commit's copy of a range onto itself costs nothing, so a flush of a few
//! blocks costs O(changed log n) whatever the file's size. Holds places, never bytes.

use crate::model::{DataRef, Op, Stored};
use std::collections::BTreeMap;
use thiserror::Error;

/// What an extent is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Hole,
    Data(DataRef),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Plain bytes; never 0 in an extent map.
    pub len: u64,
    pub source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RopeError {
    #[error("a copy reads {len} bytes at {from} of a base of {base} bytes")]
    BeyondBase { from: u64, len: u64, base: u64 },
    #[error("the steps fill {filled} bytes of a file of {size}")]
    Unfilled { filled: u64, size: u64 },
    #[error("a step of length 0 at {offset}")]
    Empty { offset: u64 },
}

/// The extents of one file, without gaps from 0 to its size. Adjacent extents are joined where possible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentMap {
    map: BTreeMap<u64, Extent>,
    size: u64,
}

impl Extent {
    /// The part of the extent after its first `by` bytes.
    fn after(self, by: u64) -> Extent {
        let source = match self.source {
            Source::Hole => Source::Hole,
            // Decoding checked that a run ends inside its frame, so its parts begin below 4 GiB.
            Source::Data(at) => Source::Data(DataRef { skip: at.skip.saturating_add(by as u32), ..at }),
        };
        Extent { len: self.len - by, source }
    }

    /// `self` and `next` joined, if they are one run.
    fn joined(self, next: Extent) -> Option<Extent> {
        let one = match (self.source, next.source) {
            (Source::Hole, Source::Hole) => true,
            (Source::Data(a), Source::Data(b)) => {
                u64::from(a.skip) + self.len == u64::from(b.skip) && DataRef { skip: a.skip, ..b } == a
            }
            _ => false,
        };
        one.then(|| Extent { len: self.len + next.len, source: self.source })
    }
}

impl From<Stored> for Extent {
    fn from(run: Stored) -> Extent {
        Extent { len: run.len, source: Source::Data(run.at) }
    }
}

impl ExtentMap {
    /// Bytes of the file; always the sum of the extents.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Extents with their offsets, in order.
    pub fn extents(&self) -> impl Iterator<Item = (u64, Extent)> + '_ {
        self.map.iter().map(|(offset, extent)| (*offset, *extent))
    }

    pub fn extent_count(&self) -> usize {
        self.map.len()
    }

    /// Adds an extent at the end. Length 0 adds nothing.
    pub fn push(&mut self, extent: Extent) {
        if extent.len == 0 {
            return;
        }
        let end = self.size;
        self.size = end.saturating_add(extent.len);
        self.place(end, extent);
    }

    /// The pieces that make up `len` bytes from `from`; shorter where the file ends.
    pub fn slice(&self, from: u64, len: u64) -> Vec<Extent> {
        let end = from.saturating_add(len).min(self.size);
        let first = self.map.range(..=from).next_back().map_or(from, |(offset, _)| *offset);
        let mut out = Vec::new();
        for (offset, extent) in self.map.range(first..end) {
            let skip = from.saturating_sub(*offset);
            if skip < extent.len {
                let part = extent.after(skip);
                out.push(Extent { len: part.len.min(end - (offset + skip)), ..part });
            }
        }
        out
    }

    /// Checks that `ops` fill `size`, and that copies stay inside a base of `base` bytes.
    pub fn check(ops: &[Op<Stored>], size: u64, base: u64) -> Result<(), RopeError> {
        let mut filled = 0u64;
        for op in ops {
            let len = match op {
                Op::Copy { from, len } => {
                    if from.checked_add(*len).is_none_or(|end| end > base) {
                        return Err(RopeError::BeyondBase { from: *from, len: *len, base });
                    }
                    *len
                }
                Op::Literal(run) => run.len,
                Op::Hole { len } => *len,
            };
            if len == 0 {
                return Err(RopeError::Empty { offset: filled });
            }
            filled = filled.saturating_add(len);
        }
        if filled != size { Err(RopeError::Unfilled { filled, size }) } else { Ok(()) }
    }

    /// Builds a new extent map from the content of another (or of none).
    pub fn build(base: Option<&ExtentMap>, ops: &[Op<Stored>], size: u64) -> Result<ExtentMap, RopeError> {
        ExtentMap::check(ops, size, base.map_or(0, ExtentMap::size))?;
        let mut extent_map = ExtentMap::default();
        for op in ops {
            match op {
                Op::Copy { from, len } => {
                    base.map(|b| b.slice(*from, *len)).into_iter().flatten().for_each(|e| extent_map.push(e));
                }
                Op::Literal(run) => extent_map.push(Extent::from(*run)),
                Op::Hole { len } => extent_map.push(Extent { len: *len, source: Source::Hole }),
            }
        }
        Ok(extent_map)
    }

    /// Edits the extent map. Copies in `ops` read it as it was before. On an error nothing has changed.
    pub fn edit(&mut self, ops: &[Op<Stored>], size: u64) -> Result<(), RopeError> {
        ExtentMap::check(ops, size, self.size)?;
        // Look up everything that moves before writing: moves may overlap.
        let mut writes: Vec<(u64, Extent)> = Vec::new();
        let mut offset = 0;
        for op in ops {
            match op {
                Op::Copy { from, len } => {
                    if *from != offset {
                        let mut to = offset;
                        for piece in self.slice(*from, *len) {
                            writes.push((to, piece));
                            to += piece.len;
                        }
                    }
                    offset += len;
                }
                Op::Literal(run) => {
                    writes.push((offset, Extent::from(*run)));
                    offset += run.len;
                }
                Op::Hole { len } => {
                    writes.push((offset, Extent { len: *len, source: Source::Hole }));
                    offset += len;
                }
            }
        }
        self.truncate(size);
        for (offset, extent) in writes {
            let end = offset + extent.len;
            self.clear(offset, end);
            self.size = self.size.max(end);
            self.place(offset, extent);
        }
        Ok(())
    }

    fn truncate(&mut self, size: u64) {
        if size < self.size {
            self.split(size);
            self.map.split_off(&size);
            self.size = size;
        }
    }

    /// Splits the extent at `at`, if `at` is inside the extent map.
    fn split(&mut self, at: u64) {
        let Some((&offset, extent)) = self.map.range_mut(..at).next_back() else { return };
        let head = at - offset;
        if head < extent.len {
            let tail = extent.after(head);
            extent.len = head;
            self.map.insert(at, tail);
        }
    }

    fn clear(&mut self, start: u64, end: u64) {
        self.split(start);
        self.split(end);
        while let Some((&offset, _)) = self.map.range(start..end).next() {
            self.map.remove(&offset);
        }
    }

    /// Puts an extent into a gap and joins it with its neighbours.
    fn place(&mut self, mut offset: u64, mut extent: Extent) {
        if let Some((&before, previous)) = self.map.range(..offset).next_back()
            && before + previous.len == offset
            && let Some(joined) = previous.joined(extent)
        {
            (offset, extent) = (before, joined);
        }
        let end = offset + extent.len;
        if let Some(joined) = self.map.get(&end).and_then(|next| extent.joined(*next)) {
            self.map.remove(&end);
            extent = joined;
        }
        self.map.insert(offset, extent);
    }
}

impl FromIterator<Extent> for ExtentMap {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> ExtentMap {
        let mut extent_map = ExtentMap::default();
        extents.into_iter().for_each(|e| extent_map.push(e));
        extent_map
    }
}

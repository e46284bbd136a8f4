//! Marked blocks of a file with a committed image.
//!
//! Memory grows with the blocks that are given and changed: their bytes, and at most one node of 16 KiB (and one signature
//! group of 14 KiB) for each group of 512 blocks that they are in.

use super::error::ImageError;
use crate::block::{self, BLOCK_LEN, GROUP_BLOCKS};
use crate::delta::Ops;
use crate::model::{BLOCK_BYTES, Content, FileId};
use crate::signature::{ENTRY_BYTES, HOLE_ENTRY, SignatureWrites, Signatures, group_signature};
use crate::tree::{HOLE, Image, NodeWrites, Nodes, Rules, Update, block_value};

/// What the source has in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockData<'a> {
    Hole,
    /// The block's bytes; those beyond the new size are ignored.
    Bytes(&'a [u8]),
}

impl<'a> BlockData<'a> {
    /// The first `len` bytes of block `index`, which must have been given; `None` for a hole.
    fn within<E>(self, index: u64, len: usize) -> Result<Option<&'a [u8]>, ImageError<E>> {
        match self {
            BlockData::Bytes(bytes) if bytes.len() < len => {
                Err(ImageError::ShortBlock { index, got: bytes.len(), want: len })
            }
            BlockData::Bytes(bytes) => Ok(Some(&bytes[..len])),
            BlockData::Hole => Ok(None),
        }
    }
}

/// A file's new content, and what the catalog stores with its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub content: Content<Vec<u8>>,
    pub image: Image,
    pub node_writes: NodeWrites,
    pub signature_writes: SignatureWrites,
    /// Blocks given that differ from the committed image.
    pub changed_blocks: u64,
    /// Given blocks that are unchanged or beyond the new end: nothing of them is uploaded.
    pub trimmed_blocks: u64,
    /// Bytes to upload.
    pub literal_bytes: u64,
}

/// Plans the change of file `id` from its committed image `old` to `new_size` bytes with these `blocks`. `old` is `None` if
/// there is none yet, which counts as an empty file. Returns `None` if nothing changes.
///
/// `blocks` are the marked ones, ascending, each once. Other blocks are as committed; beyond the old end they are holes.
/// When the size changes, the blocks of [`block::tails`] must be among them. Growing past `rules.signature_bytes` drops the
/// signature, as does a damaged one; shrinking below does not restore it.
pub fn plan_in_place<'a, N, S>(
    id: FileId,
    old: Option<&Image>,
    nodes: &N,
    signatures: &S,
    new_size: u64,
    blocks: impl IntoIterator<Item = (u64, BlockData<'a>)>,
    rules: Rules,
) -> Result<Option<Plan>, ImageError<N::Error>>
where
    N: Nodes,
    S: Signatures<Error = N::Error>,
{
    let old = old.copied().unwrap_or(Image::empty());
    let mut tree = Update::begin(nodes, old, new_size, rules)?;
    let mut signer = Signer::begin(signatures, &old, new_size, rules);
    let mut tails = block::tails(old.size, new_size).into_iter().flatten().peekable();
    let missing = |index| ImageError::MissingTail { index, old_size: old.size, new_size };
    let mut ops = Ops::default();
    let (mut at, mut before) = (0, None);
    let (mut changed_blocks, mut trimmed_blocks) = (0, 0);
    for (index, data) in blocks {
        if let Some(before) = before.replace(index).filter(|before| *before >= index) {
            return Err(ImageError::Order { before, index });
        }
        if let Some(tail) = tails.next_if(|tail| *tail <= index)
            && tail < index
        {
            return Err(missing(tail));
        }
        let len = block::len(new_size, index);
        let bytes = data.within(index, len)?;
        if len == 0 {
            trimmed_blocks += 1;
            continue;
        }
        if new_size <= BLOCK_BYTES {
            tree.small_content(bytes.unwrap_or(&[0; BLOCK_LEN][..len]));
        }
        let value = bytes.map_or(HOLE, |bytes| block_value(index, bytes));
        // The values `HOLE` and `ZERO` do not include the length. Growth within a block is a change by itself, and a
        // truncated tail of zeros has another signature although its value is the same.
        let before_len = block::len(old.size, index);
        let grown = (1..len).contains(&before_len);
        let changed = tree.set(index, value)? || grown;
        if changed || before_len != len {
            signer.set(index, bytes)?;
        }
        if !changed {
            trimmed_blocks += 1;
            continue;
        }
        changed_blocks += 1;
        keep(&mut ops, &old, at, block::offset(index));
        match bytes {
            Some(bytes) => ops.literal(bytes),
            None => ops.hole(len as u64),
        }
        at = block::offset(index) + len as u64;
    }
    if let Some(tail) = tails.next() {
        return Err(missing(tail));
    }
    if changed_blocks == 0 && old.size == new_size {
        return Ok(None);
    }
    keep(&mut ops, &old, at, new_size);
    let (mut image, node_writes) = tree.finish()?;
    let signature_writes;
    (image.signed, signature_writes) = signer.finish()?;
    let literal_bytes = ops.literal_bytes();
    let base = ops.copied().then_some(id);
    let content = Content { size: new_size, root: image.root, base, ops: ops.into_vec() };
    Ok(Some(Plan { content, image, node_writes, signature_writes, changed_blocks, trimmed_blocks, literal_bytes }))
}

/// Bytes `from..to` of the new image are unchanged: copied up to the old end, holes from there.
fn keep(ops: &mut Ops, old: &Image, from: u64, to: u64) {
    let end = old.size.clamp(from, to);
    ops.copy(from, end - from);
    ops.hole(to - end);
}

/// Updates the signature, if there is one.
struct Signer<'s, S> {
    stored: &'s S,
    old: Image,
    new_size: u64,
    /// Whether the new image has a signature, as far as known.
    signed: bool,
    open: Option<(u64, Vec<u8>)>,
    writes: SignatureWrites,
    queue: Queue,
}

/// Blocks whose entries are computed together: MD4 of eight blocks takes little longer than of one.
#[derive(Default)]
struct Queue {
    /// Group and first byte in it of each entry.
    slots: Vec<(u64, usize)>,
    bytes: Vec<u8>,
}

/// Blocks in a queue that is full.
const QUEUED_MAX: usize = 64;

impl<'s, S: Signatures> Signer<'s, S> {
    fn begin(stored: &'s S, old: &Image, new_size: u64, rules: Rules) -> Self {
        let signed = (old.signed && new_size <= rules.signature_bytes) || new_size == 0;
        Signer {
            stored,
            old: *old,
            new_size,
            signed,
            open: None,
            writes: SignatureWrites::new(),
            queue: Queue::default(),
        }
    }

    fn set(&mut self, index: u64, bytes: Option<&[u8]>) -> Result<(), ImageError<S::Error>> {
        if self.signed {
            self.open(index / GROUP_BLOCKS)?;
        }
        let (group, at) = (index / GROUP_BLOCKS, (index % GROUP_BLOCKS) as usize * ENTRY_BYTES);
        match bytes {
            None => self.put(group, at, &HOLE_ENTRY),
            Some(bytes) => {
                self.queue.slots.push((group, at));
                self.queue.bytes.extend_from_slice(bytes);
                // Of the bytes that are computed together only the last block may be short.
                if self.queue.slots.len() >= QUEUED_MAX || bytes.len() < BLOCK_LEN {
                    self.compute();
                }
            }
        }
        Ok(())
    }

    fn compute(&mut self) {
        let Queue { slots, bytes } = std::mem::take(&mut self.queue);
        let mut entries = Vec::with_capacity(slots.len() * ENTRY_BYTES);
        group_signature(&bytes, &mut entries);
        for ((group, at), entry) in slots.into_iter().zip(entries.chunks(ENTRY_BYTES)) {
            self.put(group, at, entry);
        }
    }

    /// Sets one entry of a group that was opened. Without a signature none is.
    fn put(&mut self, group: u64, at: usize, entry: &[u8]) {
        let entries = match self.open.as_mut() {
            Some((open, entries)) if *open == group => Some(entries),
            _ => self.writes.get_mut(&group).and_then(Option::as_mut),
        };
        if let Some(slot) = entries.and_then(|entries| entries.get_mut(at..at + ENTRY_BYTES)) {
            slot.copy_from_slice(entry);
        }
    }

    fn open(&mut self, group: u64) -> Result<(), ImageError<S::Error>> {
        if self.open.as_ref().is_some_and(|(open, _)| *open == group) {
            return Ok(());
        }
        self.close();
        let had = block::entries(block::count(self.old.size), 0, group);
        let has = block::entries(block::count(self.new_size), 0, group);
        let mut entries = match self.writes.get(&group) {
            Some(Some(entries)) => entries.clone(),
            _ if had == 0 => Vec::new(),
            _ => {
                let stored = self.stored.get(group).map_err(|source| ImageError::Signature { group, source })?;
                let stored = stored.unwrap_or_default();
                if stored.len() != had * ENTRY_BYTES {
                    // A file without a signature is sent as literals: worse, but never wrong.
                    self.signed = false;
                    return Ok(());
                }
                stored
            }
        };
        entries.resize(has * ENTRY_BYTES, HOLE_ENTRY[0]);
        self.open = Some((group, entries));
        Ok(())
    }

    fn close(&mut self) {
        if let Some((group, entries)) = self.open.take() {
            self.writes.insert(group, Some(entries));
        }
    }

    fn finish(mut self) -> Result<(bool, SignatureWrites), ImageError<S::Error>> {
        self.compute();
        let (had, has) = (block::groups(self.old.size), block::groups(self.new_size));
        if self.signed && self.old.size != self.new_size {
            // The group of the old tail was truncated or has grown; the groups after it are new.
            for group in had.min(has).saturating_sub(1)..has {
                self.open(group)?;
            }
        }
        self.close();
        let mut writes = if self.signed { self.writes } else { SignatureWrites::new() };
        if self.old.signed {
            let kept = if self.signed { has } else { 0 };
            writes.extend((kept..had).map(|group| (group, None)));
        }
        Ok((self.signed, writes))
    }
}

//! Matching new bytes against an old signature, window by window.

use super::error::DeltaError;
use super::librsync::{Command, Commands};
use super::ops::Ops;
use crate::model::Op;
use crate::signature::{Index, strong};

/// New bytes matched at once.
pub const WINDOW_BYTES: usize = 8 << 20;

/// Matches one run of new bytes against a signature, window by window.
#[derive(Debug)]
pub struct Differ<'s> {
    index: &'s Index<'s>,
    window: usize,
    pending: Vec<u8>,
}

impl<'s> Differ<'s> {
    pub fn new(index: &'s Index<'s>) -> Differ<'s> {
        Differ::with_window(index, WINDOW_BYTES)
    }

    /// A window shorter than two blocks is raised to two blocks.
    pub fn with_window(index: &'s Index<'s>, window: usize) -> Differ<'s> {
        let least = index.block_len().saturating_mul(2).min(usize::MAX as u64) as usize;
        Differ { index, window: window.max(least), pending: Vec::new() }
    }

    /// The next bytes of the run.
    pub fn bytes(&mut self, mut bytes: &[u8], ops: &mut Ops) -> Result<(), DeltaError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.window.saturating_sub(self.pending.len())));
            self.pending.extend_from_slice(now);
            bytes = later;
            if self.pending.len() >= self.window {
                self.diff(false, ops)?;
            }
        }
        Ok(())
    }

    /// Ends the run: later bytes do not continue it.
    pub fn end(&mut self, ops: &mut Ops) -> Result<(), DeltaError> {
        if self.pending.is_empty() { Ok(()) } else { self.diff(true, ops) }
    }

    fn diff(&mut self, last: bool, ops: &mut Ops) -> Result<(), DeltaError> {
        let mut delta = Vec::new();
        fast_rsync::diff(&self.index.sums, &self.pending, &mut delta).map_err(|_| DeltaError::Signature)?;
        let mut at: usize = 0;
        let mut tail = 0;
        for command in Commands::new(&delta)? {
            let len = match command? {
                Command::Copy { len, .. } | Command::Literal { len, .. } => len,
            };
            let bytes = usize::try_from(len).ok().and_then(|len| self.pending.get(at..at.checked_add(len)?));
            let Some(bytes) = bytes else {
                return Err(DeltaError::Window { want: self.pending.len() as u64, got: at as u64 + len });
            };
            at += bytes.len();
            match command? {
                Command::Copy { from, .. } => self.confirm(from, bytes, ops)?,
                // Hold back the last literal: a match may begin in it and end in the next window.
                Command::Literal { .. } if at == self.pending.len() => tail = bytes.len(),
                Command::Literal { .. } => ops.literal(bytes),
            }
        }
        if at != self.pending.len() {
            return Err(DeltaError::Window { want: self.pending.len() as u64, got: at as u64 });
        }
        let rest = &self.pending[at - tail..];
        if last {
            self.literal_end(rest, ops);
            self.pending.clear();
        } else {
            // Every block that begins earlier has been examined.
            let keep = rest.len().min((self.index.block_len() - 1) as usize);
            ops.literal(&rest[..rest.len() - keep]);
            self.pending.drain(..at - keep);
        }
        Ok(())
    }

    /// Handles a copy that `fast_rsync` proposes: takes each block only if its strong hash matches too.
    fn confirm(&self, from: u64, bytes: &[u8], ops: &mut Ops) -> Result<(), DeltaError> {
        let (len, size) = (bytes.len() as u64, self.index.size());
        if from.checked_add(len).is_none_or(|end| end > size) {
            // A full block was matched with the short last one, or the signature is damaged: do not copy.
            ops.literal(bytes);
            return Ok(());
        }
        if !self.index.confirms() {
            ops.copy(from, len);
            return Ok(());
        }
        let mut offset = from;
        for block in bytes.chunks(self.index.block_len() as usize) {
            let hash = strong(block);
            // Among equal blocks, the one that continues the last copy makes fewer steps.
            let next = ops.after_copy().filter(|next| self.index.has(*next, &hash));
            let here = self.index.has(offset, &hash).then_some(offset);
            // Not at the proposed offset: the block may start a run of equal ones, so copy from the first of them.
            let here = here.map(|here| if offset == from { self.index.first_equal(here) } else { here });
            match next.or(here) {
                Some(base) => ops.copy(base, block.len() as u64),
                None => ops.literal(block),
            }
            offset += block.len() as u64;
        }
        Ok(())
    }

    /// The last bytes of a run: they may end with the base's short last block.
    fn literal_end(&self, bytes: &[u8], ops: &mut Ops) {
        if let Some((from, len, hash)) = self.index.tail()
            && let Some(at) = bytes.len().checked_sub(len as usize)
            && strong(&bytes[at..]) == *hash
        {
            ops.literal(&bytes[..at]);
            ops.copy(from, len);
        } else {
            ops.literal(bytes);
        }
    }
}

/// The steps that build the bytes of all `windows`, joined, from the base with this signature.
///
/// Holes are unknown here: zeros are bytes like any others.
pub fn diff_windows<'b>(
    index: &Index<'_>,
    windows: impl IntoIterator<Item = &'b [u8]>,
) -> Result<Vec<Op<Vec<u8>>>, DeltaError> {
    let mut ops = Ops::default();
    let mut differ = Differ::new(index);
    for window in windows {
        differ.bytes(window, &mut ops)?;
    }
    differ.end(&mut ops)?;
    Ok(ops.into_vec())
}

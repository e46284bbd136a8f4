//! New bytes against an old signature: copies, literals and holes; and librsync's own delta format.
//!
//! `fast_rsync` finds the matches in windows; this module reads the commands it makes, confirms each copy block by block, and
//! puts the steps of all windows together. It must not read a file nor know what the bytes are for.

mod librsync;

pub use librsync::{Command, Commands, RdiffEncoder, export_rdiff};

use crate::model::Op;
use crate::signature::{Index, strong};

/// New bytes matched at once.
pub const WINDOW_BYTES: usize = 8 << 20;
/// Longest literal in one op; a longer run is several.
pub const LITERAL_MAX: usize = 1 << 20;

/// Why a delta cannot be made or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    #[error("the signature cannot be matched against")]
    Signature,
    #[error("not a librsync delta (first bytes {magic:#010x})")]
    Magic { magic: u32 },
    #[error("the delta ends inside a command at byte {at}")]
    Truncated { at: u64 },
    #[error("unknown command {command:#04x} at byte {at}")]
    Unknown { command: u8, at: u64 },
    #[error("a command without length at byte {at}")]
    Empty { at: u64 },
    #[error("{bytes} bytes after the end of the delta")]
    Trailing { bytes: u64 },
    #[error("the delta makes {got} bytes of a window of {want}")]
    Window { want: u64, got: u64 },
}

/// Steps that lie end to end; neighbours that can be one step are.
#[derive(Debug, Default)]
pub struct Ops {
    ops: Vec<Op<Vec<u8>>>,
    literal_bytes: u64,
    copied: bool,
}

impl Ops {
    pub fn copy(&mut self, from: u64, len: u64) {
        if len == 0 {
            return;
        }
        self.copied = true;
        match self.ops.last_mut() {
            Some(Op::Copy { from: before, len: more }) if before.checked_add(*more) == Some(from) => *more += len,
            _ => self.ops.push(Op::Copy { from, len }),
        }
    }

    pub fn literal(&mut self, mut bytes: &[u8]) {
        self.literal_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = match self.ops.last() {
                Some(Op::Literal(last)) => LITERAL_MAX.saturating_sub(last.len()),
                _ => 0,
            };
            if room == 0 {
                self.ops.push(Op::Literal(Vec::new()));
            }
            if let Some(Op::Literal(last)) = self.ops.last_mut() {
                let (now, later) = bytes.split_at(bytes.len().min(LITERAL_MAX - last.len()));
                last.extend_from_slice(now);
                bytes = later;
            }
        }
    }

    pub fn hole(&mut self, len: u64) {
        match self.ops.last_mut() {
            _ if len == 0 => {}
            Some(Op::Hole { len: more }) => *more += len,
            _ => self.ops.push(Op::Hole { len }),
        }
    }

    /// Where the base goes on after the last step, if that is a copy.
    fn after_copy(&self) -> Option<u64> {
        match self.ops.last() {
            Some(Op::Copy { from, len }) => from.checked_add(*len),
            _ => None,
        }
    }

    /// Bytes of all literals so far.
    pub fn literal_bytes(&self) -> u64 {
        self.literal_bytes
    }

    /// Whether there was any copy so far.
    pub fn copied(&self) -> bool {
        self.copied
    }

    /// The steps that are done: all but a last copy or hole, which may still grow.
    pub fn take(&mut self) -> Vec<Op<Vec<u8>>> {
        let open = match self.ops.last() {
            Some(Op::Copy { .. } | Op::Hole { .. }) => self.ops.len() - 1,
            _ => self.ops.len(),
        };
        let rest = self.ops.split_off(open);
        std::mem::replace(&mut self.ops, rest)
    }

    pub fn into_vec(self) -> Vec<Op<Vec<u8>>> {
        self.ops
    }
}

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

    /// A window shorter than two blocks is made as long.
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

    /// Ends the run: what follows is not its continuation.
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
                // The last literal is held back: a match may begin in it and end in the next window.
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
            // Every block that begins earlier was looked at.
            let keep = rest.len().min((self.index.block_len() - 1) as usize);
            ops.literal(&rest[..rest.len() - keep]);
            self.pending.drain(..at - keep);
        }
        Ok(())
    }

    /// A copy that `fast_rsync` proposes: each block is taken only if its strong hash says so too.
    fn confirm(&self, from: u64, bytes: &[u8], ops: &mut Ops) -> Result<(), DeltaError> {
        let (len, size) = (bytes.len() as u64, self.index.size());
        if from.checked_add(len).is_none_or(|end| end > size) {
            // A short last block that a full one was mistaken for, or a damaged signature: never believed.
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
            // Of equal blocks the one that continues the last copy makes fewer steps.
            let next = ops.after_copy().filter(|next| self.index.has(*next, &hash));
            let here = self.index.has(offset, &hash).then_some(offset);
            // Elsewhere than where the block before was proposed, it may be the first of a run of equal ones.
            let here = here.map(|here| if offset == from { self.index.first_equal(here) } else { here });
            match next.or(here) {
                Some(base) => ops.copy(base, block.len() as u64),
                None => ops.literal(block),
            }
            offset += block.len() as u64;
        }
        Ok(())
    }

    /// The last bytes of a run: they may end like the base does, with its short block.
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

/// The steps that make the bytes of all `windows`, end to end, of the base with this signature.
///
/// Holes are not known here: zeros are bytes like others.
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

#[cfg(test)]
mod tests;

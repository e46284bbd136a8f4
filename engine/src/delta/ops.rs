//! The steps that rebuild a file, as they are found.

use crate::model::Op;

/// Longest literal in one op; a longer run is several.
pub const LITERAL_MAX: usize = 1 << 20;

/// Steps that follow each other without gaps; adjacent steps are joined where possible.
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

    /// The base offset after the last step, if that step is a copy.
    pub(super) fn after_copy(&self) -> Option<u64> {
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

    /// Takes the steps that are final: all but a last copy or hole, which may still grow.
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

//! How many files, and how many bytes to read, one flush takes on. What is beyond goes on being pending.

use super::limits::Limits;

/// Counts what was taken on against `Limits::files` and `Limits::bytes`.
pub(super) struct Budget {
    limit_files: usize,
    limit_bytes: u64,
    files: usize,
    bytes: u64,
}

impl Budget {
    pub(super) fn of(limits: &Limits) -> Budget {
        Budget { limit_files: limits.files, limit_bytes: limits.bytes, files: 0, bytes: 0 }
    }

    /// Whether the next file has to wait. A file is never refused for its own size: one that is larger than the whole budget
    /// would never be read.
    pub(super) fn is_spent(&self) -> bool {
        self.files >= self.limit_files || self.bytes >= self.limit_bytes
    }

    /// Takes on one file of which `bytes` are to be read, as far as known.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

//! How many files, and how many bytes to read, one flush accepts. The rest stays pending.

use super::limits::Limits;

/// Counts accepted files and bytes against `Limits::files` and `Limits::bytes`.
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

    /// Whether the next file has to wait. The size of that file does not matter; otherwise a file larger than the whole
    /// budget would never be read.
    pub(super) fn is_spent(&self) -> bool {
        self.files >= self.limit_files || self.bytes >= self.limit_bytes
    }

    /// Accepts one file, of which about `bytes` are to be read.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

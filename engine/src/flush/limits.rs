//! How much one flush takes.

use crate::format::limits;

/// How much one flush takes. The rest stays pending.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub files: usize,
    /// Bytes to read, as estimated before reading.
    pub bytes: u64,
    /// A file with more bytes to read than this is streamed, not read by `World::read_files`.
    pub stream_bytes: u64,
    /// Marked bytes taken of one file in one flush; the rest stays pending.
    pub marked_bytes_of_a_file: u64,
    /// Files up to this size get a signature, so that a file replacing them is sent as a delta.
    pub signature_file_bytes: u64,
    /// Bytes of holes above which a file's root is of kind `Sparse`.
    pub sparse_hole_bytes: u64,
    /// Files that one commit removes.
    pub removals: usize,
    /// Names of known files, directories and special files that one commit sets, or removes from files that stay.
    pub changes: usize,
    /// Changed names of one file; with more, all its names stay as committed.
    pub names_of_a_file: usize,
    /// Nesting depth of new directories in one flush: each level decides everything listed so far again.
    pub levels: usize,
}

impl Limits {
    pub const DEFAULT: Limits = Limits {
        files: 10_000,
        bytes: 256 << 20,
        stream_bytes: 8 << 20,
        marked_bytes_of_a_file: 64 << 20,
        signature_file_bytes: 256 << 20,
        sparse_hole_bytes: 1 << 30,
        // With names of full length a commit object holds twice as many.
        removals: limits::CHANGES / 4,
        // In addition to the removals.
        changes: limits::CHANGES / 8,
        names_of_a_file: limits::CHANGES / 4,
        levels: 128,
    };
}

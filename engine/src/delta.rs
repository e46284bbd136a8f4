//! New bytes against an old signature: copies, literals and holes; and librsync's own delta format.
//!
//! `fast_rsync` finds the matches in windows. This module reads its commands, confirms each copy block by block, and joins
//! the steps of all windows. It must not read a file nor know what the bytes are for.

mod differ;
mod error;
mod librsync;
mod ops;

pub use differ::{Differ, WINDOW_BYTES, diff_windows};
pub use error::DeltaError;
pub use librsync::{Command, Commands, RdiffEncoder, export_rdiff};
pub use ops::{LITERAL_MAX, Ops};

#[cfg(test)]
mod tests;

//! The core of tracker, without I/O: what changed, what to upload, how it is written, how it is restored.
//!
//! Nothing here opens a file, reads a clock, draws a random number or starts a thread (invariant I6): effects go through
//! traits that the daemon and the simulation implement.

#![forbid(unsafe_code)]

pub mod block;
pub mod catalog;
pub mod checkpoint;
pub mod delta;
pub mod dirty;
pub mod extent_map;
pub mod flush;
pub mod format;
pub mod identity;
pub mod image;
pub mod manifest;
pub mod model;
pub mod plan;
pub mod reconcile;
pub mod scrub;
pub mod signature;
pub mod source;
pub mod tree;
pub mod xattrs;

#[cfg(test)]
mod sim;

//! Writes a restored tree, beneath one directory only: no symlink on the way is followed. Every entry is made in a private
//! area (`area`) and renamed to its place when it is complete, with its owner and mode.
//!
//! The caller's order: `prepare`, `make_dir` from the top, files and specials in any order, `remove_own_areas`,
//! `finish_dir` from the deepest up (creating an entry changes its directory's mtime), the target itself last. Until then
//! directories are closed to others. Attributes are set on open descriptors, never by name, and a directory is recognised
//! by its inode: others who can write to the target cannot substitute something else. What could not be restored (an owner
//! without the right to, a device) is reported as a [`Warning`].

mod area;
mod attributes;
mod error;
mod file;
mod flags;
mod identity;
mod kept;
mod nodes;
mod place;
mod prepare;
mod special;
mod state;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_flags;
#[cfg(test)]
mod tests_hostile;
mod warning;

pub use area::remove_all as remove_areas;
pub use error::TargetError;
pub use file::TargetFile;
pub use place::Unplaced;
pub use state::{Target, TargetOptions};
pub use warning::{BOUNDED_MAX, Bounded, Shortfall, Warning};

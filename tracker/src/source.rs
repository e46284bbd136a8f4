//! The protected tree, read only ([`SourceRoot`], [`OpenFile`]). Knows neither store nor catalog, and decides nothing: the
//! engine decides the order of a flush's steps.

pub(crate) mod beneath;
mod clean_times;
mod directory;
mod error;
mod file;
pub(crate) mod flags;
mod fs_type;
mod hot;
mod identity;
mod mount_table;
mod mounts;
pub(crate) mod restore_area;
mod root;
pub(crate) mod stat;
#[cfg(test)]
mod swapped_tests;
mod sys;
#[cfg(test)]
mod tests;
mod unwritten;
pub(crate) mod xattrs;

pub use crate::mountinfo::Mount;
pub use directory::{Directory, Entries, Foreign, Named};
pub use error::{OpenError, SourceError};
pub use file::{CleanBy, HowMarked, OpenFile};
pub use flags::flag_names;
pub use fs_type::FsType;
pub use identity::{RootNames, SameSource, SourceFacts, same_source};
pub use mount_table::MountTable;
pub use restore_area::has_area_name;
pub use root::{IdentityCheck, RawEntry, RootIdentity, SourceRoot, Upper};
pub use stat::SourceStat;
pub use sys::store_mapped;

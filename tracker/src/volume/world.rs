//! What a flush needs, over the real thing: directories and files of the source, the catalog, the store, the kernel's watch set.
//! Each of the engine's four traits has a file; every decision is the engine's.

mod commits;
mod committed;
pub(crate) mod covered;
mod error;
mod parts;
mod paths;
mod places;
pub mod pool;
pub(crate) mod timestamp_granularity;
mod tree;
pub(crate) mod unread;
mod watched;
pub mod write_back;

pub use error::WorldError;
pub use parts::VolumeWorld;

//! The engine's world of a flush, implemented: directories and files of the source, the catalog, the store, the kernel's
//! watch set. Each of the engine's four traits has a file here; the engine makes every decision.

mod commits;
mod committed;
pub(crate) mod covered;
mod error;
mod parts;
mod paths;
mod paused;
mod places;
pub mod pool;
mod quiet;
pub(crate) mod random;
pub(crate) mod searches;
mod timestamp_granularity;
mod tree;
pub(crate) mod unread;
mod watched;
mod worth;
pub mod write_back;

pub use error::WorldError;
pub use parts::VolumeWorld;

//! Effects of tracker: kernel capture, the protected tree, the catalog, the stores, and the daemon over them.
//! x

pub mod capture;
pub mod catalog;
pub mod store;

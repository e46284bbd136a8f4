//! Effects of tracker: kernel capture, the protected tree, the catalog, the stores, and the daemon over them.

pub mod capture;
pub mod catalog;
pub mod cgroups;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod error;
pub mod logging;
pub mod mountinfo;
pub mod output;
pub mod pause;
pub mod quoting;
pub mod repository;
pub mod source;
pub mod store;
pub mod target;
pub mod test_switches;
pub mod units;
pub(crate) mod urgent;
pub mod volume;

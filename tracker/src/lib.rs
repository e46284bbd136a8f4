//! Effects of tracker: kernel capture, the protected tree, the catalog, the stores, and the daemon over them.

pub mod capture;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
pub mod error;
pub mod failpoint;
pub mod guard;
pub mod http;
pub mod last_flush;
pub mod location;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod quoting;
pub mod reading;
pub mod source;
pub mod state_dir;
pub mod status;
pub mod store;
pub mod units;
pub mod volume;
pub mod watching;

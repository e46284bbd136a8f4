//! Effects of tracker: kernel capture, the protected tree, the catalog, the stores, and the daemon over them.

pub mod capture;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod error;
pub mod failpoint;
pub mod logging;
pub mod output;
pub mod quoting;
pub mod repository;
pub mod selftest;
pub mod source;
pub mod store;
pub mod units;
pub mod volume;

//! Many volumes in one process, from start to stop: requests to them, and reports about them.

pub mod change;
pub mod control;
pub mod endpoint;
pub mod fleet;
pub mod http;
pub mod metrics;
pub(crate) mod service;
pub mod service_manager;
pub mod state_dir;

//! Many volumes in one process: which there are, what they are asked and what is said of them, from start to stop.

pub mod change;
pub mod control;
pub mod endpoint;
pub mod fleet;
pub mod http;
pub mod metrics;
pub(crate) mod service;
pub mod service_manager;
pub mod state_dir;

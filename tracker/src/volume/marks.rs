//! The marks of the volumes: drained from the one capture of the process, and kept for each volume until they are
//! committed.

pub mod compare;
pub mod dispatcher;
pub(crate) mod failover;
pub(crate) mod inflight;
pub mod live;
pub(crate) mod notes;
pub(crate) mod problems;
pub(crate) mod release;
pub mod restart;
pub mod retired;
pub mod subscriber;
pub mod waiting;
pub mod writers;

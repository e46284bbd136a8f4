//! Whether the capture sees every change: self-tests with changes of our own, the scrub of committed files, and the
//! failover to the next back end when a change was missed.

pub mod changes;
pub mod schedule;
pub mod scrub;

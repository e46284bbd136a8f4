//! Whether the capture tells of every change: changes of our own that must be seen, a scrub of what was committed, and the
//! failover to the next back end when a change was missed.

pub mod changes;
pub mod schedule;
pub mod scrub;

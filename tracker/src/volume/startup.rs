//! Opening a volume: whose it is, what of its earlier state may be trusted, and which capture it gets.

pub(crate) mod agree;
pub(crate) mod arm;
pub(crate) mod capture;
pub(crate) mod claim;
pub(crate) mod eligibility;
pub mod open;
pub mod prepared;
pub(crate) mod rebind;
pub(crate) mod renumber;
pub(crate) mod store_home;
pub mod trust;
pub(crate) mod watch_capacity;

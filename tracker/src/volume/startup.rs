//! Bringing a volume up: whose it is, what may be trusted of what was before, which capture it gets, and what follows when
//! something stands in the way.

pub(crate) mod agree;
pub(crate) mod arm;
pub(crate) mod capture;
pub(crate) mod claim;
pub(crate) mod eligibility;
pub(crate) mod errors;
pub mod open;
pub mod prepared;
pub(crate) mod rebind;
pub(crate) mod renumber;
pub(crate) mod store_home;
pub mod trust;
pub(crate) mod watch_capacity;
pub mod ways_on;

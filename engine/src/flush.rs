//! One pass over a volume, from drain to commit: the order of steps, and nothing else (invariants I2, I3, I5).
//!
//! ```text
//! drain:  SWAP  GRACE  save pending  clear maps
//! flush:  list directories -> reconcile names -> per file STATX CLEAN BARRIER READ -> plan content
//!         put packs -> catalog: intent and new values, one transaction -> create commit -> settle -> forget pending
//! ```
//!
//! Every step is a call on `DrainWorld` or one of the four traits of `World`. An error from one of them ends the flush at
//! once, and all taken marks are still pending in the catalog. A file that cannot be read now does not fail the flush: its
//! marks are kept.

mod asked;
mod attributes;
mod budget;
mod builder;
mod commit;
mod content;
mod contents;
mod drain;
mod facts;
mod few_names;
mod few_removals;
mod gather;
mod gathered;
mod instant;
mod jobs;
mod leave;
mod limits;
mod mass_delete;
mod max_delete;
pub mod read;
pub mod rebind;
mod report;
mod run;
mod running;
mod settle;
mod steps;
pub mod world;

pub use drain::{DrainWorld, drain, take_up};
pub use facts::FlushFacts;
pub use limits::Limits;
pub use max_delete::MaxDelete;
pub use report::{Outcome, Report, acknowledges};
pub use run::flush;
pub use steps::Steps;

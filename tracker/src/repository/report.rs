//! What a restore did, and what it could not do.

use engine::model::{Seq, Time};
use engine::plan::PlanStats;

use crate::target::{Bounded, Warning};

/// An entry that could not be restored as committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Relative to the target.
    pub path: Vec<u8>,
    pub cause: String,
    /// What older commits have, if the store's bytes are the cause.
    pub older: Option<Older>,
}

/// What older commits have of a file whose content is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Older {
    /// The newest earlier commit whose version of the file is undamaged.
    Whole { seq: Seq, time: Time },
    /// None of the last so many commits has an undamaged version.
    NoneWithin { commits: u64 },
    /// The limits of the search were reached before this file.
    NotLooked,
}

/// What was done, or with `dry_run` would be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestoreReport {
    pub seq: Seq,
    /// The wall clock of the commit.
    pub time: Time,
    /// Whether the baseline is complete at the commit; `None`: it does not record that.
    pub baseline: Option<bool>,
    pub stats: PlanStats,
    /// Regular files of an existing tree that were equal already.
    pub kept: u64,
    /// Distinct objects read for content, requests for it, and their bytes.
    pub objects: u64,
    pub requests: u64,
    pub fetched_bytes: u64,
    /// Entries that could not be restored.
    pub failed: Bounded<Failure>,
    /// What could not be set on restored entries.
    pub warnings: Bounded<Warning>,
    /// What `untrusted` left out.
    pub left_out: Bounded<Warning>,
    /// Temporary files of an older version's restore that were removed.
    pub leftovers: u64,
}

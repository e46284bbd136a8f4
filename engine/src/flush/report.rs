//! How a flush ended and what it did.

use std::collections::BTreeSet;

use super::steps::Steps;
use crate::catalog::Head;
use crate::dirty::DirtySet;
use crate::model::{Consistency, FileId, Ino, Seq};
use crate::source::{FileError, Unknown};

/// How a flush ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing had to be committed.
    Unchanged,
    Committed(Head),
    /// Another writer holds the sequence: this one must stop.
    Fenced {
        seq: Seq,
    },
    /// It is unknown whether the commit took effect; the next `flush` asks the store before anything else.
    Unsettled,
}

impl Outcome {
    /// Whether every mark that was taken and not kept is in a commit of this writer, or changed nothing.
    pub fn is_settled(&self) -> bool {
        match self {
            Outcome::Unchanged | Outcome::Committed(_) => true,
            Outcome::Fenced { .. } | Outcome::Unsettled => false,
        }
    }
}

/// Whether a caller may be told that all changes from before the flush's SWAP are in the store. `outcome` is how the flush
/// ended, `all_read` whether it kept no marks.
pub fn acknowledges(outcome: &Outcome, all_read: bool, steps: Steps) -> bool {
    all_read && (outcome.is_settled() || (!steps.settled_only && *outcome != Outcome::Unsettled))
}

/// What a flush did, for status, metrics and tests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub files_read: u64,
    pub bytes_read: u64,
    pub bytes_marked: u64,
    pub bytes_literal: u64,
    /// Full re-reads.
    pub rescans: u64,
    pub errors: Vec<(FileId, FileError)>,
    /// Files whose attributes are not committed as they are on disk, and why.
    pub partial: Vec<(FileId, String)>,
    /// Inodes that stay pending only for a lasting cause (`FileError::is_lasting`).
    pub lasting: BTreeSet<Ino>,
    /// New files left out for another cause.
    pub put_off: u64,
    /// Directories that could not be listed.
    pub unlisted: Vec<(FileId, String)>,
    /// By directory: names that cannot be looked up or that the format cannot hold, and why.
    pub unknown: Vec<(FileId, Unknown)>,
    /// Removals that wait for proof.
    pub removals_waiting: u64,
    /// Files whose removal waits for confirmation by a person (`MaxDelete`).
    pub removals_held: u64,
    /// Removals that did not fit into the commit.
    pub removals_left: u64,
    /// Number of files before this flush; set only if it was counted, when many were to be removed.
    pub files_before: u64,
    /// Inodes left pending because this flush had no room.
    pub carried: u64,
    /// Whether what was read is of one instant: what the commit says. `None`: it says nothing.
    pub consistency: Option<Consistency>,
}

impl Report {
    /// Records that a known file could not be read; its marks are kept.
    pub(super) fn failed(&mut self, id: FileId, ino: Ino, error: FileError) {
        if error.is_lasting() {
            self.lasting.insert(ino);
        }
        self.errors.push((id, error));
    }

    /// Whether everything in `kept` is pending only because it cannot be read, so that the next flush would do no better.
    /// The rest of the volume is committed.
    pub fn only_lasting(&self, kept: &DirtySet) -> bool {
        self.carried == 0
            && self.put_off == 0
            && self.removals_waiting == 0
            && kept.iter().all(|(ino, _)| self.lasting.contains(&ino))
    }
}

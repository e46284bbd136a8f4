//! How a flush ended and what it did.

use std::collections::BTreeSet;

use super::steps::Steps;
use crate::catalog::Head;
use crate::dirty::DirtySet;
use crate::model::{FileId, Ino, Seq};
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
    /// The store did not tell whether the commit took effect; `flush` asks again before anything else.
    Unsettled,
}

impl Outcome {
    /// Whether every mark that was taken, and is not kept, is in a commit of this writer, or changed nothing.
    pub fn is_settled(&self) -> bool {
        match self {
            Outcome::Unchanged | Outcome::Committed(_) => true,
            Outcome::Fenced { .. } | Outcome::Unsettled => false,
        }
    }
}

/// Whether those who wait for all changes from before the flush's SWAP to be in the store may go: `outcome` is how the flush
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
    /// Whole-content reads for doubt.
    pub rescans: u64,
    pub errors: Vec<(FileId, FileError)>,
    /// Files whose attributes are not in the commits as they are on the disk: which, and why.
    pub partial: Vec<(FileId, String)>,
    /// Inodes that go on being pending only because of something that lasts (`FileError::is_lasting`).
    pub lasting: BTreeSet<Ino>,
    /// New files left out for another reason.
    pub put_off: u64,
    /// Directories that could not be listed.
    pub unlisted: Vec<(FileId, String)>,
    /// By directory, names of which nothing can be learned or that the format does not hold, and why.
    pub unknown: Vec<(FileId, Unknown)>,
    /// Removals that wait for proof.
    pub removals_waiting: u64,
    /// Files whose removal waits for a person (`MaxDelete`).
    pub removals_held: u64,
    /// Removals that had no room in the commit.
    pub removals_left: u64,
    /// Files of the volume before this flush, where they were counted: when many were to be removed.
    pub files_before: u64,
    /// Inodes left pending for want of room in this flush.
    pub carried: u64,
}

impl Report {
    /// A known file could not be read; its marks are kept.
    pub(super) fn failed(&mut self, id: FileId, ino: Ino, error: FileError) {
        if error.is_lasting() {
            self.lasting.insert(ino);
        }
        self.errors.push((id, error));
    }

    /// Whether `kept`, what this flush left pending, is there only because it cannot be read, so that the next flush will do no
    /// better: the rest of the volume is in the commits.
    pub fn only_lasting(&self, kept: &DirtySet) -> bool {
        self.carried == 0
            && self.put_off == 0
            && self.removals_waiting == 0
            && kept.iter().all(|(ino, _)| self.lasting.contains(&ino))
    }
}

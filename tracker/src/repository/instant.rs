//! Which commits are the state of one instant: what a commit says of it, and the newest one that is, found by reading backwards.

use std::fmt;

use engine::format::Key;
use engine::format::commit::{self, Expect};
use engine::model::{Consistency, Hash, Seq, Time};
use serde::{Deserialize, Serialize};

use crate::repository::error::ReadError;
use crate::repository::reader::Reader;

/// Commits fetched at once.
const WINDOW: u64 = 16;

/// What a commit says of its instant, as `--json` and the control interface have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ConsistencyField {
    Instant {
        window_us: u32,
        pause_us: u32,
    },
    /// The word of the reason.
    Live {
        reason: String,
    },
}

impl From<Consistency> for ConsistencyField {
    fn from(consistency: Consistency) -> ConsistencyField {
        match consistency {
            Consistency::Instant { window_us, pause_us } => ConsistencyField::Instant { window_us, pause_us },
            Consistency::Live(reason) => ConsistencyField::Live { reason: reason.word().to_owned() },
        }
    }
}

/// `instant`, or `live: ` and the reason.
impl fmt::Display for ConsistencyField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConsistencyField::Instant { .. } => f.write_str(Consistency::INSTANT),
            ConsistencyField::Live { reason } => write!(f, "live: {reason}"),
        }
    }
}

/// A commit that is the state of one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstantCommit {
    pub seq: Seq,
    /// Rises from commit to commit, whatever the clock did.
    pub time: Time,
    /// The clock as it was.
    pub wall: Time,
}

/// What a search for such a commit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstantSearch {
    pub found: Option<InstantCommit>,
    /// Commits that were looked at.
    pub looked: u64,
}

impl Reader {
    /// What a commit says of its instant, and its time; `None` where it is pruned, and a checkpoint stands for it.
    ///
    /// # Errors
    /// As reading the commit.
    pub fn consistency(&self, seq: Seq) -> Result<Option<(Option<Consistency>, Time)>, ReadError> {
        match self.commit_header(seq) {
            Ok(header) => Ok(Some((header.consistency, header.time))),
            Err(ReadError::Missing { .. }) if self.may_be_pruned(seq) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The newest commit up to `from` that is the state of one instant, among the last `limit`. The search ends where history
    /// is pruned, and at the first commit that is too old to say anything of it.
    ///
    /// # Errors
    /// As reading the commits that are passed, each of which is held against the one after it.
    pub fn newest_instant(&self, from: Seq, limit: u64) -> Result<InstantSearch, ReadError> {
        let (mut left, mut top, mut looked) = (limit, from, 0);
        let mut child: Option<Hash> = None;
        while left > 0 && top > Seq::NONE {
            let count = left.min(WINDOW).min(top.0);
            let seqs: Vec<Seq> = (top + 1 - count).to(top).rev().collect();
            for (seq, bytes) in seqs.iter().zip(self.commit_bytes(&seqs)) {
                let bytes = match bytes {
                    Err(ReadError::Missing { .. }) if self.may_be_pruned(*seq) => {
                        return Ok(InstantSearch { found: None, looked });
                    }
                    other => other?,
                };
                let key = Key::Commit(*seq);
                if let Some(expected) = child {
                    self.same_hash(key, commit::hash(&bytes), expected, Key::Commit(*seq + 1))?;
                }
                let header = commit::decode_header(&bytes, Expect { volume: self.format.volume, seq: *seq })
                    .map_err(|source| ReadError::damaged(self.key(key), source))?;
                looked += 1;
                if header.consistency.is_some_and(Consistency::is_instant) {
                    let found = InstantCommit { seq: *seq, time: header.time, wall: header.wall() };
                    return Ok(InstantSearch { found: Some(found), looked });
                }
                if header.standing.is_none() {
                    return Ok(InstantSearch { found: None, looked });
                }
                child = Some(header.parent);
            }
            top = top - count;
            left -= count;
        }
        Ok(InstantSearch { found: None, looked })
    }
}

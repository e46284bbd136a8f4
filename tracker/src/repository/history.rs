//! The commits of a volume, newest first, each checked against the one after it.

use engine::format::Key;
use engine::model::{Consistency, Op, Seq, Time};

use crate::repository::error::ReadError;
use crate::repository::reader::Reader;

/// Commits fetched at once.
const WINDOW: u64 = 16;

/// What one commit changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitSummary {
    pub seq: Seq,
    /// Rises from commit to commit, whatever the clock did.
    pub time: Time,
    /// The wall clock, unadjusted.
    pub wall: Time,
    /// The wall clock is before that of the previous commit.
    pub set_back: bool,
    /// Whether the baseline is complete at it; `None`: it does not record that.
    pub baseline: Option<bool>,
    /// Whether it is the state of one instant; `None`: it does not record that.
    pub consistency: Option<Consistency>,
    pub epoch: u64,
    /// Files whose content or attributes changed.
    pub files: u64,
    /// Names set and unset.
    pub names: u64,
    /// Plain bytes of new literals.
    pub literal_bytes: u64,
    /// Bytes of the commit object and its packs as stored.
    pub stored_bytes: u64,
}

impl Reader {
    /// Passes at most `limit` commits to `each`, from `from` downwards, until the first one or where history is pruned.
    pub fn history<E: From<ReadError>>(
        &self,
        from: Seq,
        limit: usize,
        mut each: impl FnMut(&CommitSummary) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut left = u64::try_from(limit).unwrap_or(u64::MAX);
        let mut top = from;
        let mut child: Option<engine::model::Hash> = None;
        while left > 0 && top > Seq::NONE {
            let count = left.min(WINDOW).min(top.0);
            let seqs: Vec<Seq> = (top + 1 - count).to(top).rev().collect();
            for (seq, bytes) in seqs.iter().zip(self.commit_bytes(&seqs)) {
                let bytes = match bytes {
                    // A commit that was requested by number must exist; earlier ones may be pruned.
                    Err(ReadError::Missing { .. }) if *seq != from && self.may_be_pruned(*seq) => return Ok(()),
                    Err(ReadError::Missing { key }) if self.may_be_pruned(*seq) => {
                        return Err(ReadError::Pruned { volume: self.volume.clone(), seq: *seq, key }.into());
                    }
                    other => other?,
                };
                let (commit, hash, size) = self.decode_commit(*seq, &bytes)?;
                if let Some(expected) = child {
                    self.same_hash(Key::Commit(*seq), hash, expected, Key::Commit(*seq + 1))?;
                }
                child = Some(commit.header.parent);
                let ops = commit.changes.files.iter().filter_map(|f| f.content.as_ref()).flat_map(|c| &c.ops);
                let literal = |op: &Op<_>| match op {
                    Op::Literal(engine::model::Stored { len, .. }) => *len,
                    _ => 0,
                };
                each(&CommitSummary {
                    seq: *seq,
                    time: commit.header.time,
                    wall: commit.header.wall(),
                    set_back: commit.header.standing.is_some_and(|standing| standing.steady_since == *seq),
                    baseline: commit.header.baseline(),
                    consistency: commit.header.consistency,
                    epoch: commit.header.epoch,
                    files: commit.changes.files.len() as u64,
                    names: commit.changes.names.len() as u64,
                    literal_bytes: ops.map(literal).fold(0, u64::saturating_add),
                    stored_bytes: commit.packs.iter().map(|p| p.bytes).fold(size, u64::saturating_add),
                })?;
            }
            top = top - count;
            left -= count;
        }
        Ok(())
    }
}

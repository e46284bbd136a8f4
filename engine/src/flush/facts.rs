//! What is fixed for one flush before it begins.

use super::limits::Limits;
use super::max_delete::MaxDelete;
use super::steps::Steps;
use crate::model::{CommitId, NotInstant, Time, VolumeId, WriterId};

/// What is fixed for one flush before it begins.
#[derive(Clone, Debug)]
pub struct FlushFacts {
    pub volume: VolumeId,
    pub writer: WriterId,
    pub epoch: u64,
    /// Random, new for this flush.
    pub commit_id: CommitId,
    /// Wall clock, read before SWAP.
    pub now: Time,
    /// Counts the drains of this volume; only its order matters.
    pub drain: u64,
    /// Whether files whose listing differs from their record are fully re-read, marked or not. True while marks are not
    /// trusted (first pass after a start without pins) and for the scan back end.
    pub compare: bool,
    /// Whether the first pass was complete before this flush. If not, `taken` is all that is pending, and the pass is
    /// complete once a flush leaves nothing.
    pub baseline: bool,
    /// Whether the commit is to be the state of one instant. `None`: not asked for; an error: why it cannot be.
    pub instant: Option<Result<(), NotInstant>>,
    /// Somebody waits for a commit of one instant, and the newest one is none: one is made even where nothing has changed, if the
    /// flush finds the tree at one instant.
    pub prove_instant: bool,
    pub steps: Steps,
    pub limits: Limits,
    pub max_delete: MaxDelete,
}

impl FlushFacts {
    /// When the flush began, in nanoseconds since 1970.
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.now.sec).unwrap_or(0) * 1_000_000_000 + u64::from(self.now.nsec)
    }

    /// Where this flush starts in a list of `len`, see [`first_of`].
    pub(super) fn first_of(&self, len: usize) -> usize {
        first_of(self.drain, len)
    }
}

/// The index at which a flush begins in a list of `len`: 0 in about every second flush, else a pseudo-random one. So entries at
/// the front that can never be read do not starve the others, and the oldest entry still comes first often enough.
///
/// The number of the drain is the seed. It is hashed, because drains serve all volumes of a process and a single volume may
/// see only every second number.
pub(super) fn first_of(drain: u64, len: usize) -> usize {
    let drawn = drain.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    if drawn.is_multiple_of(2) || len == 0 { 0 } else { (drawn / 2 % len as u64) as usize }
}

#[cfg(test)]
mod tests {
    use super::first_of;

    /// A volume may see every drain, or every second or third one. Every entry must come first at some time, and the oldest
    /// one often.
    #[test]
    fn every_place_is_first_some_time_and_the_oldest_often() {
        for step in 1..=4 {
            let drawn: Vec<usize> = (0..200).map(|round| first_of(round * step, 5)).collect();
            assert!((0..5).all(|place| drawn.contains(&place)), "{step}: {drawn:?}");
            assert!(drawn.windows(16).all(|some| some.contains(&0)), "{step}: {drawn:?}");
        }
        assert_eq!(first_of(7, 0), 0);
    }
}

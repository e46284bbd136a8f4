//! How often to flush a file that a program constantly stores to through a mapping.
//!
//! A flush writes the file's dirty pages back. Each page then costs its writer a fault, and the disk a write that the
//! kernel would have delayed. So a mapped file whose write-back takes long rests: its marks wait in the catalog as all
//! others, and the loss window shows their age. Files without a mapping never rest: a slow disk is no reason to lose more.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use engine::dirty::Marks;
use engine::model::Ino;

/// Write-back may take up to this fraction (1/n) of the time.
const SHARE: u32 = 20;
/// A file with so few marked blocks never rests: they cost its writer as few faults, and while it rests no commit is of one instant
/// (SQLite's index of a write-ahead log has 8 blocks and more).
const FEW_BLOCKS: u64 = 64;
/// Longest rest, which bounds what pacing adds to a file's loss window.
const REST_MAX: Duration = Duration::from_secs(5);

/// How long a file rests after a flush whose write-back took `clean`; zero if flushing at each `interval` costs less than
/// the share.
pub fn rest_after(clean: Duration, interval: Duration) -> Duration {
    let wanted = clean.saturating_mul(SHARE);
    if wanted <= interval { Duration::ZERO } else { wanted.min(REST_MAX) }
}

/// The files of one volume that rest now: at most those flushed in the last 5 s.
#[derive(Debug, Default)]
pub struct Pace {
    until: HashMap<Ino, Instant>,
}

impl Pace {
    /// Whether the marks of an inode wait at `now`.
    pub fn rests(&self, ino: Ino, marks: &Marks, now: Instant) -> bool {
        marks.blocks.len() > FEW_BLOCKS && self.until.get(&ino).is_some_and(|until| *until > now)
    }

    /// Called after a flush that ended at `now`: which inodes were written back, how long each took, and which were mapped.
    pub fn note(&mut self, cleans: HashMap<Ino, Duration>, mapped: &HashSet<Ino>, interval: Duration, now: Instant) {
        self.until.retain(|_, until| *until > now);
        for (ino, clean) in cleans.into_iter().filter(|(ino, _)| mapped.contains(ino)) {
            let rest = rest_after(clean, interval);
            if rest > Duration::ZERO {
                self.until.insert(ino, now + rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_rest_grows_with_the_write_back_and_has_a_bound() {
        assert_eq!(rest_after(ms(0), ms(250)), ms(0));
        assert_eq!(rest_after(ms(12), ms(250)), ms(0), "240 ms of rest are over by the next flush");
        assert_eq!(rest_after(ms(13), ms(250)), ms(260));
        assert_eq!(rest_after(ms(100), ms(250)), ms(2000));
        assert_eq!(rest_after(ms(300), ms(250)), REST_MAX);
        assert_eq!(rest_after(Duration::MAX, ms(250)), REST_MAX);
        assert_eq!(rest_after(ms(13), ms(1000)), ms(0), "seldom flushed anyhow");
    }

    #[test]
    fn a_file_rests_until_its_time_and_the_others_do_not() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let mapped = HashSet::from([Ino(1), Ino(2)]);
        pace.note(HashMap::from([(Ino(1), ms(100)), (Ino(2), ms(1)), (Ino(3), ms(100))]), &mapped, ms(250), now);
        let marks = |blocks: u32| Marks { blocks: (0..blocks).collect(), ..Marks::default() };
        let many = marks(65);
        assert!(pace.rests(Ino(1), &many, now + ms(1999)) && !pace.rests(Ino(1), &many, now + ms(2000)));
        assert!(!pace.rests(Ino(1), &marks(64), now), "few blocks");
        assert!(!pace.rests(Ino(2), &many, now) && !pace.rests(Ino(3), &many, now));
        // Rests that are over are forgotten, and the next flush decides again.
        pace.note(HashMap::new(), &mapped, ms(250), now + ms(2000));
        assert!(pace.until.is_empty());
    }
}

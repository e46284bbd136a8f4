//! A volume's part of the guard against losing many files: what waits, what a person confirmed, and how long it rests.

use std::fmt;
use std::time::{Duration, Instant};

use engine::dirty::DirtySet;
use engine::flush::{MaxDelete, Report};
use engine::model::Ino;

/// How long the guard remembers the number of files: removing a large tree takes a while.
const REMEMBERED: Duration = Duration::from_secs(600);
/// While removals wait, checking them again may take up to this fraction (1/n) of the time.
const SHARE: u32 = 20;
/// Longest rest between two checks.
const REST_MAX: Duration = Duration::from_secs(30);

/// Removals that wait for confirmation by a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub volume: String,
    pub removals: u64,
    /// Number of files of the volume.
    pub of: u64,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Held { volume, removals, of } = self;
        write!(
            f,
            "{removals} of {of} files are gone from the source: their removal waits until they are back, or for `tracker confirm {volume}`"
        )
    }
}

/// The state of the guard, in memory only: a new process asks again.
#[derive(Debug, Default)]
pub struct Guard {
    /// Removals that a person confirmed, until they are done.
    confirmed: Option<u64>,
    /// The highest recent number of files, and when it was counted.
    counted: Option<(u64, Instant)>,
    rests_until: Option<Instant>,
}

impl Guard {
    pub fn confirm(&mut self, removals: u64) {
        self.confirmed = Some(removals);
    }

    /// The rule of a flush that begins at `now`.
    pub fn rule(&self, percent: Option<u8>, now: Instant) -> MaxDelete {
        let before = self.counted.filter(|(_, at)| now < *at + REMEMBERED).map_or(0, |(files, _)| files);
        MaxDelete { percent, confirmed: self.confirmed.unwrap_or(0), before, ..MaxDelete::DEFAULT }
    }

    /// Updates the guard after a flush from `began` to `now`. `settled`: its decisions are in the store.
    pub fn note(&mut self, report: &Report, settled: bool, began: Instant, now: Instant) {
        if settled && report.removals_left == 0 {
            // What was confirmed is done. If fewer were removed the confirmation lapses; if more, the guard asks again.
            self.confirmed = None;
        }
        let old = self.counted.filter(|(_, at)| now < *at + REMEMBERED);
        if report.files_before > old.map_or(0, |(files, _)| files) {
            self.counted = Some((report.files_before, now));
        }
        let rest = now.saturating_duration_since(began).saturating_mul(SHARE).min(REST_MAX);
        self.rests_until = (report.removals_held > 0).then(|| now + rest);
    }

    /// Whether removals that waited before are left alone at `now`.
    pub fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }
}

/// Inodes that may rest while removals wait.
pub fn resting(report: &Report, kept: &DirtySet) -> Vec<Ino> {
    if report.removals_held == 0 {
        return Vec::new();
    }
    kept.iter().map(|(ino, _)| ino).filter(|ino| report.lasting.contains(ino)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_confirmation_lasts_until_its_removals_are_done() {
        let (mut guard, now) = (Guard::default(), Instant::now());
        guard.confirm(1190);
        let refused = Report { removals_left: 7, ..Report::default() };
        guard.note(&refused, true, now, now);
        assert_eq!(guard.rule(Some(50), now).confirmed, 1190, "the rest has to follow");
        guard.note(&Report::default(), false, now, now);
        assert_eq!(guard.rule(Some(50), now).confirmed, 1190, "the store did not answer");
        guard.note(&Report::default(), true, now, now);
        assert_eq!(guard.rule(Some(50), now).confirmed, 0);
    }

    #[test]
    fn the_count_before_a_long_removal_is_remembered_for_a_while() {
        let (mut guard, now) = (Guard::default(), Instant::now());
        let counted = |files| Report { files_before: files, ..Report::default() };
        for (after, files) in [(0, 41_000), (1, 30_000), (2, 0)] {
            guard.note(&counted(files), true, now, now + seconds(after));
        }
        assert_eq!(guard.rule(Some(50), now + seconds(599)).before, 41_000);
        assert_eq!(guard.rule(Some(50), now + seconds(600)).before, 0);
    }

    #[test]
    fn what_waits_is_looked_at_less_often_the_longer_it_takes() {
        let (mut guard, now) = (Guard::default(), Instant::now());
        let held = Report { removals_held: 1190, ..Report::default() };
        guard.note(&held, true, now, now + seconds(1));
        assert!(guard.rests(now + seconds(20)) && !guard.rests(now + seconds(21)));
        guard.note(&held, true, now, now + seconds(100));
        assert!(!guard.rests(now + seconds(130)), "no longer than half a minute");
        guard.note(&Report::default(), true, now, now + seconds(100));
        assert!(!guard.rests(now + seconds(100)));
    }
}

//! One flush's search for a moment in which nothing changes.

use std::time::{Duration, Instant};

use engine::flush::world::Count;

use crate::capture::writers::Writers;
use crate::volume::marks::live::{Before, Probe};

/// The pause between the first two looks; it doubles up to the sixth.
const GAP: Duration = Duration::from_micros(50);
/// Looks that take long are as many times that apart, so that the search leaves the processor to others (not while writers wait) ..
const REST: u32 = 3;
/// .. but not longer.
const REST_MOST: Duration = Duration::from_millis(8);

/// The search of one flush. Its time runs from the first count on: what is read before is read as in any flush.
#[derive(Debug)]
pub(super) struct Quiet {
    probe: Probe,
    slot: u32,
    began: Option<Instant>,
    /// When the last look began.
    waited: Option<Instant>,
    /// How long it is.
    time: Duration,
    /// What the last look saw.
    pub(super) before: Before,
    /// Who had written how much when the search was prepared; empty where nobody may be paused.
    pub(super) writers: Writers,
    /// Until when writers are paused.
    pub(super) paused_until: Option<Instant>,
}

impl Quiet {
    pub(super) fn new((probe, slot): (Probe, u32), time: Duration, writers: Writers) -> Quiet {
        Quiet { probe, slot, began: None, waited: None, time, writers, before: Before::default(), paused_until: None }
    }

    pub(super) fn probe(&self) -> &Probe {
        &self.probe
    }

    pub(super) fn count(&mut self) -> Count {
        let began = *self.began.get_or_insert_with(Instant::now);
        let at_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Count { changes: self.probe.quiet.changes(self.slot), at_us }
    }

    /// Whether a pause was begun and its time is over.
    pub(super) fn is_late(&self) -> bool {
        self.paused_until.is_some_and(|until| Instant::now() >= until)
    }

    /// Waits a moment before the next look. Returns false when the time is over.
    pub(super) fn try_again(&mut self, tries: u32) -> bool {
        let is_over = match self.paused_until {
            Some(_) => self.is_late(),
            None => self.began.is_some_and(|began| began.elapsed() > self.time),
        };
        if is_over {
            return false;
        }
        let since = self.waited.or(self.began).filter(|_| self.paused_until.is_none());
        let rest = since.map_or(Duration::ZERO, |since| since.elapsed().saturating_mul(REST).min(REST_MOST));
        std::thread::sleep(GAP.saturating_mul(1 << tries.min(5)).max(rest));
        self.waited = Some(Instant::now());
        true
    }
}

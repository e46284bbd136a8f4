//! How long a volume's thread waits between two rounds, and which of its failures are worth a log line.
//!
//! Numbers only: the caller knows the time and who waits.

use std::time::{Duration, Instant};

/// Longest wait between tries while the store does not answer.
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// Pause before the next round while a caller waits for a sync; doubles with each round that leaves something.
pub(crate) const HURRY: Duration = Duration::from_millis(5);
/// Longest time without a round while nothing changes: the source and the capture are looked at.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(1);
/// Longest such pause, if the volume's interval is longer.
const HURRY_MAX: Duration = Duration::from_secs(1);
/// A repeated failure is logged once in this time.
const REPEAT: Duration = Duration::from_secs(60);
/// The same for a store that is away: the log also says when it is back.
const REPEAT_AWAY: Duration = Duration::from_secs(3600);

/// A drain that another volume has made serves a volume up to this part of its interval later.
const SHARED: u32 = 2;

/// Since when a drain of another volume is recent enough for a round that begins now.
pub(crate) fn shared_since(now: Instant, interval: Duration) -> Instant {
    now.checked_sub(interval / SHARED).unwrap_or(now)
}

/// From when on the time to the next round counts: the begin of the last one, or of the drain that it shared.
pub(crate) fn counts_from(started: Instant, drained: Instant, interval: Duration) -> Instant {
    if drained >= shared_since(started, interval) { started.min(drained) } else { started }
}

/// What failed, as far as the log depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failed<'a> {
    /// The store did not answer, or refused: its `ErrorKind::trouble`. The texts differ from try to try, by key and by
    /// cause.
    Store(&'static str),
    Other(&'a str),
}

#[derive(Debug, Default)]
pub(crate) struct Patience {
    backoff: Duration,
    /// Consecutive rounds that a caller waited for and that left something.
    fruitless: u32,
    said: Option<(String, Instant)>,
    /// Failures since the last log line that were not logged.
    unsaid: u64,
    /// Since when the store has been away.
    away: Option<Instant>,
}

impl Patience {
    /// Called when a round ended without a failure. `clean`: nothing was left. `answered`: the store answered a request.
    /// Returns how long the store was away, if it is back now.
    pub(crate) fn ended(&mut self, clean: bool, awaited: bool, answered: bool, now: Instant) -> Option<Duration> {
        self.backoff = Duration::ZERO;
        self.fruitless = if clean || !awaited { 0 } else { self.fruitless.saturating_add(1) };
        if self.away.is_some() && !answered {
            return None;
        }
        self.said = None;
        self.unsaid = 0;
        self.away.take().map(|since| now - since)
    }

    /// The last round has failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.backoff > Duration::ZERO
    }

    /// Called when a round failed. `Some`: log it, with the number of failures that were not logged.
    pub(crate) fn failed(&mut self, what: Failed<'_>, interval: Duration, now: Instant) -> Option<u64> {
        self.backoff = (self.backoff * 2).clamp(interval.min(BACKOFF_MAX), BACKOFF_MAX);
        let (what, repeat) = match what {
            Failed::Store(trouble) => (trouble, REPEAT_AWAY),
            Failed::Other(text) => (text, REPEAT),
        };
        if repeat == REPEAT_AWAY {
            self.away.get_or_insert(now);
        }
        let known = self.said.as_ref().is_some_and(|(said, at)| said == what && now < *at + repeat);
        if known {
            self.unsaid += 1;
            return None;
        }
        self.said = Some((what.to_owned(), now));
        Some(std::mem::take(&mut self.unsaid))
    }

    /// Least time from the start of a round to the start of the next. `awaited`: a caller waits for a sync. Then rounds
    /// come sooner, but a store that does not answer or a file that cannot be read is not retried without pause.
    pub(crate) fn gap(&self, interval: Duration, awaited: bool) -> Duration {
        if self.backoff > Duration::ZERO {
            return interval.max(self.backoff);
        }
        if !awaited {
            return interval;
        }
        let longest = interval.clamp(HURRY, HURRY_MAX);
        HURRY.saturating_mul(1 << self.fruitless.min(16)).min(longest).min(interval.max(HURRY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// How many rounds start within `time` if each fails or leaves something at once.
    fn rounds(time: Duration, interval: Duration, mut round: impl FnMut(&mut Patience, Duration)) -> u32 {
        let (mut patience, mut at, mut rounds) = (Patience::default(), Duration::ZERO, 0);
        while at < time {
            round(&mut patience, at);
            rounds += 1;
            at += patience.gap(interval, true);
        }
        rounds
    }

    #[test]
    fn a_waiting_sync_does_not_break_the_back_off() {
        let start = Instant::now();
        let mut lines = 0;
        let failing = rounds(Duration::from_secs(60), ms(250), |patience, at| {
            lines += u32::from(patience.failed(Failed::Other("the catalog fails"), ms(250), start + at).is_some());
        });
        assert!(failing <= 12, "{failing} tries in a minute");
        assert_eq!(lines, 1, "the same failure is said once a minute");
        lines = 0;
        rounds(Duration::from_secs(3599), ms(250), |patience, at| {
            lines += u32::from(patience.failed(Failed::Store("away"), ms(250), start + at).is_some());
        });
        assert_eq!(lines, 1, "a store that is away is said once an hour");
        for interval in [ms(10), ms(250), Duration::from_secs(3600)] {
            let unread = rounds(Duration::from_secs(60), interval, |patience, at| {
                patience.ended(false, true, true, start + at);
            });
            assert!(unread <= 6010 && (interval < ms(250) || unread <= 260), "{interval:?}: {unread} rounds");
        }
        // A round that leaves nothing is followed without delay.
        let mut patience = Patience::default();
        patience.ended(true, true, true, start);
        assert_eq!(patience.gap(ms(250), true), HURRY);
        assert_eq!(patience.gap(ms(250), false), ms(250));
        assert_eq!(patience.gap(Duration::from_secs(3600), false), Duration::from_secs(3600));
    }

    /// Volumes that begin at any time share drains after one round each, and keep doing so; none has fewer rounds than alone.
    #[test]
    fn volumes_of_one_interval_come_to_share_their_drains() {
        let (start, interval) = (Instant::now() + Duration::from_secs(1), ms(250));
        let mut next: Vec<Instant> = (0..50).map(|volume| start + ms(volume * 37 % 250)).collect();
        let (mut drained, mut drains, mut rounds) = (start - interval, 0, 0);
        let until = start + Duration::from_secs(10);
        while let Some(volume) = (0..next.len()).min_by_key(|volume| next[*volume]).filter(|at| next[*at] < until) {
            let now = next[volume];
            if drained < shared_since(now, interval) {
                (drained, drains) = (now, drains + 1);
            }
            rounds += 1;
            next[volume] = counts_from(now, drained, interval) + interval;
        }
        assert!((40 * 50..=41 * 50).contains(&rounds), "{rounds} rounds");
        assert!(drains <= 2 * 41, "{drains} drains");
        // One that scans has no drain of its own time.
        assert_eq!(counts_from(start, start - interval, interval), start);
    }

    #[test]
    fn another_failure_is_said_and_how_often_the_last_one_was_not() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        let failed = |patience: &mut Patience, what, at| patience.failed(Failed::Other(what), ms(10), at);
        assert_eq!(failed(&mut patience, "a", now), Some(0));
        assert_eq!(failed(&mut patience, "a", now), None);
        assert_eq!(failed(&mut patience, "a", now + ms(59_999)), None);
        assert_eq!(failed(&mut patience, "a", now + REPEAT), Some(2));
        assert_eq!(failed(&mut patience, "b", now + REPEAT), Some(0));
        patience.ended(true, false, false, now);
        assert_eq!(failed(&mut patience, "b", now + REPEAT), Some(0), "a new failure");
        assert_eq!(patience.gap(ms(10), true), ms(10));
        for _ in 0..40 {
            patience.failed(Failed::Other("b"), Duration::from_secs(3600), now);
        }
        assert_eq!(patience.gap(ms(10), true), BACKOFF_MAX);
    }
    #[test]
    fn a_store_that_is_back_is_said_with_how_long_it_was_away() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        let seconds = Duration::from_secs;
        let failed = |patience: &mut Patience, trouble, at| patience.failed(Failed::Store(trouble), ms(10), now + at);
        assert_eq!(patience.ended(true, false, true, now), None, "it was never away");
        assert_eq!(failed(&mut patience, "away", seconds(1)), Some(0));
        // A round that sent the store no request proves nothing about it.
        assert_eq!(patience.ended(true, false, false, now + seconds(2)), None);
        assert_eq!(failed(&mut patience, "away", seconds(3)), None);
        assert_eq!(failed(&mut patience, "denied", seconds(4)), Some(1), "it is there, and refuses");
        assert_eq!(patience.ended(true, false, true, now + seconds(9)), Some(seconds(8)));
        assert_eq!(patience.ended(true, false, true, now + seconds(10)), None);
        assert_eq!(failed(&mut patience, "away", seconds(11)), Some(0));
    }
}

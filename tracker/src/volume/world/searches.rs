//! How long a flush looks for an instant, after how the last searches of its volume went.

use std::time::Duration;

use engine::model::{Consistency, NotInstant};

/// A whole search.
const WHOLE: Duration = Duration::from_millis(250);
/// One that will hardly find anything.
const SHORT: Duration = Duration::from_millis(16);
/// After so many in vain, one after the other, searches are short..
const IN_VAIN: u32 = 4;
/// .. and every so many is whole, so that a calmer load is noticed.
const WHOLE_AGAIN: u32 = 8;

/// The searches of a volume that found no gap, since the last one that did.
#[derive(Debug, Default)]
pub(super) struct Searches {
    in_vain: u32,
}

impl Searches {
    /// For how long the next one looks. `is_waited_for`: somebody waits for a commit of one instant.
    pub(super) fn time(&self, is_waited_for: bool) -> Duration {
        if is_waited_for || self.in_vain < IN_VAIN || self.in_vain.is_multiple_of(WHOLE_AGAIN) { WHOLE } else { SHORT }
    }

    /// A flush ended with this.
    pub(super) fn ended(&mut self, found: Consistency) {
        match found {
            Consistency::Live(NotInstant::NeverQuiet | NotInstant::DirectIo | NotInstant::CannotFreeze) => {
                self.in_vain = self.in_vain.wrapping_add(1)
            }
            Consistency::Instant { pause_us: 0, .. } => self.in_vain = 0,
            // Says nothing about gaps that come by themselves.
            Consistency::Instant { .. } | Consistency::Live(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writers of the root control group are never paused, and their volume may be busy for ever.
    #[test]
    fn searches_are_in_vain_also_where_nobody_can_be_paused() {
        for why in [NotInstant::CannotFreeze, NotInstant::DirectIo] {
            let mut searches = Searches::default();
            (0..=IN_VAIN).for_each(|_| searches.ended(Consistency::Live(why)));
            assert_eq!(searches.time(false), SHORT, "{why:?}");
        }
    }

    #[test]
    fn searches_in_vain_become_short_and_every_eighth_stays_whole() {
        let (mut searches, never) = (Searches::default(), Consistency::Live(NotInstant::NeverQuiet));
        let mut next = |found| {
            searches.ended(found);
            (searches.time(false), searches.time(true))
        };
        let short = (SHORT, WHOLE);
        assert_eq!(
            [(); 7].map(|()| next(never)),
            [(WHOLE, WHOLE), (WHOLE, WHOLE), (WHOLE, WHOLE), short, short, short, short]
        );
        assert_eq!(next(never), (WHOLE, WHOLE));
        assert_eq!([(); 7].map(|()| next(never)), [short; 7]);
        assert_eq!(next(never), (WHOLE, WHOLE));
        assert_eq!(next(never), short);
        let paused = Consistency::Instant { window_us: 1, pause_us: 1 };
        assert_eq!(next(paused), short, "the writers did not rest by themselves");
        assert_eq!(next(Consistency::Instant { window_us: 1, pause_us: 0 }), (WHOLE, WHOLE));
    }
}

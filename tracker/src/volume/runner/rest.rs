//! What a round remembers for the next one, most of it for the hooks.

use std::time::Instant;

/// What the last round left, as far as hooks depend on it.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// More of it can be committed by the next flush, though nothing new has changed.
    pub(super) unfinished: bool,
    /// It failed: before the application is brought to rest again, the store is asked whether it is there.
    pub(super) failed: bool,
    /// When it ended: what it prepared for the next drain is not seen by one that began before.
    pub(super) ended: Option<Instant>,
}

impl Rest {
    /// `open`: the flush left something that the next one may commit. A reader that is `stalled` may be so for ever, and what only
    /// waits for it must not bring the application to rest at every interval.
    pub(super) fn note_left(&mut self, open: bool, stalled: usize) {
        self.unfinished = open && stalled == 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_stalled_reader_alone_needs_no_rest() {
        let mut rest = Rest::default();
        rest.note_left(true, 0);
        assert!(rest.unfinished);
        rest.note_left(true, 1);
        assert!(!rest.unfinished);
        rest.note_left(false, 0);
        assert!(!rest.unfinished);
    }
}

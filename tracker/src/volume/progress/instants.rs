//! What is known of the instants of a volume's commits: for `status`, the metrics, and who waits for one (`sync --instant`).

use std::collections::BTreeMap;

use engine::catalog::Head;
use engine::flush::Outcome;
use engine::model::{Consistency, NotInstant, Seq, Time};

use crate::volume::status::Histogram;

/// Counters are since the start of this process.
#[derive(Clone, Debug)]
pub struct Instants {
    /// The newest commit that is the state of one instant, as far as this process has seen, with its wall clock.
    pub newest: Option<(Seq, Time)>,
    /// What the newest commit says; `None`: nothing, or it is not known.
    pub said: Option<Consistency>,
    /// The newest flush after which everything from before it is in a commit of one instant.
    pub(crate) whole: u64,
    /// Calls that wait for a commit of one instant.
    pub(crate) waiters: u32,
    /// Commits that say something of it, by word.
    pub counts: BTreeMap<String, u64>,
    /// Of writers, for commits of one instant; those without a pause are left out.
    pub pauses: Histogram,
}

impl Default for Instants {
    /// Every word is there from the begin on, so that a rate can be taken of each.
    fn default() -> Instants {
        let words = NotInstant::ALL.into_iter().map(NotInstant::word);
        let counts = [Consistency::INSTANT].into_iter().chain(words).map(|word| (word.to_owned(), 0)).collect();
        Instants { newest: None, said: None, whole: 0, waiters: 0, counts, pauses: Histogram::default() }
    }
}

impl Instants {
    /// What the newest commit says, which an earlier process has made.
    pub(crate) fn begin(&mut self, seq: Seq, wall: Time, said: Option<Consistency>) {
        self.said = said;
        if said.is_some_and(Consistency::is_instant) {
            self.newest = Some((seq, wall));
        }
    }

    /// Flush `number` has ended. `clean`: nothing was left over. `head` is the newest commit now.
    pub(crate) fn note(
        &mut self,
        number: u64,
        outcome: &Outcome,
        said: Option<Consistency>,
        clean: bool,
        head: Option<Seq>,
    ) {
        if let Outcome::Committed(made) = outcome {
            self.committed(made, said);
        }
        // A flush that found nothing to commit has found the newest commit to be the state still.
        let is_state = self.newest.is_some_and(|(newest, _)| Some(newest) == head);
        if clean && is_state {
            self.whole = number;
        }
    }

    fn committed(&mut self, made: &Head, said: Option<Consistency>) {
        self.said = said;
        let Some(said) = said else { return };
        *self.counts.entry(said.word().to_owned()).or_default() += 1;
        if let Consistency::Instant { pause_us, .. } = said {
            let wall = made.standing.map_or(made.time, |standing| standing.wall);
            self.newest = Some((made.seq, wall));
            if pause_us > 0 {
                self.pauses.observe(f64::from(pause_us) / 1e6);
            }
        }
    }

    /// Somebody waits, and the newest commit does not serve.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiters > 0 && !self.said.is_some_and(Consistency::is_instant)
    }

    /// Why nobody who waits for an instant was served, in words.
    pub(crate) fn why_none(&self) -> String {
        match self.said {
            Some(said) => format!("no commit of one instant was made in time (the newest commit is {said})"),
            None => "no commit of one instant was made in time".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: Option<Consistency> = Some(Consistency::Live(NotInstant::LeftOver));

    fn instant(pause_us: u32) -> Option<Consistency> {
        Some(Consistency::Instant { window_us: 9, pause_us })
    }

    fn made(seq: u64) -> Outcome {
        Outcome::Committed(Head { seq: Seq(seq), hash: [0; 32], time: Time::of_unix_ns(seq), standing: None })
    }

    #[test]
    fn commits_are_counted_by_word_and_pauses_are_observed() {
        let mut instants = Instants::default();
        instants.note(1, &made(1), LIVE, false, Some(Seq(1)));
        instants.note(2, &made(2), instant(0), true, Some(Seq(2)));
        instants.note(3, &made(3), instant(30_000), true, Some(Seq(3)));
        instants.note(4, &made(4), None, true, Some(Seq(4)));
        instants.note(5, &Outcome::Unsettled, instant(0), false, Some(Seq(4)));
        assert_eq!((instants.counts["instant"], instants.counts["left_over"], instants.counts.len()), (2, 1, 11));
        assert_eq!(instants.newest, Some((Seq(3), Time::of_unix_ns(3))));
        assert_eq!((instants.said, instants.pauses.count, instants.pauses.sum), (None, 1, 0.03));
    }

    /// What a flush left over is not in its commit, and a commit after the instant is not of it.
    #[test]
    fn a_flush_is_whole_only_with_everything_in_a_commit_of_one_instant() {
        let mut instants = Instants::default();
        instants.note(1, &made(1), instant(0), false, Some(Seq(1)));
        assert_eq!(instants.whole, 0, "something was left over");
        instants.note(2, &Outcome::Unchanged, None, true, Some(Seq(1)));
        assert_eq!(instants.whole, 2, "nothing has changed since");
        instants.note(3, &made(2), LIVE, true, Some(Seq(2)));
        instants.note(4, &Outcome::Unchanged, None, true, Some(Seq(2)));
        assert_eq!(instants.whole, 2, "the newest commit is another one");
        instants.note(5, &made(3), instant(0), true, Some(Seq(3)));
        assert_eq!(instants.whole, 5);
        let mut later = Instants::default();
        later.begin(Seq(7), Time::of_unix_ns(1), instant(0));
        later.note(1, &Outcome::Unchanged, None, true, Some(Seq(7)));
        assert_eq!((later.whole, later.counts["instant"]), (1, 0), "of an earlier process");
    }
}

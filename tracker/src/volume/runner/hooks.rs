//! When the hooks of the application run: `before` only where the first drain of a round has found something to flush, so that an
//! idle volume has no hooks; `after` once the tree need not be read any more.

use std::sync::Arc;
use std::time::Instant;

use engine::flush::{Outcome, Report};

use super::{Round, Runner};
use crate::volume::clock::wall_clock;
use crate::volume::progress::Phase;
use crate::volume::world::WorldError;
use crate::volume::world::random::random_id;

/// Why a volume that scans has no hooks: it lists the whole tree once a second, and learns only then whether anything changed.
const SCANS: &str =
    "the hooks `before` and `after` are not run: a scan cannot tell beforehand whether anything has changed";

impl Runner {
    /// Flushes; between `before` and `after` if hooks are set and there is something to flush.
    pub(super) fn flush_between_hooks(&mut self, round: Round) -> Result<bool, WorldError> {
        let result = self.quiesced(round).and_then(|round| self.flush(&round));
        // Where no flush came about, or it had nothing to look at.
        self.release(None, &Report::default());
        self.rest.failed = result.is_err();
        self.rest.unfinished |= result.is_err();
        result
    }

    /// The round to flush: this one, or, once the application is at rest, one that begins there.
    fn quiesced(&mut self, mut round: Round) -> Result<Round, WorldError> {
        let (before, after) = (&self.options.before, &self.options.after);
        let set = before.get().is_some() || after.get().is_some();
        let scans = self.opened.world.dispatcher.is_none();
        {
            let hooks = &mut self.shared.progress().hooks;
            hooks.keep_set(before, after);
            hooks.not_run = (set && scans).then_some(SCANS);
        }
        if !set || scans || self.is_first_pass() || !self.has_something(&round)? {
            return Ok(round);
        }
        if self.rest.failed {
            self.opened.world.look_for_head()?;
        }
        let catalog = Arc::clone(&self.opened.world.catalog);
        let run: String = random_id()?.iter().map(|byte| format!("{byte:02x}")).collect();
        self.shared.quiesce(&catalog, run)?;
        (round.began, round.now) = (Instant::now(), wall_clock());
        // What `before` made the application write belongs to this flush.
        round.drain = self.opened.drain(true, None)?;
        self.note_rereads();
        Ok(round)
    }

    /// The tree is copied or compared as a whole, piece by piece. That takes long, and its commits are no state to go back to.
    fn is_first_pass(&self) -> bool {
        let marks_are_trusted =
            self.opened.first_phase == Phase::Protected && self.shared.progress().capture.failed.is_none();
        !self.trusted && !marks_are_trusted
    }

    /// Whether the flush of this round would look at the tree for something that the last one has not left behind for good.
    fn has_something(&self, round: &Round) -> Result<bool, WorldError> {
        let (calm, new) = (self.is_calm(round), !self.rest.unfinished);
        let root = &self.opened.world.root;
        let any = self.opened.world.pending.has_any_except(new, |ino, marks| {
            self.rests(round, calm, ino, marks) || (root.is_owed(ino) && *marks == super::mark_of_owed())
        });
        Ok(any || self.instant_is_waited_for() || self.must_say_complete()?)
    }

    /// Lets the application go on, if it was brought to rest. `outcome`: of the flush that has just ended.
    pub(super) fn release(&self, outcome: Option<&Outcome>, report: &Report) {
        self.shared.release(|| match outcome {
            Some(Outcome::Committed(head)) => (Some(head.seq), report.consistency),
            _ => {
                let head = self.opened.world.catalog.head().ok().flatten();
                (head.map(|head| head.seq), self.shared.progress().instants.said)
            }
        });
    }
}

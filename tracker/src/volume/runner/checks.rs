//! Checks that a running volume makes of its capture: the self-test, the scrub, and what follows when one of them finds a
//! change without a mark. They use the ordinary drain of a round and make none of their own.

use std::collections::BTreeMap;

use engine::flush::world::CommittedState;

use crate::capture::BackEnd;
use crate::volume::clock::now_ns;
use crate::volume::marks::restart::Failure;
use crate::volume::opened::Opened;
use crate::volume::progress::Phase;
use crate::volume::runner::Runner;
use crate::volume::selftest::scrub::Missed;
use crate::volume::startup::eligibility::{can_be_marked, marked_fs};
use crate::volume::world::WorldError;

/// The cause for a difference found by the scrub, in counters.
const SCRUB: &str = "scrub";

impl Runner {
    /// Called before a drain.
    pub(crate) fn before_drain(&mut self) -> Result<(), WorldError> {
        self.follow_failover()?;
        if let Some((dispatcher, _)) = &self.opened.world.dispatcher {
            self.opened.self_tests.change(dispatcher);
        }
        Ok(())
    }

    /// Called after a drain, before its marks are taken.
    pub(crate) fn after_drain(&mut self) -> Result<(), WorldError> {
        let Some((dispatcher, _)) = self.opened.world.dispatcher.clone() else { return Ok(()) };
        let mut failure = self.opened.self_tests.judge(&dispatcher);
        if failure.is_none()
            && let Some(missed) = self.opened.scrub.compare(&self.opened.world)?
        {
            failure = self.scrub_failure(&missed)?;
        }
        if let Some(failure) = failure {
            tracing::error!(volume = %self.opened.name, what = failure.what, "a change was missed");
            self.opened.self_tests.fail(&dispatcher, &failure)?;
            self.follow_failover()?;
            self.shared.update(|progress| {
                *progress.capture.failures.entry(failure.cause.to_owned()).or_default() += 1;
            });
        }
        // What another volume has found is pending by now, and this round takes it.
        self.follow_failover()
    }

    /// What the scrub missed, in words. On tmpfs such a miss is expected, and another back end would miss it too: only that
    /// file is read.
    fn scrub_failure(&mut self, missed: &Missed) -> Result<Option<Failure>, WorldError> {
        let world = &self.opened.world;
        let path = world.path(missed.id)?.unwrap_or_default();
        let what = format!(
            "the scrub: {} blocks of {} from block {} on changed without a mark",
            missed.blocks,
            crate::quoting::path(&path),
            missed.first
        );
        if marked_fs(&world.root) != "tmpfs" {
            return Ok(Some(Failure { cause: SCRUB, what }));
        }
        tracing::warn!(volume = %self.opened.name, what, "stores through mappings of tmpfs leave no trace: the file is read");
        if let Some(record) = world.record(missed.id)? {
            let marks = [(record.inode.ino, engine::dirty::Marks::rescan())];
            world.pending.add(&marks, now_ns())?;
        }
        Ok(None)
    }

    /// Called at the end of a round.
    pub(crate) fn after_flush(&mut self, settled: bool) -> Result<(), WorldError> {
        let Opened { self_tests, scrub, world, .. } = &mut self.opened;
        if let Some((dispatcher, _)) = world.dispatcher.clone() {
            self_tests.prepare(&dispatcher, &world.root);
            // Before that the catalog need not match the tree.
            if self.trusted && self.shared.progress().phase == Phase::Protected {
                scrub.look(world)?;
            }
        }
        let failed = std::mem::take(&mut scrub.write_back);
        let state = self_tests.known.clone();
        let tested = world.dispatcher.is_some() && (state.passed || !state.untried.is_empty());
        let (scrubbed, differences) = (scrub.scrubbed, scrub.differences);
        for (id, cause) in failed {
            let path = self.opened.world.path(id)?.unwrap_or_default();
            self.write_back_failed(&path, &cause)?;
        }
        self.shared.update(|progress| {
            let capture = &mut progress.capture;
            capture.self_test = state;
            (capture.scrubbed, capture.differences) = (scrubbed, differences);
            // Everything was compared, and the next back end has passed its self-test. A volume that scans stays as it is.
            if settled && tested {
                capture.failed = None;
            }
        });
        Ok(())
    }

    /// Takes over the causes of full re-reads since the last drain. True: there was one.
    pub(crate) fn note_rereads(&self) -> bool {
        let rereads = match &self.opened.subscriber {
            Some(subscriber) => std::mem::take(&mut *subscriber.rereads.lock()),
            None => BTreeMap::new(),
        };
        let any = !rereads.is_empty();
        if any {
            self.shared.update(|progress| {
                for (cause, count) in rereads {
                    *progress.rereads.entry(cause.clone()).or_default() += count;
                    *progress.totals.rescan_reasons.entry(cause).or_default() += count;
                }
            });
        }
        any
    }

    /// Goes over to the back end that the process has now.
    fn follow_failover(&mut self) -> Result<(), WorldError> {
        let Some((dispatcher, _)) = self.opened.world.dispatcher.clone() else { return Ok(()) };
        if dispatcher.failovers() == self.opened.self_tests.failovers {
            return Ok(());
        }
        let opened = &mut self.opened;
        opened.self_tests.reset(&dispatcher);
        opened.scrub.reset();
        self.trusted = false;
        let mut reasons: Vec<String> = dispatcher
            .failures()
            .into_iter()
            .map(|(back_end, why)| format!("{} was given up: {why}", back_end.name()))
            .collect();
        let failed = reasons.last().cloned();
        if let Err(missing) = can_be_marked(|fs| dispatcher.supported(fs), &opened.world.root) {
            reasons.push(missing.join(", "));
            opened.scan_from_now_on()?;
        }
        let back_end = match &opened.world.dispatcher {
            Some((dispatcher, _)) => dispatcher.back_end(),
            None => BackEnd::Scan,
        };
        self.shared.update(|progress| {
            progress.capture.back_end = Some(back_end);
            progress.capture.reasons = reasons;
            progress.capture.failed = failed;
        });
        Ok(())
    }
}

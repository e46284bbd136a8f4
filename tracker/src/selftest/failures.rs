//! What a running volume does so as not to trust its capture blindly: the self-test, the audit, and what follows when one of
//! them finds a change that no mark told of. All of it lies around the ordinary drain of a round and makes none of its own.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use engine::flush::world::World;

use crate::selftest::failover::Failure;
use crate::selftest::scrub::Missed;
use crate::volume::marks::waiting::now_ns;
use crate::volume::runner::Runner;
use crate::volume::runner::progress::Phase;
use crate::volume::startup::eligibility::{can_be_marked, marked_fs};
use crate::volume::startup::open::Opened;
use crate::volume::status::Backend;
use crate::volume::world::WorldError;

/// Word for a difference that the audit found, where causes are counted.
const AUDIT: &str = "audit";

/// What is said of the capture of a running volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaptureState {
    /// The back end in operation, where it is not the one that the volume began with.
    pub back_end: Option<Backend>,
    /// Why it is not.
    pub reasons: Vec<String>,
    /// A failure whose consequences are not over.
    pub failed: Option<String>,
    pub failures: BTreeMap<String, u64>,
    pub proof: crate::selftest::schedule::Proven,
    pub audited: u64,
    pub differences: u64,
}

impl Runner {
    /// Before a drain.
    pub(crate) fn before_drain(&mut self) -> Result<(), WorldError> {
        self.adopt()?;
        if let Some((hub, _)) = &self.opened.world.hub {
            self.opened.prover.change(hub);
        }
        Ok(())
    }

    /// After a drain, before its marks are taken.
    pub(crate) fn after_drain(&mut self) -> Result<(), WorldError> {
        let Some((hub, _)) = self.opened.world.hub.clone() else { return Ok(()) };
        let mut failure = self.opened.prover.judge(&hub);
        if failure.is_none()
            && let Some(missed) = self.opened.audit.compare(&self.opened.world)?
        {
            failure = self.audit_failure(&missed)?;
        }
        if let Some(failure) = failure {
            tracing::error!(volume = %self.opened.name, what = failure.what, "a change was missed");
            self.opened.prover.fail(&hub, &failure)?;
            self.adopt()?;
            self.shared.update(|progress| {
                *progress.capture.failures.entry(failure.cause.to_owned()).or_default() += 1;
            });
        }
        // What another volume has found is pending by now, and this round takes it.
        self.adopt()
    }

    /// What was missed, in words. On tmpfs it is nothing new, and another back end would miss it too: that file is read.
    fn audit_failure(&mut self, missed: &Missed) -> Result<Option<Failure>, WorldError> {
        let world = &self.opened.world;
        let path = world.path(missed.id)?.unwrap_or_default();
        let what = format!(
            "the audit: {} blocks of {} from block {} on changed without a mark",
            missed.blocks,
            crate::quoting::path(&path),
            missed.first
        );
        if marked_fs(&world.root) != "tmpfs" {
            return Ok(Some(Failure { cause: AUDIT, what }));
        }
        tracing::warn!(volume = %self.opened.name, what, "stores through mappings of tmpfs leave no trace: the file is read");
        if let Some(record) = world.record(missed.id)? {
            let marks = [(record.inode.ino, engine::dirty::Marks::rescan())];
            world.pending.add(&marks, now_ns())?;
        }
        Ok(None)
    }

    /// At the end of a round.
    pub(crate) fn after_flush(&mut self, settled: bool) -> Result<(), WorldError> {
        let Opened { prover, audit, world, .. } = &mut self.opened;
        if let Some((hub, _)) = world.hub.clone() {
            prover.prepare(&hub, &world.root);
            // Before that the catalog is not the tree, and nobody expects it.
            if self.trusted && self.shared.progress().phase == Phase::Protected {
                audit.look(world)?;
            }
        }
        let failed = std::mem::take(&mut audit.write_back);
        let proof = prover.known.clone();
        let tested = world.hub.is_some() && (proof.proven || !proof.untried.is_empty());
        let (audited, differences) = (audit.audited, audit.differences);
        for (id, cause) in failed {
            let path = self.opened.world.path(id)?.unwrap_or_default();
            self.write_back_failed(&path, &cause)?;
        }
        self.shared.update(|progress| {
            let capture = &mut progress.capture;
            capture.proof = proof;
            (capture.audited, capture.differences) = (audited, differences);
            // Everything was compared, and the next back end has shown that it sees. A volume that scans stays as it is.
            if settled && tested {
                capture.failed = None;
            }
        });
        Ok(())
    }

    /// Takes over what the drains have found doubtful. True: there was something.
    pub(crate) fn note_doubts(&self) -> bool {
        let doubts = match &self.opened.sink {
            Some(sink) => std::mem::take(&mut *sink.doubts.lock().unwrap_or_else(PoisonError::into_inner)),
            None => BTreeMap::new(),
        };
        let any = !doubts.is_empty();
        if any {
            self.shared.update(|progress| {
                for (cause, count) in doubts {
                    *progress.doubts.entry(cause.clone()).or_default() += count;
                    *progress.totals.rescan_reasons.entry(cause).or_default() += count;
                }
            });
        }
        any
    }

    /// Goes over to the back end that the process has now.
    fn adopt(&mut self) -> Result<(), WorldError> {
        let Some((hub, _)) = self.opened.world.hub.clone() else { return Ok(()) };
        if hub.epoch() == self.opened.prover.epoch {
            return Ok(());
        }
        let opened = &mut self.opened;
        opened.prover.reset(&hub);
        opened.audit.reset();
        self.trusted = false;
        let mut reasons: Vec<String> = hub
            .failures()
            .into_iter()
            .map(|(back_end, why)| format!("{} was given up: {why}", back_end.name()))
            .collect();
        let failed = reasons.last().cloned();
        if let Err(missing) = can_be_marked(|fs| hub.supported(fs), &opened.world.root) {
            reasons.push(missing.join(", "));
            opened.scan_from_now_on()?;
        }
        let back_end = Backend::of(match &opened.world.hub {
            Some((hub, _)) => hub.back_end(),
            None => crate::capture::BackEnd::Scan,
        });
        self.shared.update(|progress| {
            progress.capture.back_end = Some(back_end);
            progress.capture.reasons = reasons;
            progress.capture.failed = failed;
        });
        Ok(())
    }
}

//! The rounds of a volume that is open: it drains, flushes, pauses, and notes what it learns for `status`, until an obstacle
//! ends it. `life` opens the volume, calls this in the volume's thread, and decides what follows.
//!
//! ```text
//! starting -> baseline | verifying -> protected <-> degraded      fenced (ends)      stopped (ends)
//! ```

pub(crate) mod checks;
mod hooks;
mod instant;
pub mod pace;
pub(crate) mod patience;
mod persons;
pub(crate) mod rest;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::dirty::{DirtySet, Marks};
use engine::flush::{self, FlushFacts, Limits, Outcome, Report, Steps};
use engine::model::{CommitId, Ino, Seq, Time};
use engine::source::FileError;

use crate::config::VolumeOptions;
use crate::repository::{Closing, WriteError};
use crate::units;
use crate::volume::clock::{now_ns, wall_clock};
use crate::volume::mass_delete::Guard;
use crate::volume::opened::Opened;
use crate::volume::progress::{Phase, Progress, Shared};
use crate::volume::runner::pace::Pace;
use crate::volume::runner::patience::{Failed, HURRY, IDLE_MAX, Patience, counts_from, shared_since};
use crate::volume::runner::rest::Rest;
use crate::volume::ways_on::Obstacle;
use crate::volume::world::WorldError;
use crate::volume::world::random::random_id;
use crate::volume::world::unread::Unread;
use crate::volume::world::write_back::WriteBack;

/// The state that belongs to the thread alone.
pub struct Runner {
    pub opened: Opened,
    pub shared: Arc<Shared>,
    /// The settings of the current round.
    pub options: VolumeOptions,
    /// The first pass is complete.
    pub trusted: bool,
    pub pace: Pace,
    pub guard: Guard,
    /// Inodes that are checked less often while removals wait.
    pub waits: HashSet<Ino>,
    pub(crate) rest: Rest,
}

/// One round, and its last drain.
struct Round {
    number: u64,
    /// Somebody waits for it.
    hurry: bool,
    /// It follows a request to stop.
    last: bool,
    began: Instant,
    now: Time,
    drain: u64,
}

/// What a flush left for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// Only what the next flush cannot read either.
    Lasting,
    Open,
}

impl Runner {
    /// Runs until `stop`, a fence, or a final error.
    pub fn run(mut self) -> Result<(), Obstacle> {
        let phase = self.opened.first_phase;
        let write_back = WriteBack::load(&self.opened.world.catalog);
        let head = self.opened.world.catalog.head().ok().flatten();
        let said =
            head.as_ref().and_then(|head| self.opened.world.writer.reader(head.seq).consistency(head.seq).ok()?);
        let wall = head.as_ref().map(|head| head.standing.map_or(head.time, |standing| standing.wall));
        let head = head.map(|head| head.seq);
        self.shared.update(|progress| {
            if let (Some(seq), Some(wall), Some((said, _))) = (head, wall, said) {
                progress.instants.begin(seq, wall, said);
            }
            progress.phase = phase;
            progress.write_back = write_back;
            progress.armed = true;
            progress.started = Some(Instant::now());
            if phase != Phase::Baseline {
                progress.baseline_seq = head.or(Some(Seq::NONE));
            }
        });
        if let Some((dispatcher, _)) = self.opened.world.dispatcher.clone() {
            self.opened.self_tests.prepare(&dispatcher, &self.opened.world.root);
        }
        let result = self.rounds();
        if let Some((dispatcher, _)) = self.opened.world.dispatcher.clone() {
            self.opened.self_tests.reset(&dispatcher);
        }
        let fenced = self.shared.progress().fenced();
        match fenced {
            Some(fenced) => {
                self.shared.update(|progress| progress.phase = Phase::Fenced);
                Err(fenced.into())
            }
            None => result,
        }
    }

    fn rounds(&mut self) -> Result<(), Obstacle> {
        let mut patience = Patience::default();
        let mut last_tries = 0;
        loop {
            let started = Instant::now();
            self.options = self.shared.config().options.clone();
            self.opened.scrub.set_rate(self.options.scrub.0);
            self.opened.world.pause = self.options.pause.0;
            let last = self.shared.progress().stop;
            self.opened.check_source()?;
            let asked = self.opened.meter.requests();
            match self.round() {
                Ok(true) => self.succeeded(&mut patience, self.opened.meter.requests() > asked),
                Ok(false) => return Ok(()),
                Err(error) => {
                    // The failure may come from the source.
                    self.opened.check_source()?;
                    self.failed(&mut patience, &error);
                }
            }
            if last && (self.is_over(!patience.is_failing(), &mut last_tries)) {
                return Ok(());
            }
            self.rest.ended = Some(Instant::now());
            if !last {
                self.pause(counts_from(started, self.opened.drained, self.options.interval.0), &patience);
            }
        }
    }

    /// Called when a round succeeded. `asked`: it used the store.
    fn succeeded(&self, patience: &mut Patience, asked: bool) {
        let (clean, awaited, unsettled) = {
            let progress = self.shared.progress();
            let (clean, awaited) = progress.was_clean();
            (clean, awaited, progress.unsettled)
        };
        if let Some(away) = patience.ended(clean, awaited, asked && !unsettled, Instant::now()) {
            let volume = &self.opened.name;
            tracing::info!(%volume, after = units::show_seconds(away.as_secs_f64()), "the store is back");
        }
        self.shared.update(|progress| (progress.last_error, progress.hint, progress.lost) = (None, None, None));
    }

    /// Called when a round failed and will be repeated.
    fn failed(&self, patience: &mut Patience, error: &WorldError) {
        let message = error.to_string();
        let (what, hint) = match error {
            WorldError::Write(WriteError::Store(error)) => {
                (Failed::Store(error.kind.trouble()), error.hint().to_owned())
            }
            _ => (Failed::Other(&message), String::new()),
        };
        if let Some(unsaid) = patience.failed(what, self.options.interval.0, Instant::now()) {
            let volume = &self.opened.name;
            match what {
                Failed::Store(_) => {
                    tracing::warn!(%volume, hint, unsaid, "the store is away, it is tried again by itself: {message}");
                }
                Failed::Other(_) => {
                    tracing::warn!(%volume, error = message, unsaid, "flush failed, will be tried again");
                }
            }
        }
        let lost = matches!(error, WorldError::Write(WriteError::Lost { .. }));
        self.shared.update(|progress| {
            progress.lost = lost.then(|| (message.clone(), progress.begun));
            progress.last_error = Some(message);
            progress.hint = (!hint.is_empty()).then_some(hint);
        });
        // What was taken is still in the catalog; make it wait again in memory too.
        self.opened.world.pending.give_back_taken();
    }

    /// Whether a round that began after a stop request was the last one. A failed round is repeated while there is time.
    /// Work left over gets a few more rounds, since only a second listing proves a removal.
    fn is_over(&self, succeeded: bool, tries: &mut u32) -> bool {
        let (by, clean) = {
            let progress = self.shared.progress();
            (progress.stop_by, progress.clean == progress.begun)
        };
        let left = by.map_or(Duration::ZERO, |by| by.saturating_duration_since(Instant::now()));
        if succeeded {
            *tries += 1;
        }
        if clean || left.is_zero() || *tries > LAST_TRIES {
            return true;
        }
        std::thread::sleep(left.min(if succeeded { HURRY } else { LAST_GAP }));
        false
    }

    /// Waits for the next round. Does not wait after a stop request, which gets one last round.
    fn pause(&mut self, started: Instant, patience: &Patience) {
        let mut progress = self.shared.progress();
        loop {
            if progress.stop {
                return;
            }
            let gap = if progress.heard < progress.asked {
                HURRY
            } else {
                patience.gap(self.options.interval.0, progress.hurry > 0)
            };
            let left = (started + gap).saturating_duration_since(Instant::now());
            if !left.is_zero() {
                self.shared.changed.wait_for(&mut progress, left);
            } else if progress.hurry == 0 && started.elapsed() < IDLE_MAX && self.is_idle(&progress) {
                self.shared.changed.wait_for(&mut progress, gap.min(IDLE_MAX));
            } else {
                return;
            }
        }
    }

    /// Whether a round now would find nothing to do.
    fn is_idle(&self, progress: &Progress) -> bool {
        let done =
            progress.heard == progress.asked && progress.clean == progress.ended && progress.left_over.is_empty();
        let protects = progress.phase == Phase::Protected && progress.last_error.is_none();
        let is_still = self.opened.subscriber.as_ref().is_some_and(|subscriber| subscriber.is_idle());
        done && protects && self.trusted && is_still && !self.opened.self_tests.waits()
    }

    /// One drain and one flush, or two drains with a hook between them. False: fenced.
    fn round(&mut self) -> Result<bool, WorldError> {
        let began = Instant::now();
        let begin = |progress: &mut Progress| {
            progress.begun += 1;
            let asked = std::mem::replace(&mut progress.heard, progress.asked) < progress.asked;
            (progress.begun, progress.hurry > 0, progress.stop, asked)
        };
        let (number, hurry, last, asked) = begin(&mut self.shared.progress());
        self.take_acknowledgement()?;
        self.take_confirmation();
        let now = wall_clock();
        self.before_drain()?;
        let since = self.rest.ended.map(|ended| ended.max(shared_since(began, self.options.interval.0)));
        let drain = self.opened.drain(hurry || last || asked || self.opened.self_tests.waits(), since)?;
        self.after_drain()?;
        self.write_back_what_is_owed()?;
        self.note_rereads();
        self.flush_between_hooks(Round { number, hurry, last, began, now, drain })
    }

    /// Marks a block of files that were read without a write-back a while ago, so that this flush writes them back.
    fn write_back_what_is_owed(&self) -> Result<(), WorldError> {
        let mark = |ino| (ino, mark_of_owed());
        let owed: Vec<(Ino, Marks)> = self.opened.world.root.take_unwritten().into_iter().map(mark).collect();
        if owed.is_empty() { Ok(()) } else { Ok(self.opened.world.pending.add(&owed, now_ns())?) }
    }

    /// Nobody waits for this round.
    fn is_calm(&self, round: &Round) -> bool {
        !round.hurry && !round.last && !self.shared.progress().awaits_reread()
    }

    /// Whether marks of an inode wait for a later round than this one.
    fn rests(&self, round: &Round, calm: bool, ino: Ino, marks: &Marks) -> bool {
        // Also before the first pass is complete, since it cannot complete while removals wait.
        let waits = calm && self.guard.rests(round.began) && self.waits.contains(&ino);
        waits || (calm && self.trusted && self.pace.rests(ino, marks, round.began))
    }

    /// Takes what waits, and flushes it.
    fn flush(&mut self, round: &Round) -> Result<bool, WorldError> {
        let Round { number, began, .. } = *round;
        let calm = self.is_calm(round);
        let pending = Arc::clone(&self.opened.world.pending);
        let (taken, resting) = pending.take_except(|ino, marks| self.rests(round, calm, ino, marks));
        let mapped = pending.take_mapped(&taken);
        if self.shared.progress().lost.is_some() {
            // Nothing is committed onto a history that the store has lost: wait until it is back.
            self.opened.world.look_for_head()?;
            self.shared.update(|progress| progress.lost = None);
        }
        let waited_for = self.instant_is_waited_for();
        let had = !taken.is_empty() || self.opened.world.catalog.intent()?.is_some() || waited_for;
        let had = had || self.must_say_complete()?;
        let mut report = Report::default();
        let mut unread = Unread::default();
        let (outcome, mut kept) = if had {
            if self.opened.world.close_era_if_due()? == Closing::Fenced {
                let seq = self.opened.world.catalog.head()?.unwrap_or_default().seq + 1;
                return self.after(number, began, &Outcome::Fenced { seq }, Left::Open, report, unread);
            }
            let facts = FlushFacts {
                volume: self.opened.volume_id,
                writer: self.opened.writer.id,
                epoch: self.opened.writer.epoch,
                commit_id: CommitId(random_id()?),
                now: round.now,
                drain: round.drain,
                compare: self.opened.compare,
                baseline: self.trusted,
                instant: self.instant(resting),
                prove_instant: waited_for || self.head_is_live(),
                steps: Steps::ALL,
                limits: Limits::DEFAULT,
                max_delete: self.guard.rule(self.options.max_delete.0, began),
            };
            let result = flush::flush(&mut self.opened.world, &taken, &facts, &mut report);
            self.release(result.as_ref().ok().map(|(outcome, _)| outcome), &report);
            let told = Unread::of(&self.opened.world, &report);
            self.opened.world.end_flush();
            unread = told?;
            result?
        } else {
            (Outcome::Unchanged, DirtySet::default())
        };
        let covered = self.opened.world.take_covered(&mut kept)?;
        if had {
            let rested = calm && self.guard.rests(began);
            self.note_held(&report, &kept, outcome.is_settled(), rested, began);
        }
        pending.give_back_except(&kept, &covered);
        self.opened.world.remember_foreign()?;
        self.pace.note(self.opened.world.root.take_cleans(), &mapped, self.options.interval.0, Instant::now());
        if round.hurry && outcome.is_settled() {
            self.opened.world.look_for_head()?;
        }
        let left = match () {
            () if resting > 0 => Left::Open,
            () if kept.is_empty() => Left::Nothing,
            () if report.only_lasting(&kept) => Left::Lasting,
            () => Left::Open,
        };
        self.rest.note_left(left == Left::Open, self.opened.world.stalled());
        self.after(number, began, &outcome, left, report, unread)
    }

    /// This may be the only report that the application's owner ever gets: keep it until it is acknowledged.
    pub(crate) fn write_back_failed(&self, path: &Path, cause: &str) -> Result<(), WorldError> {
        tracing::error!(volume = %self.opened.name, path = crate::quoting::path(path), cause, "write-back failed");
        let mut errors = self.shared.progress().write_back.clone().unwrap_or_default();
        errors.add(path, cause, now_ns());
        errors.save(&self.opened.world.catalog)?;
        self.shared.update(|progress| {
            progress.totals.write_back_errors += 1;
            progress.write_back = Some(errors);
        });
        Ok(())
    }

    /// Whether the first pass is complete but the newest commit does not say so, so that a flush must make one that does.
    /// The commit may be of an older format version, or what was left then needed no commit.
    fn must_say_complete(&self) -> Result<bool, WorldError> {
        let head = self.opened.world.catalog.head()?;
        Ok(self.trusted && head.is_some_and(|head| head.standing.is_none_or(|standing| !standing.baseline)))
    }

    fn after(
        &mut self,
        number: u64,
        began: Instant,
        outcome: &Outcome,
        left: Left,
        report: Report,
        mut unread: Unread,
    ) -> Result<bool, WorldError> {
        let seconds = began.elapsed().as_secs_f64();
        let unsettled = *outcome == Outcome::Unsettled;
        if let Some(found) = report.consistency {
            self.opened.world.search_ended(found);
        }
        let damaged = self.opened.world.damaged.take();
        // Includes causes from another volume's drain or a new file: their marks came after those of this flush.
        let reread = self.note_rereads();
        let clean = flush::acknowledges(outcome, left == Left::Nothing, Steps::ALL) && !reread;
        // What cannot be read is reported and waits; nothing else waits for it.
        let settled = flush::acknowledges(outcome, left != Left::Open, Steps::ALL) && !reread;
        // A file that comes back to a place not compared yet has to be compared: until then the first pass is not complete.
        let held = self.shared.progress().held.clone();
        let passed = held.is_none() || !self.opened.compare_once;
        if settled && passed && !self.trusted {
            self.opened.trust()?;
            self.trusted = true;
        }
        for (path, cause) in &unread.write_back {
            self.write_back_failed(path, cause)?;
        }
        let before = std::mem::take(&mut self.shared.progress().unreadable);
        unread.carry_on(&before);
        unread.warn(&self.opened.name, &before);
        let Unread { mut left_over, paths: unreadable, .. } = unread;
        if report.removals_waiting > 0 {
            left_over.push(format!("{} removals wait for proof", report.removals_waiting));
        }
        left_over.extend(held.map(|held| held.to_string()));
        if unsettled {
            left_over
                .push(damaged.unwrap_or_else(|| "the store has not told whether the last commit took effect".into()));
        }
        tracing::debug!(volume = %self.opened.name, number, seconds, clean, ?left_over, "a flush ended");
        let interval = self.options.interval.0;
        let head = self.opened.world.catalog.head()?.map(|head| head.seq).or(Some(Seq::NONE));
        let foreign: Vec<PathBuf> = self.opened.world.foreign.keys().cloned().collect();
        let (watch_full, stalled) = (self.opened.world.watch_full, self.opened.world.stalled() as u64);
        self.shared.update(|progress| {
            let totals = &mut progress.totals;
            totals.flushes += 1;
            totals.commits += u64::from(matches!(outcome, Outcome::Committed(_)));
            totals.files_read += report.files_read;
            totals.bytes_read += report.bytes_read;
            totals.bytes_marked += report.bytes_marked;
            totals.bytes_literal += report.bytes_literal;
            totals.rescans += report.rescans;
            totals.carried += report.carried;
            totals.flush_seconds_last = seconds;
            totals.flush_histogram.observe(seconds);
            totals.slow_flushes += u64::from(seconds > interval.as_secs_f64());
            let of = |is: fn(&FileError) -> bool| report.errors.iter().filter(|(_, error)| is(error)).count() as u64;
            totals.late += of(|error| matches!(error, FileError::Late));
            totals.write_back_failing = of(|error| matches!(error, FileError::WriteBack { .. }));
            progress.ended = number;
            if clean {
                progress.clean = number;
            }
            if settled {
                progress.settled = number;
                progress.rereads.clear();
                progress.baseline_seq = progress.baseline_seq.or(head);
                if passed && matches!(progress.phase, Phase::Baseline | Phase::Verifying | Phase::Starting) {
                    progress.phase = Phase::Protected;
                }
            }
            progress.left_over = left_over;
            progress.unreadable = unreadable;
            progress.removals_waiting = report.removals_waiting;
            progress.unsettled = unsettled;
            progress.watch_full = watch_full;
            progress.stalled = stalled;
            progress.foreign = foreign;
            progress.instants.note(number, outcome, report.consistency, clean, head);
            if let Outcome::Fenced { seq } = outcome {
                // Set both under one lock: in between, no caller may be told that all is well.
                (progress.fenced_at, progress.phase) = (Some(*seq), Phase::Fenced);
            }
        });
        self.after_flush(settled)?;
        Ok(!matches!(outcome, Outcome::Fenced { .. }))
    }
}

/// The mark of a file of which nothing is known but that it is to be written back. A write would also have marked its change time.
fn mark_of_owed() -> Marks {
    Marks { blocks: [0].into_iter().collect(), ..Marks::default() }
}

/// Rounds after a stop request that may leave something, and the time between failed ones.
const LAST_TRIES: u32 = 3;
const LAST_GAP: Duration = Duration::from_millis(250);

//! The life of one protected volume: a thread that drains, flushes, waits, and keeps what it learns for `status`.
//!
//! ```text
//! starting -> baseline | verifying -> protected <-> degraded      fenced (ends)      stopped (ends)
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::dirty::DirtySet;
use engine::flush::{self, Facts, Limits, Outcome, Report, Steps};
use engine::model::Time;

use super::era;
use super::hub::Sink;
use super::open::Opened;
use super::pending::now_ns;
use super::world::WorldError;
use crate::store::StoreError;

/// Longest wait between tries while the store does not answer.
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// What others may see and ask of a running volume.
#[derive(Debug, Default)]
pub struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Clone, Debug, Default)]
pub struct Progress {
    stop: bool,
    /// Somebody waits: do not wait for the interval.
    hurry: u32,
    /// Flushes whose SWAP has begun.
    begun: u64,
    /// The newest flush after which nothing was left over.
    clean: u64,
    /// The newest flush that ended at all.
    ended: u64,
    pub phase: Phase,
    pub totals: Totals,
    pub left_over: Vec<String>,
    pub last_error: Option<String>,
    pub fenced_at: Option<u64>,
    pub unreadable: BTreeMap<String, String>,
    pub removals_waiting: u64,
    pub unsettled: bool,
    pub watch_full: bool,
    pub stalled: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Starting,
    /// The first copy of the tree is on its way.
    Baseline,
    /// Marks are not trusted yet: the tree is compared with the catalog.
    Verifying,
    Protected,
    Fenced,
    Stopped,
}

/// Counters since the start of this process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    pub flushes: u64,
    pub commits: u64,
    pub files_read: u64,
    pub bytes_read: u64,
    pub bytes_marked: u64,
    pub bytes_literal: u64,
    pub rescans: u64,
    pub carried: u64,
    pub late: u64,
    pub write_back_errors: u64,
    pub flush_seconds: f64,
    pub flush_seconds_last: f64,
    pub rescan_reasons: BTreeMap<String, u64>,
}

/// How a wait for a sync ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Synced {
    Done,
    /// At the deadline something was still unreadable, unclean, carried over or in doubt.
    Partial(Vec<String>),
    Ended(Phase),
}

impl Shared {
    pub fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn stop(&self) {
        self.progress().stop = true;
        self.changed.notify_all();
    }

    /// Waits for a flush whose SWAP begins after this call and that leaves nothing over.
    pub fn sync(&self, timeout: Duration) -> Synced {
        let deadline = Instant::now() + timeout;
        let mut progress = self.progress();
        let wanted = progress.begun + 1;
        progress.hurry += 1;
        self.changed.notify_all();
        let result = loop {
            if progress.clean >= wanted && progress.phase == Phase::Protected {
                break Synced::Done;
            }
            if matches!(progress.phase, Phase::Fenced | Phase::Stopped) {
                break Synced::Ended(progress.phase);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let mut why = progress.left_over.clone();
                why.extend(progress.last_error.clone());
                if why.is_empty() {
                    why.push("the flush did not end in time".into());
                }
                break Synced::Partial(why);
            }
            progress = self.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        progress.hurry -= 1;
        result
    }

    /// Waits until the volume is armed and its baseline is committed, or has ended.
    pub fn wait_ready(&self) -> Phase {
        let mut progress = self.progress();
        while !matches!(progress.phase, Phase::Protected | Phase::Fenced | Phase::Stopped) {
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        progress.phase
    }

    fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress());
        self.changed.notify_all();
    }
}

/// The thread's own part.
pub struct Runner {
    pub opened: Opened,
    pub shared: Arc<Shared>,
    pub interval: Duration,
}

/// Errors after which trying again makes no sense.
fn is_final(error: &WorldError) -> bool {
    matches!(error, WorldError::ForeignPack { .. } | WorldError::Encode(_))
}

impl Runner {
    /// Runs until `stop`, a fence, or a final error.
    pub fn run(mut self) -> Result<(), WorldError> {
        let phase = self.opened.first_phase;
        self.shared.update(|progress| progress.phase = phase);
        let result = self.rounds();
        if let Err(error) = &result {
            let message = error.to_string();
            self.shared.update(|progress| progress.last_error = Some(message));
        }
        let fenced = self.shared.progress().fenced_at.is_some();
        self.shared.update(|progress| progress.phase = if fenced { Phase::Fenced } else { Phase::Stopped });
        result
    }

    fn rounds(&mut self) -> Result<(), WorldError> {
        let mut backoff = Duration::ZERO;
        loop {
            let started = Instant::now();
            match self.round() {
                Ok(true) => {
                    backoff = Duration::ZERO;
                    self.shared.update(|progress| progress.last_error = None);
                }
                Ok(false) => return Ok(()),
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(volume = %self.opened.name, %error, "flush failed, will be tried again");
                    let message = error.to_string();
                    self.shared.update(|progress| progress.last_error = Some(message));
                    // What was taken is in the catalog still, and in memory again.
                    self.opened.world.pending.give_back_taken();
                    backoff = (backoff * 2).clamp(self.interval, BACKOFF_MAX);
                }
            }
            if !self.pause(started, backoff) {
                return Ok(());
            }
        }
    }

    /// Waits for the next round. False: stop (after a last flush).
    fn pause(&mut self, started: Instant, backoff: Duration) -> bool {
        let gap = self.interval.max(backoff);
        let mut progress = self.shared.progress();
        loop {
            if progress.stop {
                return false;
            }
            let gap = if progress.hurry > 0 { gap.min(HURRY) } else { gap };
            let left = (started + gap).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            progress = self.shared.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// One drain and one flush. False: fenced.
    fn round(&mut self) -> Result<bool, WorldError> {
        let began = Instant::now();
        let number = {
            let mut progress = self.shared.progress();
            progress.begun += 1;
            progress.begun
        };
        let now = wall_clock();
        let drain = self.opened.drain()?;
        self.note_doubts();
        let taken = self.opened.world.pending.take();
        let had = !taken.is_empty() || self.opened.world.catalog.intent()?.is_some();
        let mut report = Report::default();
        let (outcome, kept) = if had {
            era::close_if_due(&mut self.opened)?;
            let facts = Facts {
                volume: self.opened.volume_id,
                writer: self.opened.writer.id,
                epoch: self.opened.writer.epoch,
                commit_id: super::random_id()?,
                now,
                drain,
                compare: self.opened.compare,
                steps: Steps::ALL,
                limits: Limits::DEFAULT,
            };
            let result = flush::flush(&mut self.opened.world, &taken, &facts, &mut report);
            self.opened.world.end_flush();
            result?
        } else {
            (Outcome::Unchanged, DirtySet::default())
        };
        self.opened.world.pending.give_back(&kept);
        self.after(number, began, &outcome, &kept, report)
    }

    fn note_doubts(&self) {
        let doubts = match &self.opened.sink {
            Some(sink) => std::mem::take(&mut *sink.doubts.lock().unwrap_or_else(PoisonError::into_inner)),
            None => BTreeMap::new(),
        };
        if !doubts.is_empty() {
            self.shared.update(|progress| {
                for (cause, count) in doubts {
                    *progress.totals.rescan_reasons.entry(cause).or_default() += count;
                }
            });
        }
    }

    fn after(
        &mut self,
        number: u64,
        began: Instant,
        outcome: &Outcome,
        kept: &DirtySet,
        report: Report,
    ) -> Result<bool, WorldError> {
        let seconds = began.elapsed().as_secs_f64();
        let unsettled = *outcome == Outcome::Unsettled;
        let clean = kept.is_empty() && !unsettled;
        if clean && self.opened.compare_once {
            self.opened.trust()?;
        }
        let mut unreadable = BTreeMap::new();
        let mut left_over = Vec::new();
        for (id, error) in &report.errors {
            let path = self.opened.world.path(*id)?.unwrap_or_default().to_string_lossy().into_owned();
            left_over.push(format!("{path}: {error}"));
            if matches!(error, flush::world::FileError::Unreadable { .. }) {
                unreadable.insert(path, error.to_string());
            }
        }
        for (id, cause) in &report.unlisted {
            let path = self.opened.world.path(*id)?.unwrap_or_default().to_string_lossy().into_owned();
            left_over.push(format!("{path}: directory cannot be listed: {cause}"));
            unreadable.insert(path, cause.clone());
        }
        if report.removals_waiting > 0 {
            left_over.push(format!("{} removals wait for proof", report.removals_waiting));
        }
        if unsettled {
            left_over.push("the store has not told whether the last commit took effect".into());
        }
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
            totals.flush_seconds += seconds;
            totals.flush_seconds_last = seconds;
            for (_, error) in &report.errors {
                match error {
                    flush::world::FileError::Late => totals.late += 1,
                    flush::world::FileError::WriteBack { .. } => totals.write_back_errors += 1,
                    _ => {}
                }
            }
            progress.ended = number;
            if clean {
                progress.clean = number;
                if matches!(progress.phase, Phase::Baseline | Phase::Verifying | Phase::Starting) {
                    progress.phase = Phase::Protected;
                }
            }
            progress.left_over = left_over;
            progress.unreadable = unreadable;
            progress.removals_waiting = report.removals_waiting;
            progress.unsettled = unsettled;
            progress.watch_full = watch_full;
            progress.stalled = stalled;
            if let Outcome::Fenced { seq } = outcome {
                progress.fenced_at = Some(*seq);
            }
        });
        for (id, error) in &report.errors {
            if let flush::world::FileError::WriteBack { cause } = error {
                // Perhaps the only report the owner of the application ever gets.
                tracing::error!(volume = %self.opened.name, file = %id, %cause, "write-back failed");
            }
        }
        Ok(!matches!(outcome, Outcome::Fenced { .. }))
    }
}

/// Pause between rounds while somebody waits for a sync.
const HURRY: Duration = Duration::from_millis(5);

/// The wall clock as a commit records it.
pub fn wall_clock() -> Time {
    let ns = now_ns();
    Time { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
}

/// For `status`.
pub fn is_store_error(error: &WorldError) -> Option<&StoreError> {
    match error {
        WorldError::Store(error) => Some(error),
        _ => None,
    }
}

/// What the hub needs to know of a volume.
pub type HubSink = Arc<Sink>;

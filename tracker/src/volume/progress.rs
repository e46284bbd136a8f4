//! What a running volume shows and what others may ask of it: phase, counters, full re-reads, stop, waiters of `sync`.

mod hooks;
mod instants;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::model::Seq;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::capture::BackEnd;
use crate::config::VolumeConfig;
use crate::error::{AppError, ExitCode};
use crate::source::has_area_name;
use crate::volume::hooks::{Due, HooksShown};
use crate::volume::mass_delete::Held;
use crate::volume::selftest::schedule::SelfTestState;
use crate::volume::status::{Histogram, State};
use crate::volume::world::write_back::WriteBack;

pub use instants::Instants;

/// What is shown of the capture of a running volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaptureState {
    /// The back end in operation, if it differs from the first one of the volume.
    pub back_end: Option<BackEnd>,
    /// Why it differs.
    pub reasons: Vec<String>,
    /// A failure whose full re-read is not complete.
    pub failed: Option<String>,
    pub failures: BTreeMap<String, u64>,
    pub self_test: SelfTestState,
    pub scrubbed: u64,
    pub differences: u64,
}

/// What others may see and ask of a running volume.
#[derive(Debug)]
pub struct Shared {
    /// The current configuration; the volume's thread applies it at its next round.
    config: Mutex<Arc<VolumeConfig>>,
    progress: Mutex<Progress>,
    /// The hook `after` of the flush under way, until somebody runs it.
    due: Mutex<Option<Due>>,
    pub(crate) changed: Condvar,
}

#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub(crate) stop: bool,
    /// The volume is to be opened again after the stop.
    reopening: bool,
    /// The deadline for the last flush, once a stop was requested.
    pub(crate) stop_by: Option<Instant>,
    /// How many callers wait, so that the interval is skipped.
    pub(crate) hurry: u32,
    /// How often a caller began to wait, and how many of these a round has started after: each gets one round at once.
    pub(crate) asked: u64,
    pub(crate) heard: u64,
    /// Flushes whose SWAP has started.
    pub(crate) begun: u64,
    /// The newest flush after which nothing was left.
    pub(crate) clean: u64,
    /// The newest flush after which nothing was left but what cannot be read.
    pub(crate) settled: u64,
    /// The newest flush that has ended, whatever its result.
    pub(crate) ended: u64,
    pub phase: Phase,
    pub totals: Totals,
    pub instants: Instants,
    pub left_over: Vec<String>,
    pub last_error: Option<String>,
    /// What an operator can do about it.
    pub hint: Option<String>,
    pub fenced_at: Option<Seq>,
    /// The store lacks commits of this host: why, and the flush that found it last.
    pub lost: Option<(String, u64)>,
    pub unreadable: BTreeMap<PathBuf, String>,
    /// Changes are being marked (or the tree is being compared).
    pub armed: bool,
    pub baseline_seq: Option<Seq>,
    pub started: Option<Instant>,
    /// Names inside the tree that are not part of the volume.
    pub foreign: Vec<PathBuf>,
    pub removals_waiting: u64,
    pub unsettled: bool,
    pub watch_full: bool,
    pub stalled: u64,
    /// Causes of full re-reads and how often each occurred, until a flush leaves nothing.
    pub rereads: BTreeMap<String, u64>,
    /// Write-back errors that nobody has acknowledged.
    pub write_back: Option<WriteBack>,
    /// A person has acknowledged them; the volume's thread has not recorded that yet.
    pub(crate) acknowledge: bool,
    /// Removals that wait for confirmation by a person.
    pub held: Option<Held>,
    /// How many removals a person has confirmed; the volume's thread has not recorded that yet.
    pub(crate) confirm: Option<u64>,
    pub capture: CaptureState,
    pub hooks: HooksShown,
    /// What the volume waits for before it can start or go on.
    pub waiting: Option<AppError>,
    /// A caller requested a try at once.
    pub(crate) retry: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Starting,
    /// Its source or its store is away; it is tried again automatically.
    Waiting,
    /// The first copy of the tree is being made.
    Baseline,
    /// Marks are not trusted yet: the tree is compared with the catalog.
    Verifying,
    Protected,
    Fenced,
    Stopped,
}

impl From<Phase> for State {
    fn from(phase: Phase) -> State {
        match phase {
            Phase::Starting => State::Starting,
            Phase::Waiting => State::Waiting,
            Phase::Baseline => State::Baseline,
            Phase::Verifying => State::Verifying,
            Phase::Protected => State::Protected,
            Phase::Fenced => State::Fenced,
            Phase::Stopped => State::Stopped,
        }
    }
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
    pub flush_seconds_last: f64,
    pub flush_histogram: Histogram,
    /// Flushes that took longer than the interval.
    pub slow_flushes: u64,
    pub rescan_reasons: BTreeMap<String, u64>,
    /// Files of the last flush whose write-back failed.
    pub write_back_failing: u64,
}

/// How a wait for a sync ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Synced {
    Done,
    /// At the deadline something was still unreadable, not clean, carried over or waiting for a full re-read.
    Partial(Vec<String>),
    Ended(Phase),
}

impl Progress {
    /// Whether a full re-read is not complete, which needs a flush that leaves nothing.
    pub(crate) fn awaits_reread(&self) -> bool {
        !self.rereads.is_empty() || self.capture.failed.is_some()
    }

    /// The answer for a caller that waits for a flush numbered `wanted` or later to leave nothing; `None`: keep waiting.
    fn answer(&self, wanted: u64, instant: bool) -> Option<Synced> {
        let done = if instant { self.instants.whole } else { self.clean };
        match (&self.lost, self.phase) {
            (_, Phase::Fenced | Phase::Stopped) => Some(Synced::Ended(self.phase)),
            (Some((why, at)), _) if *at >= wanted => Some(Synced::Partial(vec![why.clone()])),
            (_, Phase::Protected) if done >= wanted && self.fenced_at.is_none() => Some(Synced::Done),
            _ => None,
        }
    }

    /// The error if another writer's commit was met.
    pub(crate) fn fenced(&self) -> Option<AppError> {
        self.fenced_at.map(|seq| {
            AppError::new(ExitCode::Locked, format_args!("another writer has made commit {seq}: this one stops"))
                .hint("one host writes a volume; its commits and ours up to there are in the store")
        })
    }

    /// Whether the last round left nothing, and whether a caller waits.
    pub(crate) fn was_clean(&self) -> (bool, bool) {
        (self.clean == self.begun, self.hurry > 0)
    }

    /// The state of the volume: its phase, unless something needs a person's attention first.
    pub fn state(&self) -> State {
        // A comparison in progress must not hide these.
        let for_a_person = self.held.is_some() || self.write_back.is_some();
        match self.phase {
            Phase::Verifying if for_a_person => State::Degraded,
            Phase::Protected if for_a_person || self.last_error.is_some() || !self.trouble().is_empty() => {
                State::Degraded
            }
            phase => phase.into(),
        }
    }

    /// Why the volume is not fully protected, in plain words.
    pub fn trouble(&self) -> Vec<String> {
        let mut why: Vec<String> = self.capture.failed.clone().into_iter().collect();
        why.extend(self.hooks.trouble());
        if !self.unreadable.is_empty() {
            why.push(format!("{} files or directories cannot be read, or not wholly", self.unreadable.len()));
        }
        for (cause, times) in &self.rereads {
            why.push(format!("{cause} ({times} times): what it concerns is being read again"));
        }
        if let Some(errors) = &self.write_back {
            why.push(errors.to_string());
        }
        if self.totals.write_back_failing > 0 {
            why.push(format!(
                "write-back fails for {} files: their owner may have lost data",
                self.totals.write_back_failing
            ));
        }
        why.extend(self.lost.iter().map(|(lost, _)| lost.clone()));
        if self.unsettled {
            why.push("the store has not told whether the last commit took effect".into());
        }
        if self.stalled > 0 {
            why.push(format!("{} files wait for a writer or write-back that does not end", self.stalled));
        }
        for path in self.foreign.iter().take(3) {
            let what = match path.file_name().is_some_and(|name| has_area_name(name.as_encoded_bytes())) {
                true => "the temporary area of a restore",
                false => "another file system (or subvolume)",
            };
            let path = crate::quoting::path(path);
            why.push(format!("{path} is {what} and is not in the volume"));
        }
        why
    }
}

impl Shared {
    /// The state of a volume that has not started.
    pub(crate) fn new(config: VolumeConfig) -> Shared {
        let config = Mutex::new(Arc::new(config));
        Shared { config, progress: Mutex::default(), due: Mutex::default(), changed: Condvar::new() }
    }

    /// Called when the volume's thread ends.
    pub fn end(&self) {
        self.update(|progress| match progress.phase {
            Phase::Fenced => {}
            // Callers that wait for a flush keep waiting: one follows when the volume is open again.
            _ if progress.reopening => progress.phase = Phase::Starting,
            _ => progress.phase = Phase::Stopped,
        });
    }

    pub fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock()
    }

    /// Makes a volume that waits try again at once.
    pub fn retry(&self) {
        self.update(|progress| progress.retry = true);
    }

    /// Resets a volume that has ended or was stopped, for a new thread.
    pub(crate) fn begin_again(&self) {
        self.update(|progress| {
            (progress.stop, progress.stop_by, progress.reopening) = (false, None, false);
            progress.phase = Phase::Starting;
            progress.armed = false;
            progress.fenced_at = None;
            (progress.last_error, progress.hint) = (None, None);
            // It is opened with the present capture of the process.
            progress.capture.back_end = None;
            progress.capture.reasons.clear();
        });
    }

    /// Changes the configuration from the next round on.
    pub(crate) fn apply(&self, config: VolumeConfig) {
        *self.config.lock() = Arc::new(config);
        // Ends a wait for the old interval, which may be long.
        self.update(|progress| progress.asked += 1);
    }

    /// The current configuration.
    pub(crate) fn config(&self) -> Arc<VolumeConfig> {
        Arc::clone(&self.config.lock())
    }

    /// Asks for a last flush, which is tried until `by`.
    pub fn stop(&self, by: Instant) {
        self.update(|progress| (progress.stop, progress.stop_by, progress.reopening) = (true, Some(by), false));
    }

    /// Asks for a flush and the end of the thread, before `begin_again`.
    pub(crate) fn stop_to_reopen(&self, by: Instant) {
        self.update(|progress| (progress.stop, progress.stop_by, progress.reopening) = (true, Some(by), true));
    }

    /// Whether the last request was `stop_to_reopen`.
    pub(crate) fn is_to_reopen(&self) -> bool {
        self.progress().reopening
    }

    /// Waits for a flush whose SWAP starts after this call and that leaves nothing.
    pub fn sync(&self, timeout: Duration, instant: bool) -> Synced {
        let deadline = Instant::now() + timeout;
        let mut progress = self.progress();
        let wanted = progress.begun + 1;
        progress.hurry += 1;
        progress.asked += 1;
        progress.instants.waiters += u32::from(instant);
        self.changed.notify_all();
        let result = loop {
            if let Some(answer) = progress.answer(wanted, instant) {
                break answer;
            }
            // Two flushes left only what cannot be read: a third will not do better.
            let goes_on = progress.phase == Phase::Protected || progress.held.is_some();
            if progress.settled > wanted && goes_on && !progress.left_over.is_empty() {
                break Synced::Partial(progress.left_over.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let mut why = progress.left_over.clone();
                why.extend(progress.last_error.clone());
                why.extend((instant && progress.clean >= wanted).then(|| progress.instants.why_none()));
                why.extend(progress.waiting.as_ref().map(|waiting| format!("the volume waits: {waiting}")));
                if why.is_empty() {
                    why.push("the flush did not end in time".into());
                }
                break Synced::Partial(why);
            }
            self.changed.wait_for(&mut progress, left);
        };
        progress.hurry -= 1;
        progress.instants.waiters -= u32::from(instant);
        result
    }

    /// Acknowledges the write-back errors. False: the volume's thread did not record it within `timeout`.
    pub fn acknowledge(&self, timeout: Duration) -> bool {
        self.progress().acknowledge = true;
        self.taken_note(timeout, |progress| !progress.acknowledge)
    }

    /// Confirms as many removals as wait now. False: the volume's thread did not record it within `timeout`.
    pub fn confirm(&self, timeout: Duration) -> bool {
        {
            let mut progress = self.progress();
            // If none wait, confirm none: the confirmation would apply to removals that nobody has seen.
            let Some(held) = &progress.held else { return true };
            progress.confirm = Some(held.removals);
        }
        self.taken_note(timeout, |progress| progress.confirm.is_none())
    }

    /// Asks for a round at once, and waits until `done` or until the volume ends.
    fn taken_note(&self, timeout: Duration, done: impl Fn(&Progress) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let mut progress = self.progress();
        progress.hurry += 1;
        progress.asked += 1;
        self.changed.notify_all();
        while !done(&progress) && !matches!(progress.phase, Phase::Fenced | Phase::Stopped) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.changed.wait_for(&mut progress, left);
        }
        progress.hurry -= 1;
        done(&progress)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress());
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;

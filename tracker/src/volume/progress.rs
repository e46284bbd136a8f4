//! What a running volume shows of itself and what others may ask of it: phase, counters, full re-reads, stop, waiters of `sync`.

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
use crate::volume::mass_delete::Held;
use crate::volume::selftest::schedule::SelfTestState;
use crate::volume::status::{Histogram, State};
use crate::volume::world::write_back::WriteBack;

pub use instants::Instants;

/// What is said of the capture of a running volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaptureState {
    /// The back end in operation, where it is not the one that the volume began with.
    pub back_end: Option<BackEnd>,
    /// Why it is not.
    pub reasons: Vec<String>,
    /// A failure whose consequences are not over.
    pub failed: Option<String>,
    pub failures: BTreeMap<String, u64>,
    pub self_test: SelfTestState,
    pub scrubbed: u64,
    pub differences: u64,
}

/// What others may see and ask of a running volume.
#[derive(Debug)]
pub struct Shared {
    /// As it was changed last; the volume's thread takes the settings in it at its next round.
    config: Mutex<Arc<VolumeConfig>>,
    progress: Mutex<Progress>,
    pub(crate) changed: Condvar,
}

#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub(crate) stop: bool,
    /// The volume is to be opened again after the stop.
    reopening: bool,
    /// Until when the last flush is tried, once a stop was asked for.
    pub(crate) stop_by: Option<Instant>,
    /// Somebody waits: do not wait for the interval.
    pub(crate) hurry: u32,
    /// Times that somebody began to wait, and of these the ones that a round has begun after: each is worth one round at once.
    pub(crate) asked: u64,
    pub(crate) heard: u64,
    /// Flushes whose SWAP has begun.
    pub(crate) begun: u64,
    /// The newest flush after which nothing was left over.
    pub(crate) clean: u64,
    /// The newest flush after which nothing was left over but what cannot be read.
    pub(crate) settled: u64,
    /// The newest flush that ended at all.
    pub(crate) ended: u64,
    pub phase: Phase,
    pub totals: Totals,
    pub instants: Instants,
    pub left_over: Vec<String>,
    pub last_error: Option<String>,
    /// What an operator can do about it.
    pub hint: Option<String>,
    pub fenced_at: Option<Seq>,
    /// The store lacks what this host has committed: why, and in which flush that was found last.
    pub lost: Option<(String, u64)>,
    pub unreadable: BTreeMap<PathBuf, String>,
    /// Marks are being made (or the tree is being compared).
    pub armed: bool,
    pub baseline_seq: Option<Seq>,
    pub started: Option<Instant>,
    /// Names inside the tree that are not part of the volume.
    pub foreign: Vec<PathBuf>,
    pub removals_waiting: u64,
    pub unsettled: bool,
    pub watch_full: bool,
    pub stalled: u64,
    /// Why content is being read again, and how often that was found: until a flush that leaves nothing over.
    pub rereads: BTreeMap<String, u64>,
    /// Write-back errors that nobody has acknowledged.
    pub write_back: Option<WriteBack>,
    /// Somebody has; the volume's thread has not taken note yet.
    pub(crate) acknowledge: bool,
    /// Removals that wait for a person.
    pub held: Option<Held>,
    /// A person has let as many removals through; the volume's thread has not taken note yet.
    pub(crate) confirm: Option<u64>,
    pub capture: CaptureState,
    /// What the volume waits for before it can start or go on.
    pub waiting: Option<AppError>,
    /// Somebody asked to try at once.
    pub(crate) retry: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Starting,
    /// Its source or its store is away; it is tried again by itself.
    Waiting,
    /// The first copy of the tree is on its way.
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
    /// At the deadline something was still unreadable, unclean, carried over or to be read again.
    Partial(Vec<String>),
    Ended(Phase),
}

impl Progress {
    /// Whether a full re-read goes on until a flush leaves nothing over.
    pub(crate) fn awaits_reread(&self) -> bool {
        !self.rereads.is_empty() || self.capture.failed.is_some()
    }

    /// What one is told now who waits for a flush from number `wanted` on that leaves nothing over, with `instant` also for all
    /// of it to be in a commit of one instant; `None`: to wait on.
    fn answer(&self, wanted: u64, instant: bool) -> Option<Synced> {
        let done = if instant { self.instants.whole } else { self.clean };
        match (&self.lost, self.phase) {
            (_, Phase::Fenced | Phase::Stopped) => Some(Synced::Ended(self.phase)),
            (Some((why, at)), _) if *at >= wanted => Some(Synced::Partial(vec![why.clone()])),
            (_, Phase::Protected) if done >= wanted && self.fenced_at.is_none() => Some(Synced::Done),
            _ => None,
        }
    }

    /// What another writer's commit means to this volume.
    pub(crate) fn fenced(&self) -> Option<AppError> {
        self.fenced_at.map(|seq| {
            AppError::new(ExitCode::Locked, format_args!("another writer has made commit {seq}: this one stops"))
                .hint("one host writes a volume; its commits and ours up to there are in the store")
        })
    }

    /// Whether the last round left nothing over, and whether somebody waits.
    pub(crate) fn was_clean(&self) -> (bool, bool) {
        (self.clean == self.begun, self.hurry > 0)
    }

    /// What the volume is called: its phase, unless there is something that a person should know of first.
    pub fn state(&self) -> State {
        // The comparison that goes on does not take these away.
        let for_a_person = self.held.is_some() || self.write_back.is_some();
        match self.phase {
            Phase::Verifying if for_a_person => State::Degraded,
            Phase::Protected if for_a_person || self.last_error.is_some() || !self.trouble().is_empty() => {
                State::Degraded
            }
            phase => phase.into(),
        }
    }

    /// Why the volume is not wholly protected, in plain words.
    pub fn trouble(&self) -> Vec<String> {
        let mut why: Vec<String> = self.capture.failed.clone().into_iter().collect();
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
    /// Of a volume that has not begun.
    pub(crate) fn new(config: VolumeConfig) -> Shared {
        Shared { config: Mutex::new(Arc::new(config)), progress: Mutex::default(), changed: Condvar::new() }
    }

    /// The volume's thread is over.
    pub fn end(&self) {
        self.update(|progress| match progress.phase {
            Phase::Fenced => {}
            // Whoever waits for a flush waits on: one comes when the volume is open again.
            _ if progress.reopening => progress.phase = Phase::Starting,
            _ => progress.phase = Phase::Stopped,
        });
    }

    pub fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock()
    }

    /// A volume that waits looks again at once.
    pub fn retry(&self) {
        self.update(|progress| progress.retry = true);
    }

    /// A volume that has ended, or was stopped, is to have another thread.
    pub(crate) fn begin_again(&self) {
        self.update(|progress| {
            (progress.stop, progress.stop_by, progress.reopening) = (false, None, false);
            progress.phase = Phase::Starting;
            progress.armed = false;
            progress.fenced_at = None;
            (progress.last_error, progress.hint) = (None, None);
            // It is opened with what the process has now.
            progress.capture.back_end = None;
            progress.capture.reasons.clear();
        });
    }

    /// From the next round on.
    pub(crate) fn apply(&self, config: VolumeConfig) {
        *self.config.lock() = Arc::new(config);
        // A long interval that was made short must not be waited for.
        self.update(|progress| progress.asked += 1);
    }

    /// The configuration as it is now.
    pub(crate) fn config(&self) -> Arc<VolumeConfig> {
        Arc::clone(&self.config.lock())
    }

    /// Asks for a last flush, which is tried until `by`.
    pub fn stop(&self, by: Instant) {
        self.update(|progress| (progress.stop, progress.stop_by, progress.reopening) = (true, Some(by), false));
    }

    /// Asks for a flush and the end of the thread; `begin_again` follows.
    pub(crate) fn stop_to_reopen(&self, by: Instant) {
        self.update(|progress| (progress.stop, progress.stop_by, progress.reopening) = (true, Some(by), true));
    }

    /// Whether the last word was `stop_to_reopen`.
    pub(crate) fn is_to_reopen(&self) -> bool {
        self.progress().reopening
    }

    /// Waits for a flush whose SWAP begins after this call and that leaves nothing over; with `instant` until all from before
    /// this call is in a commit of one instant.
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
            // Two flushes have left over what cannot be read and nothing else: a third will not do better.
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

    /// Takes the write-back errors as seen. False: the volume's thread did not take note within `timeout`.
    pub fn acknowledge(&self, timeout: Duration) -> bool {
        self.progress().acknowledge = true;
        self.taken_note(timeout, |progress| !progress.acknowledge)
    }

    /// Lets as many removals as wait now through. False: the volume's thread did not take note within `timeout`.
    pub fn confirm(&self, timeout: Duration) -> bool {
        {
            let mut progress = self.progress();
            // Where nothing waits, nothing is allowed: it would hold for removals that nobody has seen.
            let Some(held) = &progress.held else { return true };
            progress.confirm = Some(held.removals);
        }
        self.taken_note(timeout, |progress| progress.confirm.is_none())
    }

    /// Asks for a round at once, and waits until `done` or the end of the volume.
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

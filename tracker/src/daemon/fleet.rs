//! All volumes of one process: starts their threads, answers `Control`.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::catalog::Catalog;
use crate::config::{self, Allow, Config, ProcessConfig, VolumeConfig};
use crate::daemon::control::{Control, ControlError};
use crate::daemon::reload;
use crate::daemon::reload::Settings;
use crate::error::{AppError, ExitCode};
use crate::repository::location;
use crate::store::Op;
use crate::store::meter::Meter;
use crate::units::rfc3339;
use crate::volume::marks::dispatcher::Dispatcher;
use crate::volume::marks::waiting::{Pending, now_ns};
use crate::volume::runner::clock::{clock_behind, nanoseconds, seconds};
use crate::volume::runner::last_flush::Uncommitted;
use crate::volume::runner::life::Surroundings;
use crate::volume::runner::progress::{Phase, Shared, Synced};
use crate::volume::runner::release::Ending;
use crate::volume::runner::{life, release};
use crate::volume::startup::open::Prepared;
use crate::volume::startup::{capture, claim, open, store_home};
use crate::volume::status::{Backend, SyncReply, VolumeStatus, VolumeSync};
use crate::volume::world::unread;

/// How long an acknowledgement waits for the flush under way.
const ACKNOWLEDGE: Duration = Duration::from_secs(8);

/// What of a volume does not change while it runs.
pub(crate) struct VolumeFacts {
    pub volume_id: String,
    pub backend: Backend,
    pub reasons: Vec<String>,
    /// `None` before a probe of the store has told.
    pub fenced_store: Option<bool>,
    pub pending: Arc<Pending>,
    pub catalog: Arc<Catalog>,
    pub meter: Arc<Meter>,
    pub dispatcher: Option<Arc<Dispatcher>>,
}

pub(crate) struct Volume {
    pub config: VolumeConfig,
    pub shared: Arc<Shared>,
    pub facts: Arc<Mutex<Option<VolumeFacts>>>,
    pub prepared: Mutex<Option<Prepared>>,
    failure: Arc<Mutex<Option<AppError>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The volumes of one process.
pub struct Fleet {
    volumes: Mutex<Vec<Arc<Volume>>>,
    around: Arc<Surroundings>,
    process: ProcessConfig,
    /// As the process was started with it.
    started: Config,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    /// Asks the stores of volumes of the foreground whether they can be had. A daemon's volumes wait for their stores, and their
    /// changes are marked meanwhile; in the foreground a store that does not answer is the end, so nothing is attached for it.
    ///
    /// # Errors
    /// The store's.
    pub fn look(config: &Config, state_dir: &Path) -> Result<(), AppError> {
        if config.file.is_some() {
            return Ok(());
        }
        let mut volumes = config.volumes.iter();
        volumes.try_for_each(|volume| store_home::look(volume, state_dir)).map_err(|e| AppError::from_store(&e))
    }

    /// Starts a thread for each volume and returns at once.
    ///
    /// # Errors
    /// When the state directory cannot be written, or when a back end that was asked for cannot be had.
    pub fn start(config: &Config, state_dir: &Path) -> Result<Fleet, AppError> {
        let fleet = Fleet {
            volumes: Mutex::new(Vec::new()),
            around: Arc::new(Surroundings {
                capture: capture::capture(config, state_dir)?,
                state_dir: state_dir.to_path_buf(),
                daemon: config.file.is_some(),
                guarded: Mutex::new(config.guarded()),
            }),
            process: config.process.clone(),
            started: config.clone(),
        };
        // All volumes first, then the threads: the first drain must find a place for every volume's marks.
        let dispatcher = fleet.around.capture.dispatcher.clone();
        let prepared: Vec<Option<Prepared>> = config
            .volumes
            .iter()
            .map(|volume| dispatcher.as_ref().and_then(|dispatcher| open::prepare(volume, state_dir, dispatcher)))
            .collect();
        for (volume, prepared) in config.volumes.iter().zip(prepared) {
            fleet.add(volume.clone(), prepared);
        }
        Ok(fleet)
    }

    fn add(&self, config: VolumeConfig, prepared: Option<Prepared>) {
        let volume = Arc::new(Volume {
            config,
            shared: Arc::new(Shared::default()),
            facts: Arc::default(),
            prepared: Mutex::new(prepared),
            failure: Arc::default(),
            thread: Mutex::new(None),
        });
        self.spawn(&volume);
        lock(&self.volumes).push(volume);
    }

    /// Starts the thread of a volume that has none.
    fn spawn(&self, volume: &Arc<Volume>) {
        let (mine, around) = (Arc::clone(volume), Arc::clone(&self.around));
        let spawned = std::thread::Builder::new().name("volume".into()).spawn(move || {
            if let Err(error) = life::live(&mine, &around) {
                *lock(&mine.failure) = Some(error);
            }
            mine.shared.end();
        });
        match spawned {
            Ok(thread) => *lock(&volume.thread) = Some(thread),
            Err(error) => {
                *lock(&volume.failure) =
                    Some(AppError::new(ExitCode::Error, format_args!("cannot start a thread: {error}")));
                volume.shared.end();
            }
        }
    }

    /// Tries a volume at once: one that waits, and one that has ended, with what it holds of its marks.
    fn try_again(&self, volume: &Arc<Volume>) {
        volume.shared.retry();
        if lock(&volume.failure).take().is_some() {
            volume.shared.begin_again();
            self.spawn(volume);
        }
    }

    /// Ends tracking, unless the volumes are meant to come back.
    fn release(&self) {
        let Some(dispatcher) = &self.around.capture.dispatcher else { return };
        let committed = self.list().iter().any(|volume| volume.has_committed());
        let ending = Ending { keep: self.process.keep_tracking, resumed: self.around.capture.resumed, committed };
        if !ending.keeps_tracking() {
            release::release(dispatcher);
        }
    }

    fn list(&self) -> Vec<Arc<Volume>> {
        lock(&self.volumes).clone()
    }

    fn find(&self, name: &str) -> Result<Arc<Volume>, ControlError> {
        let found = self.list().into_iter().find(|volume| volume.config.name == name);
        found.ok_or_else(|| ControlError::UnknownVolume { volume: name.to_owned() })
    }
}

impl Volume {
    /// Whether some state of it is in the store, as far as this process knows.
    fn has_committed(&self) -> bool {
        let catalog = lock(&self.facts).as_ref().map(|facts| Arc::clone(&facts.catalog));
        let head = catalog.and_then(|catalog| catalog.head().ok().flatten());
        head.is_some() || self.shared.progress().baseline_seq.is_some()
    }

    /// Waits for the end of the volume's thread; what it has not committed by `deadline`.
    fn end_by(&self, deadline: Instant) -> Option<Uncommitted> {
        let mut why = None;
        if let Some(thread) = lock(&self.thread).take() {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if !thread.is_finished() {
                why = Some("the last flush did not end in time".to_owned());
            } else if thread.join().is_err() {
                tracing::error!(volume = self.config.name, "the volume's thread ended in a panic");
                why = Some("the volume's thread ended in a panic".to_owned());
            }
        }
        let facts = lock(&self.facts);
        // A volume that was never opened has marked nothing that this process knows of.
        let (oldest, inodes, bytes) = facts.as_ref()?.pending.summary();
        let (last_error, left_over) = {
            let progress = self.shared.progress();
            let waits = progress.waiting.as_ref().map(|waiting| format!("the volume waits: {waiting}"));
            (progress.last_error.clone(), progress.left_over.first().cloned().or(waits))
        };
        if inodes == 0 && why.is_none() && last_error.is_none() {
            return None;
        }
        Some(Uncommitted {
            volume: self.config.name.clone(),
            inodes: inodes as u64,
            bytes,
            oldest_seconds: oldest.map(|at| now_ns().saturating_sub(at) as f64 / 1e9),
            why: last_error.or(why).or(left_over),
        })
    }

    /// The answer to a person's word, which the volume's thread has taken note of or not.
    fn took_note(&self, noted: bool) -> Result<(), ControlError> {
        if noted {
            return Ok(());
        }
        let busy = || AppError::new(ExitCode::Error, "its flush does not end; ask again");
        let failure = self.status().failure.unwrap_or_else(busy);
        Err(ControlError::Ended { volume: self.config.name.clone(), failure })
    }

    /// Waits for a flush as [`Shared::sync`] does.
    fn sync(&self, timeout: Duration) -> VolumeSync {
        let synced = self.shared.sync(timeout);
        let status = self.status();
        let mut reply = VolumeSync { volume: status.volume, seq: status.head_seq, ..VolumeSync::default() };
        match synced {
            Synced::Done => {}
            Synced::Partial(why) => reply.partial = why,
            Synced::Ended(_) => {
                // The volume's thread may still be on its way out.
                let failure = status.failure.or_else(|| self.shared.progress().fenced());
                reply.failure = failure.or_else(|| Some(AppError::new(ExitCode::Error, "it was stopped")));
            }
        }
        if !timeout.is_zero() {
            reply.degraded = self.shared.progress().trouble();
        }
        reply
    }

    /// Its configuration, as what was read again has changed it.
    fn now(&self) -> VolumeConfig {
        self.shared.settings().unwrap_or(Settings::of(&self.config)).applied_to(&self.config)
    }

    fn status(&self) -> VolumeStatus {
        let progress = self.shared.progress().clone();
        let failure = lock(&self.failure).clone();
        let mut status = VolumeStatus {
            volume: self.config.name.clone(),
            source: self.config.source.to_string_lossy().into_owned(),
            store: self.config.store.to_string(),
            interval_ms: u64::try_from(self.now().interval.as_millis()).unwrap_or(u64::MAX),
            last_error: progress.last_error.clone(),
            hint: progress.waiting.as_ref().and_then(|error| error.hint.clone()).or_else(|| progress.hint.clone()),
            failure,
            waiting: progress.waiting.as_ref().map(|error| error.message.clone()),
            ..VolumeStatus::default()
        };
        status.state = progress.phase.into();
        let facts = lock(&self.facts);
        let Some(facts) = facts.as_ref() else { return status };
        let (oldest, inodes, bytes) = facts.pending.summary();
        let totals = &progress.totals;
        status.volume_id.clone_from(&facts.volume_id);
        status.backend = facts.backend;
        status.fenced_store = facts.fenced_store;
        status.reasons.clone_from(&facts.reasons);
        let capture = &progress.capture;
        if let Some(back_end) = capture.back_end {
            status.backend = back_end;
            status.reasons.extend(capture.reasons.iter().cloned());
        }
        status.self_test_passed = capture.self_test.passed;
        status.self_test_kinds = capture.self_test.kinds.iter().map(|kind| (*kind).to_owned()).collect();
        status.self_test_untried.clone_from(&capture.self_test.untried);
        status.self_tests = capture.self_test.tests;
        status.capture_failures.clone_from(&capture.failures);
        status.scrubbed_bytes = capture.scrubbed;
        status.scrub_differences = capture.differences;
        // What failed is among the reasons already.
        status.reasons.extend(progress.trouble().into_iter().filter(|why| !capture.reasons.contains(why)));
        if progress.watch_full {
            status.reasons.push("the watch set is full: changes of every inode of the file system are recorded".into());
        }
        status.armed = progress.armed;
        status.baseline_seq = progress.baseline_seq.map(|seq| seq.0);
        let window = oldest.map_or(0.0, |at| now_ns().saturating_sub(at) as f64 / 1e9);
        status.loss_window_seconds = progress.baseline_seq.map(|_| window);
        if let Ok(Some(head)) = facts.catalog.head() {
            status.head_seq = head.seq.0;
            let wall = head.standing.map_or(head.time, |standing| standing.wall);
            status.head_time = rfc3339(nanoseconds(wall));
            status.head_timestamp_seconds = seconds(wall);
            status.clock_behind_seconds = clock_behind(nanoseconds(wall), now_ns());
            if status.clock_behind_seconds > 0.0 {
                status.reasons.push(format!(
                    "the clock is {:.0} s behind that of the last commit: one of the two is wrong, and --at finds by the clocks of the commits",
                    status.clock_behind_seconds
                ));
            }
        }
        status.pending_inodes = inodes as u64;
        status.pending_bytes = bytes;
        status.unsaved_inodes = facts.pending.unsaved() as u64;
        if status.unsaved_inodes > 0 {
            status.reasons.push(unsaved_reason(status.unsaved_inodes));
        }
        status.commits = totals.commits;
        status.bytes_marked = totals.bytes_marked;
        status.bytes_read = totals.bytes_read;
        status.bytes_literal = totals.bytes_literal;
        status.bytes_uploaded = facts.meter.counts(Op::Create).bytes_sent;
        status.store_requests = facts.meter.requests();
        status.files_read = totals.files_read;
        status.rescans = totals.rescans;
        status.rescan_reasons.clone_from(&totals.rescan_reasons);
        status.carried = totals.carried + totals.late;
        status.late = totals.slow_flushes;
        status.write_back_errors = totals.write_back_errors;
        status.write_back.clone_from(&progress.write_back);
        status.unreadable_total = progress.unreadable.len() as u64;
        status.unreadable = unread::named(&progress.unreadable);
        status.removals_waiting = progress.removals_waiting;
        status.removals_held = progress.held.as_ref().map_or(0, |held| held.removals);
        status.reasons.extend(progress.held.iter().map(ToString::to_string));
        status.flushes = totals.flushes;
        status.flush_seconds = totals.flush_seconds_last;
        status.flush_histogram = totals.flush_histogram.clone();
        if let Some(dispatcher) = &facts.dispatcher {
            let dispatcher = dispatcher.facts();
            status.kernel_map_bytes = dispatcher.kernel_bytes;
            status.kernel_counters = dispatcher.counters;
        }
        let running = progress.started.map_or(0.0, |at| at.elapsed().as_secs_f64());
        if running >= 1.0 {
            status.requests_per_day_estimate = (status.store_requests as f64 / running * 86_400.0) as u64;
        }
        status.state = progress.state();
        status
    }
}

/// Why a volume is degraded whose catalog cannot be written.
fn unsaved_reason(inodes: u64) -> String {
    format!("changes of at least {inodes} files are in the kernel alone: the state directory cannot be written")
}

/// Lets the next start of a volume of this state directory do what `allow` says, once.
///
/// # Errors
/// `Absent` where the state directory has no such volume.
pub fn allow(state_dir: &Path, volume: &str, allow: Allow) -> Result<(), AppError> {
    let location = Catalog::location(state_dir, volume);
    if location::check_volume_name(volume).is_err() || !location.exists() {
        return Err(AppError::new(
            ExitCode::Absent,
            format_args!("the state directory {} has no volume `{volume}`", state_dir.display()),
        )
        .hint("name the directory that its `protect` or `daemon` had with --state-dir"));
    }
    let catalog = Catalog::open(&location).map_err(|error| open::failed("cannot open the catalog", error))?;
    claim::allow_once(&catalog, allow)
}

impl Control for Fleet {
    fn status(&self) -> Vec<VolumeStatus> {
        self.list().iter().map(|volume| volume.status()).collect()
    }

    fn sync(&self, name: Option<&str>, timeout: Duration) -> Result<SyncReply, ControlError> {
        let volumes: Vec<_> =
            self.list().into_iter().filter(|volume| name.is_none_or(|name| volume.config.name == name)).collect();
        if let (Some(name), true) = (name, volumes.is_empty()) {
            return Err(ControlError::UnknownVolume { volume: name.to_owned() });
        }
        // Side by side: a volume that takes long takes none of the others' time.
        let volumes: Vec<VolumeSync> = std::thread::scope(|scope| {
            let waits: Vec<_> = volumes.iter().map(|volume| scope.spawn(|| volume.sync(timeout))).collect();
            waits.into_iter().filter_map(|wait| wait.join().ok()).collect()
        });
        match &volumes[..] {
            [VolumeSync { volume, failure: Some(failure), .. }] => {
                Err(ControlError::Ended { volume: volume.clone(), failure: failure.clone() })
            }
            _ => Ok(SyncReply { volumes }),
        }
    }

    fn acknowledge(&self, name: &str) -> Result<(), ControlError> {
        let volume = self.find(name)?;
        volume.took_note(volume.shared.acknowledge(ACKNOWLEDGE))
    }

    fn confirm(&self, name: &str) -> Result<(), ControlError> {
        let volume = self.find(name)?;
        volume.took_note(volume.shared.confirm(ACKNOWLEDGE))
    }

    fn adopt(&self, name: &str, allow: Allow) -> Result<(), ControlError> {
        let volume = self.find(name)?;
        // It would hold for a later start that nobody has looked at.
        let waits = volume.shared.progress().phase == Phase::Waiting;
        if !waits && lock(&volume.failure).is_none() {
            return Err(ControlError::Running { volume: name.to_owned() });
        }
        let noted = crate::daemon::fleet::allow(&self.around.state_dir, name, allow);
        noted.map_err(|failure| ControlError::Ended { volume: name.to_owned(), failure })?;
        self.try_again(&volume);
        Ok(())
    }

    fn reload(&self) -> Result<(), ControlError> {
        let Some(file) = &self.started.file else { return Err(ControlError::Unsupported) };
        let config = config::load(file, &self.around.state_dir)
            .map_err(|error| ControlError::Reload { reason: error.to_string() })?;
        *lock(&self.around.guarded) = config.guarded();
        let running = self.list();
        let process = reload::of_the_process(&self.started, &config);
        let mut refused: Vec<String> = Vec::new();
        refused.extend((!process.is_empty()).then(|| reload::refusal("the daemon", &process)));
        let wanted = |volume: &Volume| config.volumes.iter().find(|new| new.name == volume.config.name);
        // Ended, with other settings now: it is begun anew, and what has a place for its marks keeps it.
        let mut replaced: Vec<Arc<Volume>> = Vec::new();
        for volume in &running {
            let Some(new) = wanted(volume) else {
                volume.shared.stop(Instant::now() + self.process.stop_timeout);
                continue;
            };
            if lock(&volume.failure).is_some() && *new != volume.now() {
                replaced.push(Arc::clone(volume));
                continue;
            }
            let (live, fixed) = reload::differences(&volume.now(), new);
            if !live.is_empty() {
                tracing::info!(volume = new.name, changed = live.join(", "), "new settings");
                volume.shared.apply(Settings::of(new));
            }
            refused.extend((!fixed.is_empty()).then(|| reload::refusal(&format!("volume {}", new.name), &fixed)));
            // A person has asked: whoever waits looks now, and who has ended has another try.
            self.try_again(volume);
        }
        let stays = |volume: &Arc<Volume>| {
            wanted(volume).is_some() && !replaced.iter().any(|replaced| Arc::ptr_eq(replaced, volume))
        };
        lock(&self.volumes).retain(stays);
        for new in &config.volumes {
            if let Some(old) = replaced.iter().find(|old| old.config.name == new.name) {
                self.add(new.clone(), lock(&old.prepared).take());
            } else if running.iter().all(|volume| volume.config.name != new.name) {
                self.add(new.clone(), None);
            }
        }
        if refused.is_empty() { Ok(()) } else { Err(ControlError::Partly { reason: refused.join("; ") }) }
    }

    fn stop(&self) -> Vec<Uncommitted> {
        let volumes = self.list();
        let deadline = Instant::now() + self.process.stop_timeout;
        volumes.iter().for_each(|volume| volume.shared.stop(deadline));
        let left = volumes.iter().filter_map(|volume| volume.end_by(deadline)).collect();
        self.release();
        left
    }

    fn abandon(&self) {
        self.release();
    }
}

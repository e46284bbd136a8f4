//! From the first try to the end of a volume: starts its thread, opens it, lets `runner` run its rounds, and after an obstacle
//! waits and opens it again, or ends it.
//!
//! While the volume waits, its changes are still marked, and its marks are drained to its catalog, so that they outlive the
//! process.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::capture::BackEnd;
use crate::catalog::Catalog;
use crate::config::Nice;
use crate::config::guard::{self, GuardedVolume};
use crate::error::{AppError, ExitCode};
use crate::units;
use crate::volume::handle::{Volume, VolumeFacts};
use crate::volume::marks::dispatcher::Dispatcher;
use crate::volume::marks::notes::BASELINE;
use crate::volume::mass_delete::Guard;
use crate::volume::progress::Phase;
use crate::volume::runner::Runner;
use crate::volume::runner::pace::Pace;
use crate::volume::runner::rest::Rest;
use crate::volume::startup::open;
use crate::volume::startup::prepared::{ChosenCapture, Prepared};
use crate::volume::ways_on::{Backoff, Circumstances, Obstacle, WayOn, way_on};
use crate::volume::world::WorldError;

/// Time between two drains of a volume that waits.
const DRAIN_GAP: Duration = Duration::from_secs(1);

/// What the volumes of one process share.
pub(crate) struct Surroundings {
    /// The process's capture, or none; may be replaced when a volume asks for one.
    pub capture: Mutex<Arc<ChosenCapture>>,
    pub state_dir: std::path::PathBuf,
    /// Whether this is a daemon: a daemon's volume waits for a source or store that is away.
    pub daemon: bool,
    /// All volumes that this process runs or waits for.
    pub guarded: Mutex<Vec<GuardedVolume>>,
}

impl Surroundings {
    pub(crate) fn capture(&self) -> Arc<ChosenCapture> {
        Arc::clone(&self.capture.lock())
    }
}

/// Lowers the priority of this thread, and of those that it starts, to `nice`, if it is not as low already.
fn give_way(nice: Nice) -> rustix::io::Result<()> {
    match nice.above(rustix::process::getpriority_process(None)?) {
        Some(nice) => rustix::process::setpriority_process(None, nice),
        None => Ok(()),
    }
}

/// Starts the thread of a volume that has none.
pub(crate) fn spawn(volume: &Arc<Volume>, around: &Arc<Surroundings>) {
    let (mine, around) = (Arc::clone(volume), Arc::clone(around));
    let spawned = std::thread::Builder::new().name("volume".into()).spawn(move || {
        if let Err(error) = give_way(mine.config().options.nice) {
            tracing::warn!(volume = mine.name, %error, "the priority cannot be lowered");
        }
        if let Err(error) = live(&mine, &around) {
            *mine.failure.lock() = Some(error);
        }
        mine.shared.end();
    });
    match spawned {
        Ok(thread) => *volume.thread.lock() = Some(thread),
        Err(error) => {
            let error = AppError::new(ExitCode::Error, format_args!("cannot start a thread: {error}"));
            *volume.failure.lock() = Some(error);
            volume.shared.end();
        }
    }
}

/// Runs until a stop, a fence or an error that waiting cannot heal.
fn live(volume: &Volume, around: &Surroundings) -> Result<(), AppError> {
    let mut prepared = volume.prepared.lock().take();
    // First of all: the application may be at rest, and its source or store may be away for long.
    release_left(volume, &around.state_dir, prepared.as_ref());
    let result = tries(volume, around, &mut prepared);
    // Kept for a later try: until then it receives the volume's marks.
    *volume.prepared.lock() = prepared;
    if let (Err(error), true) = (&result, around.daemon) {
        let (name, code, hint) = (&volume.name, error.code.number(), error.hint.as_deref().unwrap_or_default());
        tracing::error!(volume = name, code, hint, "the volume has ended: {error}");
    }
    result
}

fn tries(volume: &Volume, around: &Surroundings, prepared: &mut Option<Prepared>) -> Result<(), AppError> {
    let mut backoff = Backoff::default();
    let mut said = None;
    loop {
        let Err(obstacle) = once(volume, around, prepared, &mut backoff) else { return Ok(()) };
        if volume.shared.progress().waiting.is_none() {
            // The volume has run since the last message.
            said = None;
        }
        let committed = has_committed(volume, around, prepared.as_ref());
        let circumstances =
            Circumstances { daemon: around.daemon, replaced: volume.config().options.replaced, committed };
        match way_on(&obstacle, circumstances) {
            WayOn::End => return Err(obstacle.into_error()),
            WayOn::Again => {}
            WayOn::Wait => {
                let pause = backoff.pause(&obstacle);
                if said.as_ref().is_none_or(|said| !obstacle.is_like(said)) {
                    tell(&volume.name, obstacle.error());
                }
                if wait(volume, around, &obstacle, pause, prepared.as_ref()) {
                    return Ok(());
                }
                said = Some(obstacle);
            }
        }
        if volume.shared.progress().stop {
            return Ok(());
        }
    }
}

/// Runs the hook `after` if an earlier process ended between `before` and it.
pub(crate) fn release_left(volume: &Volume, state_dir: &Path, prepared: Option<&Prepared>) {
    let location = Catalog::location(state_dir, &volume.name);
    let catalog = match prepared {
        Some(prepared) => Ok(Arc::clone(&prepared.catalog)),
        None if !location.exists() => return,
        None => Catalog::open(&location).map(Arc::new),
    };
    if let Err(error) = catalog.and_then(|catalog| volume.shared.release_left(&catalog)) {
        tracing::warn!(volume = volume.name, %error, "whether the hook `after` is owed cannot be told");
    }
}

/// Whether the volume has commits, as far as its catalog can be read.
fn has_committed(volume: &Volume, around: &Surroundings, prepared: Option<&Prepared>) -> bool {
    let location = Catalog::location(&around.state_dir, &volume.name);
    let head = match prepared {
        Some(prepared) => prepared.catalog.head(),
        None => Catalog::open(&location).and_then(|catalog| catalog.head()),
    };
    matches!(head, Ok(Some(_)))
}

/// One try: opens the volume and runs it. Returns when it has ended, or could not start.
fn once(
    volume: &Volume,
    around: &Surroundings,
    prepared: &mut Option<Prepared>,
    backoff: &mut Backoff,
) -> Result<(), Obstacle> {
    may_be_protected(volume, around)?;
    let config = volume.config();
    let opened = open::open(&config, &around.state_dir, &around.capture(), prepared)?;
    let waited = backoff.reset();
    *volume.facts.lock() = Some(VolumeFacts {
        volume_id: opened.volume_id.to_string(),
        backend: opened.backend,
        reasons: opened.reasons.clone(),
        fenced_store: Some(opened.fenced_store),
        pending: Arc::clone(&opened.world.pending),
        catalog: Arc::clone(&opened.world.catalog),
        meter: Arc::clone(&opened.meter),
        dispatcher: opened.world.dispatcher.as_ref().map(|(dispatcher, _)| Arc::clone(dispatcher)),
    });
    if let Some(waited) = waited.filter(|_| volume.shared.progress().waiting.is_some()) {
        let (volume, after) = (&volume.name, units::show_seconds(waited.as_secs_f64()));
        tracing::info!(volume, after, "what the volume waited for is there: it continues");
    }
    volume.shared.update(|progress| progress.waiting = None);
    let (shared, options) = (Arc::clone(&volume.shared), config.options.clone());
    let (pace, guard, rest) = (Pace::default(), Guard::default(), Rest::default());
    Runner { opened, shared, options, trusted: false, pace, guard, waits: HashSet::new(), rest }.run()
}

/// A daemon checks the paths of all volumes against each other when it starts. If a source was away then, it is checked
/// here.
fn may_be_protected(volume: &Volume, around: &Surroundings) -> Result<(), Obstacle> {
    let name = &volume.name;
    let mut all = around.guarded.lock().clone();
    // Of two volumes that overlap, the later one in the list is reported: the others may be running.
    all.sort_by_key(|other| other.name == *name);
    let found = guard::check_paths(&all, &around.state_dir, &guard::log_files());
    match found.into_iter().find(|refused| refused.volume.as_ref() == Some(name)) {
        None => Ok(()),
        Some(refused) if refused.kind.is_away() => Err(Obstacle::SourceAway(refused.into())),
        Some(refused) => Err(Obstacle::Final(refused.into())),
    }
}

/// Waits for `pause`, for a request to try at once, or for a stop. Returns true for a stop.
fn wait(
    volume: &Volume,
    around: &Surroundings,
    obstacle: &Obstacle,
    pause: Duration,
    prepared: Option<&Prepared>,
) -> bool {
    let until = Instant::now() + pause;
    let capture = around.capture();
    show(volume, around, obstacle, prepared);
    loop {
        if let (Some(prepared), Some(dispatcher)) = (prepared, &capture.dispatcher) {
            let kept = prepared.keep_marking(dispatcher, capture.resumed).and_then(|()| Ok(dispatcher.drain()?));
            if let Err(error) = kept {
                tracing::debug!(volume = volume.name, %error, "marks cannot be drained while the volume waits");
            }
        }
        let mut progress = volume.shared.progress();
        if progress.stop {
            return true;
        }
        let left = until.saturating_duration_since(Instant::now());
        if std::mem::take(&mut progress.retry) || left.is_zero() {
            return false;
        }
        volume.shared.changed.wait_for(&mut progress, left.min(DRAIN_GAP));
    }
}

/// Logs what the volume waits for.
fn tell(name: &str, error: &AppError) {
    let hint = error.hint.as_deref().unwrap_or_default();
    tracing::warn!(volume = name, hint, "the volume waits, it is tried again by itself: {error}");
}

/// Shows in the status what the volume waits for.
fn show(volume: &Volume, around: &Surroundings, obstacle: &Obstacle, prepared: Option<&Prepared>) {
    let error = obstacle.error();
    let capture = around.capture();
    let mut facts = volume.facts.lock();
    if let (None, Some(prepared)) = (facts.as_ref(), prepared) {
        let id = prepared.catalog.volume_id().ok().flatten();
        *facts = Some(VolumeFacts {
            volume_id: id.map(|id| id.to_string()).unwrap_or_default(),
            backend: capture.dispatcher.as_ref().map_or(BackEnd::Scan, |dispatcher| dispatcher.back_end()),
            reasons: capture.reasons.clone(),
            fenced_store: None,
            pending: Arc::clone(&prepared.pending),
            catalog: Arc::clone(&prepared.catalog),
            meter: Arc::default(),
            dispatcher: capture.dispatcher.clone(),
        });
    }
    drop(facts);
    let armed = prepared.is_some() && matches!(obstacle, Obstacle::Store(..));
    // Without the baseline, no loss window would be shown although changes wait.
    let baseline = prepared.filter(|prepared| matches!(prepared.catalog.note(BASELINE), Ok(Some(_))));
    let baseline = baseline.and_then(|prepared| prepared.catalog.head().ok().flatten()).map(|head| head.seq);
    volume.shared.update(|progress| {
        progress.phase = Phase::Waiting;
        progress.armed = armed;
        progress.baseline_seq = progress.baseline_seq.or(baseline);
        progress.waiting = Some(error.clone());
        (progress.last_error, progress.hint) = (None, None);
    });
}

impl Prepared {
    /// Watches all files of the catalog, once, unless the last process left them watched: from then on changes are marked
    /// while the volume waits for its store. Arming decides later whether the marks can be trusted.
    fn keep_marking(&self, dispatcher: &Dispatcher, resumed: bool) -> Result<(), WorldError> {
        if (self.first && resumed) || self.watched.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return Ok(());
        }
        self.catalog.each_inodes(|inodes| {
            dispatcher.watch(&self.subscriber.pending, self.subscriber.dev, inodes)?;
            Ok(())
        })
    }
}

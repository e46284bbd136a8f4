//! All volumes of one process: starts their threads and answers `Control`. `changes` changes them while they run.

mod changes;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::catalog::Catalog;
use crate::config::{Allow, Config, VolumeConfig};
use crate::daemon::change::Change;
use crate::daemon::control::{Control, ControlError};
use crate::daemon::endpoint::Endpoint;
use crate::error::{AppError, ExitCode};
use crate::repository::location;
use crate::volume::errors;
use crate::volume::handle::Volume;
use crate::volume::last_flush::Uncommitted;
use crate::volume::life::{self, Surroundings};
use crate::volume::marks::release::{self, Ending};
use crate::volume::progress::Phase;
use crate::volume::startup::{capture, claim, prepared, store_home};
use crate::volume::status::{SyncReply, VolumeStatus, VolumeSync};

/// How long an acknowledgement waits for the flush under way.
const ACKNOWLEDGE: Duration = Duration::from_secs(8);

/// The volumes of one process.
pub struct Fleet {
    volumes: Mutex<Vec<Arc<Volume>>>,
    around: Arc<Surroundings>,
    endpoint: Arc<Endpoint>,
    /// The configuration in force for the process. Each volume has its own.
    config: Mutex<Config>,
    /// Volumes that a request added: no file names them.
    requested: Mutex<HashSet<String>>,
    /// Held while volumes are added, changed or removed.
    changing: Mutex<()>,
    stopping: AtomicBool,
}

impl Fleet {
    /// Checks that the stores of foreground volumes can be reached. A daemon's volumes wait for their stores, and their
    /// changes are marked meanwhile. In the foreground a store that does not answer ends the process, so check before
    /// anything is attached.
    ///
    /// # Errors
    /// The store's.
    pub fn look(config: &Config, state_dir: &Path) -> Result<(), AppError> {
        if config.file.is_some() {
            return Ok(());
        }
        let mut volumes = config.volumes.iter();
        // Where the store is away there will be no thread that does it.
        volumes.clone().for_each(|volume| life::release_left(&Volume::new(volume.clone(), None), state_dir, None));
        volumes.try_for_each(|volume| store_home::look(volume, state_dir)).map_err(|e| AppError::from_store(&e))
    }

    /// Starts a thread for each volume and returns at once.
    ///
    /// # Errors
    /// If the state directory cannot be written, or a required back end cannot be used.
    pub fn start(config: &Config, state_dir: &Path, endpoint: Arc<Endpoint>) -> Result<Fleet, AppError> {
        let chosen = capture::capture(config, state_dir)?;
        // Register all volumes before starting threads: the first drain must find every volume registered for its marks.
        let prepare = |volume: &VolumeConfig| {
            let prepared = chosen.dispatcher.as_ref().and_then(|there| prepared::prepare(volume, state_dir, there));
            Arc::new(Volume::new(volume.clone(), prepared))
        };
        let volumes: Vec<Arc<Volume>> = config.volumes.iter().map(prepare).collect();
        let fleet = Fleet {
            volumes: Mutex::new(volumes),
            around: Arc::new(Surroundings {
                capture: Mutex::new(Arc::new(chosen)),
                state_dir: state_dir.to_path_buf(),
                daemon: config.file.is_some(),
                guarded: Mutex::new(config.guarded()),
            }),
            endpoint,
            config: Mutex::new(config.clone()),
            requested: Mutex::default(),
            changing: Mutex::new(()),
            stopping: AtomicBool::new(false),
        };
        fleet.list().iter().for_each(|volume| life::spawn(volume, &fleet.around));
        Ok(fleet)
    }

    /// Tries a volume at once, whether it waits or has ended. One that has ended keeps its registration for marks.
    fn try_again(&self, volume: &Arc<Volume>) {
        volume.shared.retry();
        if volume.failure.lock().take().is_some() {
            volume.shared.begin_again();
            life::spawn(volume, &self.around);
        }
    }

    /// Ends tracking, unless the volumes are meant to come back.
    fn release(&self) {
        let capture = self.around.capture();
        let Some(dispatcher) = &capture.dispatcher else { return };
        let committed = self.list().iter().any(|volume| volume.has_committed());
        let keep = self.config.lock().process.tracking.keep;
        let ending = Ending { keep, resumed: capture.resumed, committed };
        if !ending.keeps_tracking() {
            release::release(dispatcher);
        }
    }

    fn list(&self) -> Vec<Arc<Volume>> {
        self.volumes.lock().clone()
    }

    fn find(&self, name: &str) -> Result<Arc<Volume>, ControlError> {
        let found = self.list().into_iter().find(|volume| volume.name == name);
        found.ok_or_else(|| ControlError::UnknownVolume { volume: name.to_owned() })
    }

    /// The deadline of a stop that is requested now.
    fn deadline(&self) -> Instant {
        Instant::now() + self.config.lock().process.stop_timeout.0
    }
}

/// Lets the next start of a volume of this state directory do what `allow` says, once.
///
/// # Errors
/// `Absent` if the state directory has no such volume.
pub fn allow(state_dir: &Path, volume: &str, allow: Allow) -> Result<(), AppError> {
    let location = Catalog::location(state_dir, volume);
    if location::check_volume_name(volume).is_err() || !location.exists() {
        return Err(AppError::new(
            ExitCode::Absent,
            format_args!("the state directory {} has no volume `{volume}`", state_dir.display()),
        )
        .hint("name the directory that its `protect` or `daemon` had with --state-dir"));
    }
    let catalog = Catalog::open(&location).map_err(|error| errors::failed("cannot open the catalog", error))?;
    claim::allow_once(&catalog, allow)
}

/// The answer for a volume that has ended.
fn ended(name: &str, failure: AppError) -> ControlError {
    ControlError::Ended { volume: name.to_owned(), failure }
}

impl Control for Fleet {
    fn status(&self) -> Vec<VolumeStatus> {
        self.list().iter().map(|volume| volume.status()).collect()
    }

    fn sync(&self, name: Option<&str>, timeout: Duration, instant: bool) -> Result<SyncReply, ControlError> {
        let volumes: Vec<_> =
            self.list().into_iter().filter(|volume| name.is_none_or(|name| volume.name == name)).collect();
        if let (Some(name), true) = (name, volumes.is_empty()) {
            return Err(ControlError::UnknownVolume { volume: name.to_owned() });
        }
        // In parallel, so that a slow volume takes no time from the others.
        let volumes: Vec<VolumeSync> = std::thread::scope(|scope| {
            let waits: Vec<_> = volumes.iter().map(|volume| scope.spawn(|| volume.sync(timeout, instant))).collect();
            waits.into_iter().filter_map(|wait| wait.join().ok()).collect()
        });
        match &volumes[..] {
            [VolumeSync { volume, failure: Some(failure), .. }] => Err(ended(volume, failure.clone())),
            _ => Ok(SyncReply { volumes }),
        }
    }

    fn acknowledge(&self, name: &str) -> Result<(), ControlError> {
        let volume = self.find(name)?;
        volume.took_note(volume.shared.acknowledge(ACKNOWLEDGE)).map_err(|failure| ended(name, failure))
    }

    fn confirm(&self, name: &str) -> Result<(), ControlError> {
        let volume = self.find(name)?;
        volume.took_note(volume.shared.confirm(ACKNOWLEDGE)).map_err(|failure| ended(name, failure))
    }

    fn adopt(&self, name: &str, word: Allow) -> Result<(), ControlError> {
        let volume = self.find(name)?;
        // Permission is refused while the volume runs: it would silently apply to some later start.
        let waits = volume.shared.progress().phase == Phase::Waiting;
        if !waits && !volume.has_failed() {
            return Err(ControlError::Running { volume: name.to_owned() });
        }
        allow(&self.around.state_dir, name, word).map_err(|failure| ended(name, failure))?;
        self.try_again(&volume);
        Ok(())
    }

    fn add(&self, volume: &VolumeConfig) -> Result<Vec<Change>, ControlError> {
        self.add_volume(volume)
    }

    fn change(
        &self,
        volume: &str,
        settings: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Vec<Change>, ControlError> {
        self.change_settings(volume, settings)
    }

    fn remove(&self, volume: &str) -> Result<Vec<Change>, ControlError> {
        self.remove_volume(volume)
    }

    fn reload(&self) -> Result<Vec<Change>, ControlError> {
        self.read_again()
    }

    fn stop(&self) -> Vec<Uncommitted> {
        self.stopping.store(true, Ordering::SeqCst);
        let volumes = self.list();
        let deadline = self.deadline();
        volumes.iter().for_each(|volume| volume.shared.stop(deadline));
        let left = volumes.iter().filter_map(|volume| volume.uncommitted(volume.end_for_good(deadline))).collect();
        self.release();
        left
    }

    fn abandon(&self) {
        self.release();
    }
}

#[cfg(test)]
mod tests;

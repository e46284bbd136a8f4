//! Adds, changes and removes volumes while the process runs: by a request, or after a reload of the configuration. Both use
//! the same functions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::capture::BackEnd;
use crate::config::{self, CaptureMode, Config, Takes, VolumeConfig, VolumeOptions, guard};
use crate::daemon::change::{Change, Differs, Outcome, ProcessTakes, of_process};
use crate::daemon::control::ControlError;
use crate::daemon::fleet::Fleet;
use crate::error::AppError;
use crate::volume::handle::{End, Volume};
use crate::volume::life;
use crate::volume::progress::Phase;
use crate::volume::startup::{capture, prepared};

/// How to get a setting that cannot be applied.
const RESTART: &str = "restart the process to change it";
/// The same for a setting that would make it another volume.
const ANEW: &str = "take the volume out and add it again";

impl Fleet {
    /// Adds a volume that no file names; it is gone with the process, or when it is removed.
    pub(super) fn add_volume(&self, new: &VolumeConfig) -> Result<Vec<Change>, ControlError> {
        let _one = self.changing.lock();
        self.may_change()?;
        if self.find(&new.name).is_ok() {
            return Err(ControlError::Exists { volume: new.name.clone() });
        }
        new.check().map_err(|reason| ControlError::BadRequest { reason })?;
        let refused = |failure| ControlError::Refused { failure };
        if let Some(why) = self.other_back_end(new.options.capture) {
            return Err(refused(AppError::new(crate::error::ExitCode::Usage, why).hint(RESTART)));
        }
        let mut guarded = self.running().guarded();
        guarded.push(new.guarded());
        let found = guard::check_paths(&guarded, &self.around.state_dir, &guard::log_files());
        // A source that is away is waited for, as at a start.
        let found = found.into_iter().find(|refused| refused.volume.as_ref() == Some(&new.name));
        if let Some(found) = found.filter(|refused| !refused.kind.is_away()) {
            return Err(refused(found.into()));
        }
        self.requested.lock().insert(new.name.clone());
        self.begin(std::slice::from_ref(new)).map_err(refused)?;
        Ok(told(vec![Change::of_volume(&new.name, Outcome::Added)]))
    }

    /// Changes settings of a volume; the next reload of the configuration may change them back.
    pub(super) fn change_settings(
        &self,
        name: &str,
        settings: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Vec<Change>, ControlError> {
        let _one = self.changing.lock();
        self.may_change()?;
        let volume = self.find(name)?;
        let old = volume.config();
        let wrong = |error: serde_json::Error| ControlError::BadRequest { reason: error.to_string() };
        let mut options = serde_json::to_value(&old.options).map_err(wrong)?;
        if let Some(options) = options.as_object_mut() {
            options.extend(settings.clone());
        }
        let options: VolumeOptions = serde_json::from_value(options).map_err(wrong)?;
        Ok(told(self.change_volume(&volume, &VolumeConfig { options, ..VolumeConfig::clone(&old) })))
    }

    /// Makes a last flush of a volume and releases it.
    pub(super) fn remove_volume(&self, name: &str) -> Result<Vec<Change>, ControlError> {
        let _one = self.changing.lock();
        self.may_change()?;
        let volume = self.find(name)?;
        Ok(told(self.end(&[volume])))
    }

    /// Reads the configuration again and applies it to the process and its volumes.
    pub(super) fn read_again(&self) -> Result<Vec<Change>, ControlError> {
        let Some(file) = self.config.lock().file.clone() else { return Err(ControlError::Unsupported) };
        let _one = self.changing.lock();
        self.may_change()?;
        let new = config::load(&file, &self.around.state_dir)
            .map_err(|error| ControlError::Reload { reason: error.to_string() })?;
        let mut changes = self.change_process(&new);
        let wanted = |name: &str| new.volumes.iter().find(|new| new.name == name);
        {
            let mut requested = self.requested.lock();
            requested.retain(|name| wanted(name).is_none());
            let gone = |volume: &Arc<Volume>| wanted(&volume.name).is_none() && !requested.contains(&volume.name);
            let gone: Vec<_> = self.list().into_iter().filter(gone).collect();
            drop(requested);
            changes.extend(self.end(&gone));
        }
        for volume in self.list() {
            let Some(new) = wanted(&volume.name) else { continue };
            changes.extend(self.change_volume(&volume, new));
            // A person requested it: volumes that wait or have ended are tried at once.
            self.try_again(&volume);
        }
        let added: Vec<_> = new.volumes.iter().filter(|new| self.find(&new.name).is_err()).cloned().collect();
        match self.begin(&added) {
            Ok(()) => changes.extend(added.iter().map(|new| Change::of_volume(&new.name, Outcome::Added))),
            Err(error) => {
                let outcome = Outcome::refused(&error, error.hint.as_deref().unwrap_or(RESTART));
                changes.extend(added.iter().map(|new| Change::of_volume(&new.name, outcome.clone())));
            }
        }
        Ok(told(changes))
    }

    fn may_change(&self) -> Result<(), ControlError> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(ControlError::Stopping);
        }
        if self.around.daemon { Ok(()) } else { Err(ControlError::Unsupported) }
    }

    /// The configuration in force, with the present volumes.
    fn running(&self) -> Config {
        let volumes = self.list().iter().map(|volume| VolumeConfig::clone(&volume.config())).collect();
        Config { volumes, ..self.config.lock().clone() }
    }

    /// Applies the settings of the process that can be applied.
    fn change_process(&self, new: &Config) -> Vec<Change> {
        let mut config = self.config.lock().clone();
        let captures = self.around.capture().dispatcher.is_some();
        let mut changes = Vec::new();
        for Differs { key, value, takes, apply } in of_process(&config, new) {
            let outcome = match takes {
                ProcessTakes::AtOnce => Outcome::Applied,
                ProcessTakes::Endpoint => match self.endpoint.move_to(new.metrics_listen) {
                    Ok(()) => Outcome::Applied,
                    Err(error) => Outcome::refused(&error, error.hint.as_deref().unwrap_or(RESTART)),
                },
                ProcessTakes::BeforeCapture if !captures => Outcome::Applied,
                ProcessTakes::BeforeCapture => Outcome::refused("the capture was attached with the old value", RESTART),
                ProcessTakes::Restart => Outcome::refused("the process holds the old directory", RESTART),
            };
            let change = Change::of_setting(None, key, &value, outcome);
            if !change.is_refused() {
                apply(&mut config, new);
            }
            changes.push(change);
        }
        *self.config.lock() = config;
        changes
    }

    /// Why a volume cannot be captured as `wanted` says: all volumes share one back end.
    fn other_back_end(&self, wanted: CaptureMode) -> Option<String> {
        let wanted = wanted.back_end()?;
        let capture = self.around.capture();
        let here = match &capture.dispatcher {
            Some(dispatcher) => Some(dispatcher.back_end()).filter(|back_end| *back_end != BackEnd::Scan),
            None => self.list().iter().find_map(|volume| volume.config().options.capture.back_end()),
        };
        let other = here.filter(|here| *here != wanted)?;
        let (wanted, other) = (wanted.name(), other.name());
        Some(format!("it asks for {wanted}, the process captures with {other}, and all volumes share one capture"))
    }

    /// Applies `new` to a volume, as far as possible while it runs.
    fn change_volume(&self, volume: &Arc<Volume>, new: &VolumeConfig) -> Vec<Change> {
        let old = volume.config();
        let mut new = VolumeConfig { allow: old.allow, ..new.clone() };
        let runs = !volume.has_failed() && volume.shared.progress().phase != Phase::Waiting;
        let mut changes = Vec::new();
        let mut note = |key: &str, value: &str, outcome| {
            changes.push(Change::of_setting(Some(&volume.name), key, value, outcome));
        };
        let place = |differs: bool, why: &str| match differs {
            true if runs => Some(Outcome::refused(format_args!("the volume runs, and its history is of {why}"), ANEW)),
            true => Some(Outcome::Applied),
            false => None,
        };
        let mut again = volume.shared.progress().stop;
        if let Some(outcome) = place(old.source != new.source, "the old directory") {
            again |= !runs;
            note("source", &new.source.to_string_lossy(), outcome);
        }
        if let Some(outcome) = place(old.store != new.store, "the old store") {
            again |= !runs;
            note("store", &new.store.to_string(), outcome);
        }
        if runs {
            (new.source, new.store) = (old.source.clone(), old.store.clone());
        }
        let back_end = self.other_back_end(new.options.capture).filter(|_| old.options.capture != new.options.capture);
        for changed in old.options.changed(&new.options) {
            let outcome = match &back_end {
                Some(why) if changed.key == "capture" => Outcome::refused(why, RESTART),
                _ => {
                    again |= changed.takes == Takes::Reopening;
                    Outcome::Applied
                }
            };
            note(changed.key, &changed.value, outcome);
        }
        if back_end.is_some() {
            new.options.capture = old.options.capture;
        }
        if *old == new && !again {
            return changes;
        }
        volume.shared.apply(new);
        *self.around.guarded.lock() = self.running().guarded();
        if again && let Err(error) = self.run_again(volume) {
            // Everything else stays applied.
            volume.shared.apply(VolumeConfig {
                options: VolumeOptions { capture: old.options.capture, ..volume.config().options.clone() },
                ..VolumeConfig::clone(&volume.config())
            });
            let outcome = Outcome::refused(&error, error.hint.as_deref().unwrap_or(RESTART));
            for change in changes.iter_mut().filter(|change| change.key.as_deref() == Some("capture")) {
                change.outcome = outcome.clone();
            }
            self.reopen(volume);
        }
        changes
    }

    /// Opens a volume again, with a capture if it asks for one and the process had none.
    fn run_again(&self, volume: &Arc<Volume>) -> Result<(), AppError> {
        let opened = self.gain_capture()?.iter().any(|opened| Arc::ptr_eq(opened, volume));
        if volume.has_failed() {
            self.try_again(volume);
        } else if !opened {
            self.reopen(volume);
        }
        Ok(())
    }

    /// Flushes and reopens a volume, with its present configuration and that of the process. If the flush takes longer than
    /// a stop may, another thread waits for it.
    fn reopen(&self, volume: &Arc<Volume>) {
        let deadline = self.deadline();
        volume.shared.stop_to_reopen(deadline);
        if volume.end_by(deadline) != End::NotInTime {
            return self.begin_again(volume);
        }
        tracing::warn!(volume = volume.name, "its flush does not end in time: it is opened again when it does");
        let (volume, around) = (Arc::clone(volume), Arc::clone(&self.around));
        let waiter = std::thread::Builder::new().name("reopen".into()).spawn(move || {
            while volume.end_by(std::time::Instant::now() + std::time::Duration::from_secs(1)) == End::NotInTime {}
            if volume.shared.is_to_reopen() && !volume.has_failed() {
                volume.shared.begin_again();
                life::spawn(&volume, &around);
            }
        });
        if let Err(error) = waiter {
            tracing::error!(%error, "a thread cannot be started: the volume stays stopped until the next reload");
        }
    }

    /// Starts another thread for a volume whose thread was stopped; one that has ended by itself meanwhile stays so.
    fn begin_again(&self, volume: &Arc<Volume>) {
        if !self.stopping.load(Ordering::SeqCst) && !volume.has_failed() {
            volume.shared.begin_again();
            life::spawn(volume, &self.around);
        }
    }

    /// Starts volumes as at the start of a process.
    ///
    /// # Errors
    /// If a back end that is requested by name cannot be used; then none of the volumes is started.
    fn begin(&self, new: &[VolumeConfig]) -> Result<(), AppError> {
        let new: Vec<_> = new.iter().map(|config| Arc::new(Volume::new(config.clone(), None))).collect();
        self.volumes.lock().extend(new.iter().cloned());
        *self.around.guarded.lock() = self.running().guarded();
        let gained = self.gain_capture();
        if gained.is_err() {
            self.forget(&new);
        } else {
            new.iter().for_each(|volume| life::spawn(volume, &self.around));
        }
        gained.map(drop)
    }

    /// Starts the capture of a process that has none, if a volume wants one. Every such volume is reopened, and registered
    /// for its marks before the first drain. Returns these volumes.
    fn gain_capture(&self) -> Result<Vec<Arc<Volume>>, AppError> {
        let config = self.running();
        let wants = |volume: &VolumeConfig| volume.options.capture != CaptureMode::SCAN;
        if self.around.capture().dispatcher.is_some() || !config.volumes.iter().any(wants) {
            return Ok(Vec::new());
        }
        let chosen = Arc::new(capture::capture(&config, &self.around.state_dir)?);
        let Some(dispatcher) = &chosen.dispatcher else {
            *self.around.capture.lock() = chosen;
            return Ok(Vec::new());
        };
        let gaining: Vec<_> = self.list().into_iter().filter(|volume| wants(&volume.config())).collect();
        let running: Vec<_> = gaining.iter().filter(|volume| volume.thread.lock().is_some()).cloned().collect();
        let deadline = self.deadline();
        running.iter().for_each(|volume| volume.shared.stop_to_reopen(deadline));
        for volume in &gaining {
            if volume.end_by(deadline) != End::NotInTime {
                *volume.prepared.lock() = prepared::prepare(&volume.config(), &self.around.state_dir, dispatcher);
            }
        }
        tracing::info!(back_end = dispatcher.back_end().name(), "the process captures from now on");
        *self.around.capture.lock() = Arc::clone(&chosen);
        running.iter().for_each(|volume| self.reopen(volume));
        Ok(running)
    }

    /// Stops volumes after a last flush each, and releases them.
    fn end(&self, volumes: &[Arc<Volume>]) -> Vec<Change> {
        let deadline = self.deadline();
        volumes.iter().for_each(|volume| volume.shared.stop(deadline));
        let mut changes = Vec::new();
        for volume in volumes {
            let end = volume.end_by(deadline);
            let left = volume.uncommitted(end);
            let outcome = if end == End::NotInTime {
                // Its thread still has the catalog and the store open: no other thread may use them.
                Outcome::refused("its last flush did not end in time", "ask again, or restart the process")
            } else {
                self.let_go(volume);
                self.forget(std::slice::from_ref(volume));
                Outcome::Removed { left: left.map(|left| left.to_string()) }
            };
            changes.push(Change::of_volume(&volume.name, outcome));
        }
        changes
    }

    /// Ends the registration of a volume without a thread.
    fn let_go(&self, volume: &Volume) {
        let Some(prepared) = volume.prepared.lock().take() else { return };
        let capture = self.around.capture();
        let Some(dispatcher) = &capture.dispatcher else { return };
        if let Err(error) = dispatcher.let_go(&prepared.subscriber) {
            let error = crate::error::chain(&error);
            tracing::warn!(volume = volume.name, error, "its marks could not be taken whole: its next start compares");
            dispatcher.remove(&prepared.subscriber);
        }
    }

    fn forget(&self, gone: &[Arc<Volume>]) {
        self.volumes.lock().retain(|volume| !gone.iter().any(|gone| Arc::ptr_eq(gone, volume)));
        let mut requested = self.requested.lock();
        requested.retain(|name| !gone.iter().any(|gone| gone.name == *name));
        drop(requested);
        *self.around.guarded.lock() = self.running().guarded();
    }
}

/// Logs the changes and returns them.
fn told(changes: Vec<Change>) -> Vec<Change> {
    changes.iter().for_each(Change::log);
    changes
}

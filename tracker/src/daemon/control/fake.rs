//! A `Control` for tests: a list of volumes that the test changes, and a record of the requests.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::{Allow, VolumeConfig};
use crate::daemon::change::{Change, Outcome};
use crate::daemon::control::protocol::{Control, ControlError};
use crate::volume::last_flush::Uncommitted;
use crate::volume::status::{State, SyncReply, VolumeStatus};

#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) volumes: Mutex<Vec<VolumeStatus>>,
    pub(crate) reply: Mutex<SyncReply>,
    pub(crate) refuse_reload: Mutex<Option<String>>,
    pub(crate) uncommitted: Mutex<Vec<Uncommitted>>,
    pub(crate) calls: Mutex<Vec<String>>,
}

impl Fake {
    pub(crate) fn new(volumes: Vec<VolumeStatus>) -> Self {
        Fake { volumes: Mutex::new(volumes), ..Fake::default() }
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }
}

/// The status of a healthy volume.
pub(crate) fn protected(name: &str) -> VolumeStatus {
    VolumeStatus {
        volume: name.into(),
        state: State::Protected,
        armed: true,
        fenced_store: Some(true),
        baseline_seq: Some(1),
        head_seq: 1,
        interval_ms: 250,
        ..VolumeStatus::default()
    }
}

impl Control for Fake {
    fn status(&self) -> Vec<VolumeStatus> {
        self.volumes.lock().unwrap().clone()
    }

    fn sync(&self, volume: Option<&str>, timeout: Duration, instant: bool) -> Result<SyncReply, ControlError> {
        self.note(format!("sync {volume:?} {timeout:?}{}", if instant { " instant" } else { "" }));
        let known = self.volumes.lock().unwrap().iter().any(|v| volume.is_none_or(|name| v.volume == name));
        match volume {
            Some(volume) if !known => Err(ControlError::UnknownVolume { volume: volume.into() }),
            _ => Ok(self.reply.lock().unwrap().clone()),
        }
    }

    fn acknowledge(&self, volume: &str) -> Result<(), ControlError> {
        self.note(format!("acknowledge {volume}"));
        Ok(())
    }

    fn confirm(&self, volume: &str) -> Result<(), ControlError> {
        self.note(format!("confirm {volume}"));
        Ok(())
    }

    fn adopt(&self, volume: &str, allow: Allow) -> Result<(), ControlError> {
        self.note(format!("adopt {volume} {}", allow.words()));
        Ok(())
    }

    fn add(&self, volume: &VolumeConfig) -> Result<Vec<Change>, ControlError> {
        self.note(format!("add {} {} {:?}", volume.name, volume.store, volume.options.interval));
        if self.volumes.lock().unwrap().iter().any(|there| there.volume == volume.name) {
            return Err(ControlError::Exists { volume: volume.name.clone() });
        }
        Ok(vec![Change::of_volume(&volume.name, Outcome::Added)])
    }

    fn change(&self, volume: &str, settings: &Map<String, Value>) -> Result<Vec<Change>, ControlError> {
        self.note(format!("change {volume} {settings:?}"));
        let outcome = || Outcome::refused("it is fixed", "restart");
        Ok(settings
            .iter()
            .map(|(key, value)| Change::of_setting(Some(volume), key, &value.to_string(), outcome()))
            .collect())
    }

    fn remove(&self, volume: &str) -> Result<Vec<Change>, ControlError> {
        self.note(format!("remove {volume}"));
        Ok(vec![Change::of_volume(volume, Outcome::Removed { left: None })])
    }

    fn reload(&self) -> Result<Vec<Change>, ControlError> {
        self.note("reload".into());
        match self.refuse_reload.lock().unwrap().clone() {
            Some(reason) => Err(ControlError::Reload { reason }),
            None => Ok(vec![]),
        }
    }

    fn stop(&self) -> Vec<Uncommitted> {
        self.note("stop".into());
        self.uncommitted.lock().unwrap().clone()
    }
}

//! The requests to a running tracker, and how requests and replies are written.
//!
//! It decides nothing: every reply comes from the `Control` behind it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{Allow, VolumeConfig};
use crate::daemon::change::Change;
use crate::error::{AppError, ExitCode};
use crate::volume::last_flush::Uncommitted;
use crate::volume::status::{SyncReply, VolumeStatus};

/// Most bytes of one request line.
pub const REQUEST_MAX: usize = 64 * 1024;
/// Most bytes of one reply line: a status of a thousand volumes with full lists fits.
pub(super) const REPLY_MAX: usize = 64 * 1024 * 1024;
/// Most requests served at once; one more waits in the socket's queue.
pub(super) const CONNECTIONS_MAX: usize = 16;

/// A running set of volumes, as the socket, the HTTP endpoints and the service loop see it.
///
/// Calls come from several threads at once. `status` must return at once, whatever a flush or the store is doing.
pub trait Control: Send + Sync {
    /// All volumes, in a stable order. Must not wait for a flush, for a lock held during I/O, or for the store.
    fn status(&self) -> Vec<VolumeStatus>;

    /// Waits until a flush of one volume or of all, whose SWAP began after this call, has committed. What is not done after
    /// `timeout` is in the reply. With a `timeout` of zero it requests a flush and returns.
    fn sync(&self, volume: Option<&str>, timeout: Duration, instant: bool) -> Result<SyncReply, ControlError>;

    /// Acknowledges the write-back errors of a volume: they no longer make it degraded.
    fn acknowledge(&self, volume: &str) -> Result<(), ControlError>;

    /// Confirms as many removals as are held now (`VolumeStatus::removals_held`).
    fn confirm(&self, volume: &str) -> Result<(), ControlError>;

    /// Lets a volume adopt another directory as its source, or accept its store at another address, once. If it waits or
    /// has ended, it is tried at once.
    fn adopt(&self, volume: &str, allow: Allow) -> Result<(), ControlError>;

    /// Starts a volume as at the start of the process. No file names it: it is gone with the process, or when it is
    /// removed.
    fn add(&self, volume: &VolumeConfig) -> Result<Vec<Change>, ControlError>;

    /// Changes settings of a volume, by the keys of `[[volume]]`. A setting that cannot be applied is refused; the others
    /// are applied.
    fn change(&self, volume: &str, settings: &Map<String, Value>) -> Result<Vec<Change>, ControlError>;

    /// Makes a last flush of a volume and releases it.
    fn remove(&self, volume: &str) -> Result<Vec<Change>, ControlError>;

    /// Reads the configuration again and applies it; without a configuration file, `ControlError::Unsupported`.
    fn reload(&self) -> Result<Vec<Change>, ControlError>;

    /// Makes a last flush of every volume and ends them. Returns when that is done or the time is over, with what could not
    /// be committed. May be called again.
    fn stop(&self) -> Vec<Uncommitted>;

    /// Called when the process ends at once, whatever is under way: removes from the kernel what must not stay there.
    fn abandon(&self) {}
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum ControlError {
    #[error("there is no volume `{volume}` here")]
    UnknownVolume { volume: String },
    #[error("the daemon is stopping")]
    Stopping,
    #[error("the volume `{volume}` has ended: {failure}")]
    Ended { volume: String, failure: AppError },
    #[error("this process was started without a configuration file: it has the one volume of its command line")]
    Unsupported,
    #[error("there is a volume `{volume}` already")]
    Exists { volume: String },
    #[error("{failure}")]
    Refused { failure: AppError },
    #[error("the volume `{volume}` runs: there is nothing to adopt")]
    Running { volume: String },
    #[error("the configuration was not applied: {reason}")]
    Reload { reason: String },
    #[error("the request is not understood: {reason}")]
    BadRequest { reason: String },
    #[error("the request is longer than {max} bytes")]
    TooLong { max: usize },
}

impl From<ControlError> for AppError {
    fn from(error: ControlError) -> AppError {
        match error {
            ControlError::UnknownVolume { .. } => {
                AppError::new(ExitCode::Absent, error).hint("`tracker status` lists the volumes")
            }
            ControlError::Ended { ref failure, .. } => {
                let app = AppError::new(failure.code, &error);
                AppError { hint: failure.hint.clone(), ..app }
            }
            ControlError::Refused { failure } => failure,
            ControlError::Exists { .. } => {
                AppError::new(ExitCode::Guard, error).hint("`tracker volume set` changes it")
            }
            ControlError::Unsupported => AppError::new(ExitCode::Error, error)
                .hint("`tracker daemon --config FILE` serves volumes that come and go"),
            ControlError::BadRequest { .. } => {
                AppError::new(ExitCode::Usage, error).hint("docs/configuration.md lists the keys of a volume")
            }
            ControlError::Running { .. } => AppError::new(ExitCode::Error, error)
                .hint("`tracker status` says whether a volume waits for a word, and for which"),
            _ => AppError::new(ExitCode::Error, error),
        }
    }
}

/// One request line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    Status,
    Sync {
        volume: Option<String>,
        timeout_ms: u64,
        #[serde(default)]
        instant: bool,
    },
    Acknowledge {
        volume: String,
    },
    Confirm {
        volume: String,
    },
    Adopt {
        volume: String,
        source: bool,
        store: bool,
    },
    Add {
        volume: Box<VolumeConfig>,
    },
    Change {
        volume: String,
        settings: Map<String, Value>,
    },
    Remove {
        volume: String,
    },
    Reload,
    Stop,
}

/// One reply line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Status { volumes: Vec<VolumeStatus> },
    Sync { sync: SyncReply },
    Changed { changes: Vec<Change> },
    Done,
    Error { cause: ControlError },
}

/// The path of the socket in a state directory.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Answers one request. `Stop` is answered before it is executed: the caller stops after sending the reply.
pub(super) fn answer(control: &dyn Control, request: &Request) -> Reply {
    let result = match request {
        Request::Status => Ok(Reply::Status { volumes: control.status() }),
        Request::Sync { volume, timeout_ms, instant } => control
            .sync(volume.as_deref(), Duration::from_millis(*timeout_ms), *instant)
            .map(|sync| Reply::Sync { sync }),
        Request::Acknowledge { volume } => control.acknowledge(volume).map(|()| Reply::Done),
        Request::Confirm { volume } => control.confirm(volume).map(|()| Reply::Done),
        Request::Adopt { volume, source, store } => {
            control.adopt(volume, Allow { source: *source, store: *store }).map(|()| Reply::Done)
        }
        Request::Add { volume } => control.add(volume).map(|changes| Reply::Changed { changes }),
        Request::Change { volume, settings } => {
            control.change(volume, settings).map(|changes| Reply::Changed { changes })
        }
        Request::Remove { volume } => control.remove(volume).map(|changes| Reply::Changed { changes }),
        Request::Reload => control.reload().map(|changes| Reply::Changed { changes }),
        Request::Stop => Ok(Reply::Done),
    };
    result.unwrap_or_else(|cause| Reply::Error { cause })
}

//! The client of the control socket: `status`, `sync` and other verbs find the daemon through its state directory.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::{Allow, VolumeConfig};
use crate::daemon::change::Change;
use crate::daemon::control::protocol::{REPLY_MAX, Reply, Request, socket_path};
use crate::error::{AppError, ExitCode};
use crate::volume::status::{SyncReply, VolumeStatus};

/// How much longer than the request's own time an answer may take.
const SLACK: Duration = Duration::from_secs(10);

/// How long changes may take: by its configuration a stop may take up to an hour.
const CHANGES: Duration = Duration::from_secs(3660);

/// Sends requests to the daemon of one state directory. Every call uses a new connection.
#[derive(Clone, Debug)]
pub struct Client {
    state_dir: PathBuf,
}

impl Client {
    pub fn new(state_dir: &Path) -> Self {
        Client { state_dir: state_dir.to_path_buf() }
    }

    pub fn status(&self) -> Result<Vec<VolumeStatus>, AppError> {
        match self.ask(&Request::Status, Duration::ZERO)? {
            Reply::Status { volumes } => Ok(volumes),
            other => Err(unexpected(&other)),
        }
    }

    /// As `Control::sync`.
    pub fn sync(&self, volume: Option<&str>, timeout: Duration, instant: bool) -> Result<SyncReply, AppError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Sync { volume: volume.map(str::to_string), timeout_ms, instant };
        match self.ask(&request, timeout)? {
            Reply::Sync { sync } => Ok(sync),
            other => Err(unexpected(&other)),
        }
    }

    /// As `Control::acknowledge`.
    pub fn acknowledge(&self, volume: &str) -> Result<(), AppError> {
        match self.ask(&Request::Acknowledge { volume: volume.to_owned() }, Duration::ZERO)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// As `Control::confirm`.
    pub fn confirm(&self, volume: &str) -> Result<(), AppError> {
        match self.ask(&Request::Confirm { volume: volume.to_owned() }, Duration::ZERO)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// As `Control::adopt`.
    pub fn adopt(&self, volume: &str, allow: Allow) -> Result<(), AppError> {
        let request = Request::Adopt { volume: volume.to_owned(), source: allow.source, store: allow.store };
        match self.ask(&request, Duration::ZERO)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether a daemon listens.
    pub fn is_there(&self) -> bool {
        UnixStream::connect(socket_path(&self.state_dir)).is_ok()
    }

    /// As `Control::add`.
    pub fn add(&self, volume: &VolumeConfig) -> Result<Vec<Change>, AppError> {
        self.ask_for_changes(&Request::Add { volume: Box::new(volume.clone()) })
    }

    /// As `Control::change`.
    pub fn change(&self, volume: &str, settings: &Map<String, Value>) -> Result<Vec<Change>, AppError> {
        self.ask_for_changes(&Request::Change { volume: volume.to_owned(), settings: settings.clone() })
    }

    /// As `Control::remove`.
    pub fn remove(&self, volume: &str) -> Result<Vec<Change>, AppError> {
        self.ask_for_changes(&Request::Remove { volume: volume.to_owned() })
    }

    /// As `Control::reload`.
    pub fn reload(&self) -> Result<Vec<Change>, AppError> {
        self.ask_for_changes(&Request::Reload)
    }

    /// Volumes may have to be stopped for the change, each after a last flush.
    fn ask_for_changes(&self, request: &Request) -> Result<Vec<Change>, AppError> {
        match self.ask(request, CHANGES)? {
            Reply::Changed { changes } => Ok(changes),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns when the daemon has accepted the request, not when it has stopped.
    pub fn stop(&self) -> Result<(), AppError> {
        match self.ask(&Request::Stop, Duration::ZERO)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&self, request: &Request, wait: Duration) -> Result<Reply, AppError> {
        let path = socket_path(&self.state_dir);
        let stream = UnixStream::connect(&path).map_err(|e| self.no_daemon(&e))?;
        let talk = || -> io::Result<Vec<u8>> {
            stream.set_read_timeout(Some(wait.saturating_add(SLACK)))?;
            stream.set_write_timeout(Some(SLACK))?;
            let mut line = serde_json::to_vec(request)?;
            line.push(b'\n');
            (&stream).write_all(&line)?;
            let mut reply = Vec::new();
            BufReader::new((&stream).take(REPLY_MAX as u64)).read_until(b'\n', &mut reply)?;
            Ok(reply)
        };
        let line = talk().map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                AppError::new(ExitCode::Error, "the daemon does not answer")
                    .hint("look at its log; `tracker status` asks again")
            }
            _ => AppError::new(ExitCode::Error, format_args!("the daemon broke off: {e}")),
        })?;
        if line.last() != Some(&b'\n') {
            return Err(AppError::new(ExitCode::Error, "the daemon ended before it answered")
                .hint("nothing is confirmed; look at its log"));
        }
        let reply = serde_json::from_slice(&line).map_err(|e| {
            AppError::new(ExitCode::Error, format_args!("the daemon's answer is not understood: {e}"))
                .hint("daemon and command may be of different versions; restart the daemon")
        })?;
        match reply {
            Reply::Error { cause } => Err(cause.into()),
            reply => Ok(reply),
        }
    }

    fn no_daemon(&self, error: &io::Error) -> AppError {
        let dir = self.state_dir.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                AppError::new(ExitCode::Error, format_args!("no tracker is running with the state directory {dir}"))
                    .hint("start `tracker protect` or `tracker daemon`, or name its directory with --state-dir")
            }
            io::ErrorKind::PermissionDenied => AppError::new(
                ExitCode::Error,
                format_args!("the control socket in {dir} may not be opened: permission denied"),
            )
            .hint("run as the user who started tracker, most often root"),
            _ => AppError::new(ExitCode::Error, format_args!("cannot reach the tracker of {dir}: {error}")),
        }
    }
}

fn unexpected(reply: &Reply) -> AppError {
    let kind = match reply {
        Reply::Status { .. } => "status",
        Reply::Sync { .. } => "sync",
        Reply::Changed { .. } => "changed",
        Reply::Done => "done",
        Reply::Error { .. } => "error",
    };
    AppError::new(ExitCode::Error, format_args!("the daemon gave an answer of the wrong kind ({kind})"))
}

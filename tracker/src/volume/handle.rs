//! A volume as the rest of the process has it: what it is asked for, what it shows, and how it ended. Its thread is
//! `volume::life`.

mod report;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::capture::BackEnd;
use crate::catalog::Catalog;
use crate::config::{ConsistencyMode, VolumeConfig};
use crate::error::{AppError, ExitCode};
use crate::store::meter::Meter;
use crate::volume::clock::now_ns;
use crate::volume::last_flush::Uncommitted;
use crate::volume::marks::dispatcher::Dispatcher;
use crate::volume::marks::waiting::Pending;
use crate::volume::progress::{Shared, Synced};
use crate::volume::startup::prepared::Prepared;
use crate::volume::status::VolumeSync;

/// What does not change after a volume was opened.
pub(crate) struct VolumeFacts {
    pub volume_id: String,
    pub backend: BackEnd,
    pub reasons: Vec<String>,
    /// `None` until a probe of the store has answered.
    pub fenced_store: Option<bool>,
    pub pending: Arc<Pending>,
    pub catalog: Arc<Catalog>,
    pub meter: Arc<Meter>,
    pub dispatcher: Option<Arc<Dispatcher>>,
}

/// One volume of a process.
pub(crate) struct Volume {
    pub name: String,
    pub shared: Arc<Shared>,
    /// `None` until the volume was opened once.
    pub facts: Mutex<Option<VolumeFacts>>,
    pub prepared: Mutex<Option<Prepared>>,
    /// Why the volume has ended by itself.
    pub failure: Mutex<Option<AppError>>,
    pub thread: Mutex<Option<JoinHandle<()>>>,
}

/// How the thread of a volume ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Ended,
    Panicked,
    /// It had not ended by the deadline.
    NotInTime,
}

impl Volume {
    /// A volume whose thread is not started yet.
    pub(crate) fn new(config: VolumeConfig, prepared: Option<Prepared>) -> Volume {
        Volume {
            name: config.name.clone(),
            shared: Arc::new(Shared::new(config)),
            facts: Mutex::default(),
            prepared: Mutex::new(prepared),
            failure: Mutex::default(),
            thread: Mutex::default(),
        }
    }

    /// Its current configuration.
    pub(crate) fn config(&self) -> Arc<VolumeConfig> {
        self.shared.config()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.lock().is_some()
    }

    /// Whether the store has a commit of it, as far as this process knows.
    pub(crate) fn has_committed(&self) -> bool {
        let catalog = self.facts.lock().as_ref().map(|facts| Arc::clone(&facts.catalog));
        let head = catalog.and_then(|catalog| catalog.head().ok().flatten());
        head.is_some() || self.shared.progress().baseline_seq.is_some()
    }

    /// Waits for the end of its thread.
    pub(crate) fn end_by(&self, deadline: Instant) -> End {
        let mut thread = self.thread.lock();
        while thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() >= deadline {
                return End::NotInTime;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        match thread.take().map(JoinHandle::join) {
            None | Some(Ok(())) => End::Ended,
            Some(Err(_)) => {
                tracing::error!(volume = self.name, "the volume's thread ended in a panic");
                self.shared.release(Default::default);
                self.shared.end();
                End::Panicked
            }
        }
    }

    /// As [`Volume::end_by`], before the end of the process: what the thread owes the application is given now, also where it has
    /// not ended.
    pub(crate) fn end_for_good(&self, deadline: Instant) -> End {
        let end = self.end_by(deadline);
        if end == End::NotInTime {
            self.shared.release(Default::default);
        }
        end
    }

    /// What is not committed after a stop that ended with `end`.
    pub(crate) fn uncommitted(&self, end: End) -> Option<Uncommitted> {
        let why = match end {
            End::Ended => None,
            End::NotInTime => Some("the last flush did not end in time".to_owned()),
            End::Panicked => Some("the volume's thread ended in a panic".to_owned()),
        };
        let facts = self.facts.lock();
        // This process knows of no marks of a volume that was never opened.
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
            volume: self.name.clone(),
            inodes: inodes as u64,
            bytes,
            oldest_seconds: oldest.map(|at| now_ns().saturating_sub(at) as f64 / 1e9),
            why: last_error.or(why).or(left_over),
        })
    }

    /// Waits for a flush as [`Shared::sync`] does.
    pub(crate) fn sync(&self, timeout: Duration, instant: bool) -> VolumeSync {
        let looked_for = self.config().options.consistency == ConsistencyMode::Instant;
        let synced = match instant && !looked_for {
            false => self.shared.sync(timeout, instant),
            true => {
                Synced::Partial(vec!["the volume has `consistency = \"live\"`: no commit is of one instant".into()])
            }
        };
        let status = self.status();
        let mut reply = VolumeSync { volume: status.volume, seq: status.head_seq, ..VolumeSync::default() };
        match synced {
            Synced::Done if instant => reply.seq = status.newest_instant_seq.unwrap_or(reply.seq),
            Synced::Done => {}
            Synced::Partial(why) => reply.partial = why,
            Synced::Ended(_) => {
                // The volume's thread may still be ending.
                let failure = status.failure.or_else(|| self.shared.progress().fenced());
                reply.failure = failure.or_else(|| Some(AppError::new(ExitCode::Error, "it was stopped")));
            }
        }
        if !timeout.is_zero() {
            reply.degraded = self.shared.progress().trouble();
        }
        reply
    }

    /// Whether the volume's thread has accepted an operator's request.
    ///
    /// # Errors
    /// Why it has not.
    pub(crate) fn took_note(&self, noted: bool) -> Result<(), AppError> {
        if noted {
            return Ok(());
        }
        let busy = || AppError::new(ExitCode::Error, "its flush does not end; ask again");
        Err(self.status().failure.unwrap_or_else(busy))
    }
}

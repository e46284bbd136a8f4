//! The life of a process that protects volumes: lock, start, control socket, HTTP, signals, watchdog, stop.
//!
//! The work of a volume is behind `Control`. This loop checks its status, prints `ready`, and decides when to end and with
//! which code.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify as Wake;

use crate::capture::BackEnd;
use crate::config::Config;
use crate::daemon::control::{Control, Server};
use crate::daemon::endpoint::Endpoint;
use crate::daemon::fleet::Fleet;
use crate::daemon::metrics::Process;
use crate::daemon::service_manager::{Liveness, Notify};
use crate::daemon::state_dir::StateDir;
use crate::error::{AppError, ExitCode};
use crate::output::Out;
use crate::volume::last_flush::{Uncommitted, verdict};
use crate::volume::status::{State, VolumeStatus};

/// How often the loop checks the volumes, and so the longest delay of `ready`.
const TICK: Duration = Duration::from_millis(50);

/// In how many ticks it checks them once when all have said `ready`: asking fifty volumes twenty times a second is work.
const SETTLED: u32 = 20;

/// How long a process that was interrupted twice tries to detach its programs.
const ABANDON: Duration = Duration::from_secs(2);

/// Protects the volumes of `config` until a signal, a `stop` request, or the end of all volumes.
pub(crate) fn run(config: &Config, state_dir: &Path, out: &mut Out) -> Result<ExitCode, AppError> {
    let state_dir = StateDir::lock(state_dir)?;
    let process = Arc::new(Process::new());
    Fleet::look(config, state_dir.path())?;
    let early = Early::new(config, &process)?;
    let fleet = Fleet::start(config, state_dir.path(), Arc::clone(&early.endpoint))?;
    let control: Arc<dyn Control> = Arc::new(fleet);
    serve(early, &state_dir, &control, &process, &Notify::from_env(), out)
}

/// What is acquired before anything is attached to the kernel: it may fail because of the configuration, or a signal may
/// come.
struct Early {
    runtime: tokio::runtime::Runtime,
    /// A signal while the volumes are started requests an orderly end, which detaches.
    signals: Signals,
    endpoint: Arc<Endpoint>,
}

impl Early {
    fn new(config: &Config, process: &Arc<Process>) -> Result<Early, AppError> {
        let endpoint = Arc::new(Endpoint::bind(config.metrics_listen, Arc::clone(process))?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|e| AppError::new(ExitCode::Error, format_args!("cannot start the event loop: {e}")))?;
        let signals = {
            let _inside = runtime.enter();
            Signals::listen()?
        };
        Ok(Early { runtime, signals, endpoint })
    }
}

fn serve(
    early: Early,
    state_dir: &StateDir,
    control: &Arc<dyn Control>,
    process: &Arc<Process>,
    notify: &Notify,
    out: &mut Out,
) -> Result<ExitCode, AppError> {
    let Early { runtime, signals, endpoint } = early;
    let asked_to_stop = Arc::new(Wake::new());
    let wake = Arc::clone(&asked_to_stop);
    let socket = Server::start(&state_dir.socket(), Arc::clone(control), Box::new(move || wake.notify_one()));
    let socket = socket.map_err(|e| {
        AppError::new(ExitCode::Error, format_args!("cannot listen at {}: {e}", state_dir.socket().display()))
            .hint("a shorter --state-dir helps where the path of the socket is longer than 107 bytes")
    });
    let open = socket.and_then(|socket| endpoint.serve(control).map(|()| socket));
    let ended = open.and_then(|_open| {
        let mut service = Service {
            control,
            process,
            notify,
            out,
            ready: false,
            begun: Vec::new(),
            said: Vec::new(),
            state_dir,
            state_lost: false,
        };
        runtime.block_on(service.run(signals, &asked_to_stop))
    });
    endpoint.close();
    let code = match ended {
        Ok(code) => stop(&runtime, control, notify).and_then(|left| verdict(code, &left)),
        Err(error) => {
            // Report the first error, not the interrupted stop.
            let _ = stop(&runtime, control, notify);
            Err(error)
        }
    };
    // An interrupted stop leaves its thread running.
    runtime.shutdown_background();
    code
}

/// Makes the last flush; returns what it left. A signal meanwhile ends the process without waiting: the marks stay pending.
fn stop(
    runtime: &tokio::runtime::Runtime,
    control: &Arc<dyn Control>,
    notify: &Notify,
) -> Result<Vec<Uncommitted>, AppError> {
    notify.stopping();
    let (control, abandoned) = (Arc::clone(control), Arc::clone(control));
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let stopping = tokio::task::spawn_blocking(move || control.stop());
        tokio::select! {
            // The panic hook has printed a panic of that thread; the process ends either way.
            left = stopping => left.map_err(|_| AppError::new(ExitCode::Error, "the last flush broke off")),
            _ = signals.end() => {
                let abandon = tokio::task::spawn_blocking(move || abandoned.abandon());
                // If a stuck drain prevents detaching, the programs stay until their lease is over.
                let _ = tokio::time::timeout(ABANDON, abandon).await;
                Err(AppError::new(ExitCode::Interrupted, "interrupted before the last flush was done")
                    .hint("nothing is lost: what was not committed is picked up at the next start"))
            }
        }
    })
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Signals, AppError> {
        let on = |kind| {
            signal(kind).map_err(|e| AppError::new(ExitCode::Error, format_args!("cannot listen for signals: {e}")))
        };
        Ok(Signals {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    /// The exit code after the ending signal: a service manager's SIGTERM is a normal end, ^C is not.
    async fn end(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.interrupt.recv() => ExitCode::Interrupted,
            _ = self.terminate.recv() => ExitCode::Ok,
        }
    }
}

struct Service<'a> {
    control: &'a Arc<dyn Control>,
    process: &'a Process,
    notify: &'a Notify,
    out: &'a mut Out,
    /// Whether READY=1 was sent.
    ready: bool,
    /// Volumes whose first line was printed: from where to where, and how.
    begun: Vec<String>,
    /// Volumes whose `ready` was printed.
    said: Vec<String>,
    state_dir: &'a StateDir,
    /// Whether it was logged that the state directory is gone from its path.
    state_lost: bool,
}

impl Service<'_> {
    async fn run(&mut self, mut signals: Signals, asked_to_stop: &Wake) -> Result<ExitCode, AppError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut rest = 0;
        let mut watchdog = self.notify.watchdog().map(|limit| (Liveness::new(limit), limit / 3, Instant::now()));
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = asked_to_stop.notified() => return Ok(ExitCode::Ok),
                _ = signals.interrupt.recv() => return Ok(ExitCode::Interrupted),
                _ = signals.terminate.recv() => return Ok(ExitCode::Ok),
                _ = signals.hangup.recv() => { self.reload().await; continue }
            }
            if rest > 0 {
                rest -= 1;
                continue;
            }
            let volumes = self.control.status();
            self.announce(&volumes);
            rest = if volumes.len() == self.said.len() { SETTLED - 1 } else { 0 };
            self.look_at_state();
            if let Some(failure) = all_ended(&volumes) {
                return Err(failure);
            }
            if let Some((progress, every, due)) = &mut watchdog
                && Instant::now() >= *due
            {
                *due = Instant::now() + *every;
                if progress.observe(&volumes, Instant::now()) {
                    self.notify.alive();
                } else {
                    tracing::error!("a volume has stood still for too long: the watchdog is not fed");
                }
            }
        }
    }

    /// Logs once that somebody removed what the next process needs.
    fn look_at_state(&mut self) {
        let lost = !self.state_dir.is_in_place();
        if lost && !self.state_lost {
            tracing::error!(
                path = %self.state_dir.path().display(),
                "the state directory was removed or replaced: changes go on being committed, but no command reaches this process, \
                 and the next one will not be known as this writer; move the directory back if it is somewhere"
            );
        }
        self.state_lost = lost;
    }

    /// Prints `ready` once per volume, and sends READY=1 once no volume is starting.
    fn announce(&mut self, volumes: &[VolumeStatus]) {
        // A volume that was removed and added again is announced again.
        self.begun.retain(|name| volumes.iter().any(|v| v.volume == *name));
        self.said.retain(|name| volumes.iter().any(|v| v.volume == *name));
        for v in volumes {
            if v.armed && v.state != State::Waiting && !self.begun.contains(&v.volume) {
                self.begun.push(v.volume.clone());
                tracing::info!("{}", beginning(v));
            }
            if self.said.contains(&v.volume) {
                continue;
            }
            if v.is_ready() {
                self.said.push(v.volume.clone());
                let (volume, seq) = (&v.volume, v.head_seq);
                let text = if volumes.len() == 1 { "ready".to_string() } else { format!("ready {volume}") };
                self.out.say(text, &json!({ "type": "ready", "volume": volume, "seq": seq }));
                // Why no better back end was chosen is not worth a warning; why a volume is degraded is.
                for reason in &v.reasons {
                    match v.state {
                        State::Degraded => tracing::warn!(volume, "{reason}"),
                        _ => tracing::debug!(volume, "{reason}"),
                    }
                }
            }
        }
        // A baseline can take hours: the service manager does not wait for it, and /readyz shows the difference.
        if !self.ready && volumes.iter().all(|v| v.state != State::Starting) {
            self.ready = true;
            self.notify.ready();
            self.notify.status(&format!("{} volumes", volumes.len()));
        }
    }

    async fn reload(&self) {
        self.notify.reloading();
        let control = Arc::clone(self.control);
        let result = tokio::task::spawn_blocking(move || control.reload()).await;
        match result {
            Ok(Ok(changes)) => {
                let refused = changes.iter().filter(|change| change.is_refused()).count();
                self.process.reloaded((refused == 0).then(now_seconds));
                tracing::info!(changes = changes.len(), refused, "the configuration was read again");
            }
            Ok(Err(error)) => {
                self.process.reloaded(None);
                tracing::error!(%error, "the old configuration stays");
            }
            Err(error) => {
                self.process.reloaded(None);
                tracing::error!(%error, "the reload broke off; the old configuration stays");
            }
        }
        self.notify.ready();
    }
}

/// The first line about a volume, for a person: from where to where, and how.
fn beginning(v: &VolumeStatus) -> String {
    let name = |text: &str| crate::quoting::quote(text.as_bytes());
    let how = match v.backend {
        BackEnd::Scan => "by scanning (`tracker doctor` says why)".to_owned(),
        hooks => format!("by eBPF ({})", hooks.name()),
    };
    format!("protecting {} -> {}/{} {how}", name(&v.source), name(&v.store), v.volume)
}

/// Why the process must end: every volume has ended by itself. There is no order of codes, so the first volume's counts.
fn all_ended(volumes: &[VolumeStatus]) -> Option<AppError> {
    let mut failures = volumes.iter().map(|v| v.failure.as_ref());
    let first = failures.next()??;
    failures.all(|failure| failure.is_some()).then(|| first.clone())
}

fn now_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |age| age.as_secs_f64())
}

#[cfg(test)]
mod tests;

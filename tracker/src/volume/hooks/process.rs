//! Runs one command line of the operator: in a process group of its own, with a time limit, and with the end of what it writes
//! to stderr. It gets no descriptor of this process (all are closed on exec) and no real-time class: hooks are started between
//! flushes' looks, and such a class is reset on fork. The nice value is that of the volume's thread.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// How much of the end of stderr is kept.
const KEPT: usize = 4096;
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// Reads in one turn: a hook that writes without end must not keep its time limit from being looked at.
const READS: usize = 64;
/// Longest sleep between two looks at the process.
const NAP_MAX: Duration = Duration::from_millis(10);

/// For systemd and for the store: nothing that a hook should have by accident.
const NOT_INHERITED: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
];

pub(crate) struct Call<'a> {
    pub line: &'a str,
    pub environment: &'a [(&'static str, OsString)],
    pub limit: Duration,
}

/// How a hook ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
    /// It was killed, with its process group.
    TimedOut(Duration),
    /// It was killed because this process has to stop.
    GivenUp,
    /// It could not be started, or not be waited for.
    Lost(String),
}

impl Ended {
    pub(crate) fn is_success(&self) -> bool {
        *self == Ended::Code(0)
    }
}

impl From<std::io::Result<ExitStatus>> for Ended {
    fn from(status: std::io::Result<ExitStatus>) -> Ended {
        match status {
            Err(error) => Ended::Lost(error.to_string()),
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Ended::Code(code),
                (None, signal) => Ended::Signal(signal.unwrap_or_default()),
            },
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "exit code {code}"),
            Ended::Signal(signal) => write!(f, "ended by signal {signal}"),
            Ended::TimedOut(limit) => write!(f, "killed after {}", crate::units::show_duration(*limit)),
            Ended::GivenUp => f.write_str("killed, since tracker stops"),
            Ended::Lost(error) => write!(f, "it could not be run: {error}"),
        }
    }
}

/// What became of a hook.
#[derive(Debug)]
pub(crate) struct Ran {
    pub ended: Ended,
    /// The end of what it wrote to stderr.
    pub said: String,
    /// The other end of its stderr, if what it left running still has it open.
    pub output: Option<ChildStderr>,
}

/// The end of what comes out of a pipe.
#[derive(Debug)]
struct Tail {
    pipe: Option<ChildStderr>,
    kept: Vec<u8>,
}

impl Tail {
    fn of(pipe: Option<ChildStderr>) -> Tail {
        // A pipe that cannot be read without waiting is not read at all: whoever writes to it is ended by the time limit.
        let pipe = pipe.filter(|pipe| rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK).is_ok());
        Tail { pipe, kept: Vec::new() }
    }

    /// Takes what is there, without waiting.
    fn read(&mut self) {
        let mut buffer = [0; KEPT];
        for _ in 0..READS {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(read) => {
                    self.kept.extend_from_slice(&buffer[..read]);
                    let more = self.kept.len().saturating_sub(KEPT);
                    self.kept.drain(..more);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// Runs a hook to its end, or until its time is over, or until `give_up` says so. What it has left running in the background goes
/// on, unless it was killed.
pub(crate) fn run(call: &Call<'_>, give_up: &dyn Fn() -> bool) -> Ran {
    let began = Instant::now();
    let mut child = match start(call) {
        Ok(child) => child,
        Err(error) => return Ran { ended: Ended::Lost(error.to_string()), said: String::new(), output: None },
    };
    let leader = Pid::from_child(&child);
    let mut tail = Tail::of(child.stderr.take());
    let mut nap = Duration::from_millis(1);
    let killed = loop {
        tail.read();
        if has_ended(leader) {
            break None;
        }
        if began.elapsed() >= call.limit {
            break Some(Ended::TimedOut(call.limit));
        }
        if give_up() {
            break Some(Ended::GivenUp);
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(NAP_MAX);
    };
    if killed.is_some() {
        end_group(leader, || {
            tail.read();
            has_ended(leader) && tail.pipe.is_none()
        });
    }
    let status = child.wait();
    tail.read();
    let said = String::from_utf8_lossy(&tail.kept).into_owned();
    Ran { ended: killed.unwrap_or_else(|| status.into()), said, output: tail.pipe }
}

fn start(call: &Call<'_>) -> std::io::Result<Child> {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(call.line).process_group(0);
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    command.envs(call.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
}

/// Whether the process has ended. It stays a zombie, so that the number of its group is nobody else's.
fn has_ended(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::process::waitid(WaitId::Pid(pid), options), Ok(None))
}

/// SIGTERM to a process group, then SIGKILL to what is left of it.
fn end_group(leader: Pid, mut is_over: impl FnMut() -> bool) {
    // A group that is gone needs no signal.
    let _ = rustix::process::kill_process_group(leader, Signal::TERM);
    let until = Instant::now() + GRACE;
    while Instant::now() < until && !is_over() {
        std::thread::sleep(NAP_MAX);
    }
    let _ = rustix::process::kill_process_group(leader, Signal::KILL);
}

/// Ends the process group of a hook of an earlier process, if its leader still runs: it has `name=value` in its environment, and
/// leads a group. What such a hook has left in the background is in a group without a leader, and goes on.
pub(crate) fn end_leader(name: &str, value: &str) {
    let wanted = format!("{name}={value}");
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for entry in processes.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else { continue };
        let has_it = || {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        if has_it() && rustix::process::getpgid(Some(pid)) == Ok(pid) {
            end_group(pid, || !has_it());
        }
    }
}

#[cfg(test)]
mod tests;

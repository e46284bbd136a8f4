//! Runs one command with all its output in a log file, handing on each line. A command that says nothing for too long
//! is ended with all it started; one that left a background process holding the pipe does not hold the gate.

use fs_err::File;
use std::cell::Cell;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::sh;

/// A step that prints nothing for this long hangs: libtest itself speaks up after a minute in one test.
pub(crate) const SILENCE: Duration = Duration::from_secs(900);
/// The same for a guest, which is slow and may run beside the tests of this kernel.
const GUEST_SILENCE: Duration = Duration::from_secs(2 * SILENCE.as_secs());
/// How long output is still read after the command has ended.
const AFTERGLOW: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);
/// Lines of a failed command's output that an error carries; the log has all.
const TAIL: usize = 200;

/// When a command is ended that does not end by itself.
#[derive(Clone, Copy)]
pub(crate) struct Limits<'a> {
    /// Without output for so long.
    silence: Duration,
    /// In all.
    whole: Duration,
    /// At a moment that whoever reads the lines may choose, by no signal that it could answer.
    cut: Option<&'a Chosen>,
}

/// A moment, once it is chosen.
pub(crate) type Chosen = Cell<Option<Instant>>;

impl Limits<'_> {
    const STEP: Limits<'static> = Limits { silence: SILENCE, whole: Duration::MAX, cut: None };

    /// Of what runs in a guest.
    pub(crate) fn guest(whole: Duration, cut: Option<&Chosen>) -> Limits<'_> {
        Limits { silence: GUEST_SILENCE, whole, cut }
    }
}

/// Runs `command`, writes both its streams to `log`, calls `each` per line. An error means that it could not be run;
/// a failing status is the caller's to judge.
pub(crate) fn stream(command: &mut Command, log: &Path, each: impl FnMut(&str)) -> Result<ExitStatus> {
    limited(command, log, Limits::STEP, each).map(|(status, _)| status)
}

/// Like [`stream`], and a failing status is an error that carries the end of the output.
pub(crate) fn checked(command: &mut Command, log: &Path) -> Result<()> {
    let mut lines = Vec::new();
    let status = stream(command, log, |line| lines.push(line.to_owned()))?;
    if status.success() { Ok(()) } else { Err(failure(command, status, &lines)) }
}

/// `command` failed after it had said `lines`.
pub(crate) fn failure(command: &Command, status: ExitStatus, lines: &[String]) -> anyhow::Error {
    sh::failed(sh::show(command), status, &tail(lines, TAIL))
}

/// The last `count` of `lines`.
pub(crate) fn tail(lines: &[String], count: usize) -> String {
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

/// Like [`stream`], with other limits. True if it was ended at the chosen moment.
pub(crate) fn limited(
    command: &mut Command,
    log: &Path,
    limits: Limits<'_>,
    mut each: impl FnMut(&str),
) -> Result<(ExitStatus, bool)> {
    let mut log_file = File::create(log)?;
    let (mut child, lines) = spawn(command)?;
    let (begun, mut ended, mut last, mut cut) = (Instant::now(), None, Instant::now(), false);
    let chosen = || limits.cut.and_then(Cell::get);
    loop {
        let wait = chosen().map_or(POLL, |at| POLL.min(at.saturating_duration_since(Instant::now())));
        match lines.recv_timeout(wait) {
            Ok(line) => {
                last = Instant::now();
                writeln!(log_file, "{line}")?;
                each(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if ended.is_none() && child.try_wait()?.is_some() {
            ended = Some(Instant::now());
        }
        if let Some(at) = ended {
            if at.max(last).elapsed() > AFTERGLOW {
                break;
            }
        } else if chosen().is_some_and(|at| at <= Instant::now()) {
            // Nothing comes before the kill.
            child.kill()?;
            cut = limits.cut.and_then(Cell::take).is_some();
        } else if last.elapsed() > limits.silence {
            each(&format!("xtask: no output for {} s: ended", limits.silence.as_secs()));
            kill_tree(&mut child);
        } else if begun.elapsed() > limits.whole {
            each(&format!("xtask: not done after {} s: ended", limits.whole.as_secs()));
            kill_tree(&mut child);
        }
    }
    Ok((child.wait()?, cut))
}

/// Starts `command` with both streams in one pipe, so that their order is kept, and a thread that reads its lines.
fn spawn(command: &mut Command) -> Result<(Child, mpsc::Receiver<String>)> {
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let child = command.spawn();
    // The command keeps our ends of the pipe open until they are replaced, and the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = sh::of(command, child)?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || read_lines(reader, &sender));
    Ok((child, lines))
}

fn read_lines(reader: PipeReader, lines: &Sender<String>) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(length) if length > 0) {
        let text = String::from_utf8_lossy(&line);
        if lines.send(text.trim_end_matches(['\n', '\r']).to_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

/// Ends `child` and every process that descends from it, the children first.
fn kill_tree(child: &mut Child) {
    let listing = sh::output(Command::new("ps").args(["-eo", "pid=,ppid="])).unwrap_or_default();
    let mut family = vec![child.id().to_string()];
    let mut at = 0;
    while let Some(parent) = family.get(at).cloned() {
        let processes = listing.lines().filter_map(|line| line.trim().split_once(' '));
        family.extend(processes.filter(|(_, of)| of.trim() == parent).map(|(pid, _)| pid.to_owned()));
        at += 1;
    }
    sh::succeeds(Command::new("kill").arg("-KILL").args(family.iter().skip(1).rev()));
    // An error means that it has ended by itself, which is what we want.
    child.kill().unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script of the shell within 15 seconds: its end, its lines, how long it took.
    fn shell(
        script: &str,
        limits: Limits<'_>,
        mut each: impl FnMut(&str),
    ) -> (ExitStatus, bool, Vec<String>, Duration) {
        let log = tempfile::NamedTempFile::new().unwrap();
        let (started, mut lines) = (Instant::now(), Vec::new());
        let end = limited(Command::new("sh").args(["-c", script]), log.path(), limits, |line| {
            lines.push(line.to_owned());
            each(line);
        });
        assert!(started.elapsed() < Duration::from_secs(15));
        let logged = fs_err::read_to_string(log.path()).unwrap();
        // What xtask itself has to say is for people alone.
        assert!(logged.lines().eq(lines.iter().filter(|line| !line.starts_with("xtask: "))), "{logged}");
        let (status, cut) = end.unwrap();
        (status, cut, lines, started.elapsed())
    }

    #[test]
    fn both_streams_are_logged_in_order() {
        let (status, _, lines, _) = shell("echo a; echo b >&2; echo c; exit 4", Limits::STEP, |_| ());
        assert_eq!(status.code(), Some(4));
        assert_eq!(lines, ["a", "b", "c"]);
    }

    #[test]
    fn a_silent_command_is_ended_with_its_children() {
        let limits = Limits { silence: Duration::from_millis(300), ..Limits::STEP };
        let (status, _, lines, _) = shell("sleep 60 & sleep 60", limits, |_| ());
        assert!(!status.success() && lines[0] == "xtask: no output for 0 s: ended", "{lines:?}");
    }

    #[test]
    fn a_command_that_goes_on_printing_is_ended_too() {
        let limits = Limits { whole: Duration::from_millis(300), ..Limits::STEP };
        let (status, cut, ..) = shell("while :; do echo on; sleep 0.05; done", limits, |_| ());
        assert!(!status.success() && !cut);
    }

    #[test]
    fn a_command_is_killed_at_the_moment_that_a_line_has_chosen() {
        let (moment, after) = (Cell::new(None), Duration::from_millis(200));
        let limits = Limits::guest(Duration::from_secs(60), Some(&moment));
        let choose = |line: &str| moment.set((line == "now").then(|| Instant::now() + after));
        let (status, cut, _, took) = shell("echo now; exec sleep 60", limits, choose);
        assert!(cut && !status.success() && took >= after);
    }

    #[test]
    fn a_background_process_does_not_hold_the_gate() {
        assert!(shell("sleep 20 & echo done", Limits::STEP, |_| ()).0.success());
    }
}

//! Runs one command with all its output in a log file, handing on each line. A command that says nothing for too long
//! is ended with all it started; one that left a background process holding the pipe does not hold the gate.

use fs_err::File;
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

/// Runs `command`, writes both its streams to `log`, calls `each` per line. An error means that it could not be run;
/// a failing status is the caller's to judge.
pub(crate) fn stream(command: &mut Command, log: &Path, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let limits = Limits { silence: SILENCE, whole: Duration::MAX };
    let mut each = |line: &str| {
        each(line);
        None
    };
    watched(command, log, limits, &mut each).map(|end| end.status)
}

/// Like [`stream`], for a command that is ended after `limit`, whatever it prints. The first line for which `each` gives a
/// duration has the command killed so long after it.
pub(crate) fn limited(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    mut each: impl FnMut(&str) -> Option<Duration>,
) -> Result<End> {
    watched(command, log, Limits { silence: GUEST_SILENCE, whole: limit }, &mut each)
}

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    /// It was ended because one of its lines asked for that.
    pub(crate) cut: bool,
}

/// After which time a command is ended: without output, and in all.
#[derive(Clone, Copy)]
struct Limits {
    silence: Duration,
    whole: Duration,
}

/// Like [`stream`], and a failing status is an error that carries the end of the output.
pub(crate) fn checked(command: &mut Command, log: &Path) -> Result<()> {
    let mut lines = Vec::new();
    let status = stream(command, log, |line| lines.push(line.to_owned()))?;
    if status.success() { Ok(()) } else { Err(failure(command, status, &lines)) }
}

/// `command` failed after it had said `lines`.
pub(crate) fn failure(command: &Command, status: ExitStatus, lines: &[String]) -> anyhow::Error {
    let output = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n");
    sh::failed(sh::show(command), status, &output)
}

fn watched(
    command: &mut Command,
    log: &Path,
    limits: Limits,
    each: &mut dyn FnMut(&str) -> Option<Duration>,
) -> Result<End> {
    let mut log_file = File::create(log)?;
    let mut child = spawn(command)?;
    let (lines, begun, mut ended, mut last) = (child.1, Instant::now(), None, Instant::now());
    let (mut cut_at, mut cut) = (None::<Instant>, false);
    loop {
        let wait = cut_at.map_or(POLL, |at| POLL.min(at.saturating_duration_since(Instant::now())));
        match lines.recv_timeout(wait) {
            Ok(line) => {
                last = Instant::now();
                writeln!(log_file, "{line}")?;
                let asked = each(&line);
                cut_at = cut_at.or_else(|| asked.map(|after| Instant::now() + after));
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if ended.is_none() && child.0.try_wait()?.is_some() {
            ended = Some(Instant::now());
        }
        if ended.is_some_and(|at| at.max(last).elapsed() > AFTERGLOW) {
            break;
        }
        if ended.is_none() && cut_at.is_some_and(|at| at <= Instant::now()) {
            // No signal that it could answer, and nothing before the kill.
            child.0.kill()?;
            (cut, cut_at) = (true, None);
        }
        if ended.is_none() && last.elapsed() > limits.silence {
            let _ = each(&format!("xtask: no output for {} s: ended", limits.silence.as_secs()));
            kill_tree(&mut child.0);
        } else if ended.is_none() && begun.elapsed() > limits.whole {
            let _ = each(&format!("xtask: not done after {} s: ended", limits.whole.as_secs()));
            kill_tree(&mut child.0);
        }
    }
    let status = child.0.wait()?;
    Ok(End { status, cut })
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
    let mut family = vec![child.id()];
    let parents: Vec<(u32, u32)> = processes();
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    let pids = family.iter().skip(1).rev().map(u32::to_string);
    sh::succeeds(Command::new("kill").arg("-KILL").args(pids));
    // An error means that it has ended by itself, which is what we want.
    child.kill().unwrap_or_default();
}

/// (pid, parent pid) of every process.
fn processes() -> Vec<(u32, u32)> {
    let Ok(listing) = fs_err::read_dir("/proc") else { return Vec::new() };
    let pids = listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may contain anything; after it come the state and the parent.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("xtask-{name}-{}.log", std::process::id()))
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_are_logged_in_order() {
        let (log, mut lines) = (log("order"), Vec::new());
        let status = stream(&mut shell("echo a; echo b >&2; echo c; exit 4"), &log, |line| lines.push(line.to_owned()));
        assert_eq!(status.expect("sh runs").code(), Some(4));
        assert_eq!(lines, ["a", "b", "c"]);
        assert_eq!(fs_err::read_to_string(&log).expect("log"), "a\nb\nc\n");
        fs_err::remove_file(log).expect("clean up");
    }

    #[test]
    fn a_silent_command_is_ended_with_its_children() {
        let (log, started) = (log("silent"), Instant::now());
        let limits = Limits { silence: Duration::from_millis(300), whole: Duration::MAX };
        let end = watched(&mut shell("sleep 60 & sleep 60"), &log, limits, &mut |_| None);
        assert!(!end.expect("sh runs").status.success());
        assert!(started.elapsed() < Duration::from_secs(30));
        fs_err::remove_file(log).expect("clean up");
    }

    #[test]
    fn a_command_that_goes_on_printing_is_ended_too() {
        let (log, started) = (log("endless"), Instant::now());
        let end =
            limited(&mut shell("while :; do echo on; sleep 0.05; done"), &log, Duration::from_millis(300), |_| None);
        let end = end.expect("sh runs");
        assert!(!end.status.success() && !end.cut);
        assert!(started.elapsed() < Duration::from_secs(30));
        fs_err::remove_file(log).expect("clean up");
    }

    #[test]
    fn a_line_has_the_command_killed_after_its_time() {
        let (log, started) = (log("cut"), Instant::now());
        let ask = |line: &str| (line == "now").then_some(Duration::from_millis(200));
        let end = limited(&mut shell("echo now; exec sleep 60"), &log, Duration::from_secs(60), ask);
        let end = end.expect("sh runs");
        assert!(end.cut && !end.status.success());
        assert!((Duration::from_millis(200)..Duration::from_secs(30)).contains(&started.elapsed()));
        fs_err::remove_file(log).expect("clean up");
    }

    #[test]
    fn a_background_process_does_not_hold_the_gate() {
        let (log, started) = (log("background"), Instant::now());
        let status = stream(&mut shell("sleep 20 & echo done"), &log, |_| {});
        assert!(status.expect("sh runs").success());
        assert!(started.elapsed() < Duration::from_secs(15));
        fs_err::remove_file(log).expect("clean up");
    }
}

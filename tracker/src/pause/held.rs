//! The daemon's end of a pause.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::guard::{GO_ON, PAUSE, PAUSED, READY, readable};
use super::note::Note;
use super::{Group, Switch, thaw};

/// Name of the verb that runs a guard.
pub(super) const VERB: &str = "pause-guard";
/// How long an answer of the guard may take.
const ANSWERS: Duration = Duration::from_secs(5);

/// A pause that a guard watches over. However it is dropped, it ends.
#[derive(Debug)]
pub struct Held {
    guard: Child,
    to: Option<ChildStdin>,
    from: ChildStdout,
    /// For the case that the guard has died.
    switches: Vec<Switch>,
    /// Removed after everything else.
    note: Option<Note>,
    began: Instant,
}

impl Held {
    /// Starts a guard, and pauses these groups for at most `bound`. `note`: where that is noted meanwhile.
    ///
    /// # Errors
    /// When the guard cannot be started, or does not answer. Nobody is paused then.
    pub fn begin(groups: &[Group], bound: Duration, note: &Path) -> io::Result<Held> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(VERB).arg(bound.as_micros().to_string());
        for group in groups {
            command.arg(group.id.to_string()).arg(&group.dir);
        }
        // A group of processes of its own: what the terminal sends to the daemon's does not end the guard.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut guard = command.spawn()?;
        let (Some(to), Some(from)) = (guard.stdin.take(), guard.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let mut held = Held { guard, to: Some(to), from, switches: Vec::new(), note: None, began: Instant::now() };
        held.expect(READY)?;
        for group in groups {
            held.switches.extend(Switch::open(group)?);
        }
        held.note = Some(Note::write(note, groups)?);
        held.began = Instant::now();
        held.say(PAUSE)?;
        held.expect(PAUSED)?;
        Ok(held)
    }

    /// Lets the writers go on. Returns for how long they were paused.
    ///
    /// # Errors
    /// When the guard has died and a group refuses to go on.
    pub fn end(mut self) -> io::Result<Duration> {
        let mut micros = [0; 8];
        let told = self.say(GO_ON).and_then(|()| self.answer(&mut micros));
        if told.is_ok() {
            self.switches.clear();
            return Ok(Duration::from_micros(u64::from_le_bytes(micros)));
        }
        // Where this fails, it is tried once more when `self` is dropped.
        thaw(&mut self.switches)?;
        self.switches.clear();
        Ok(self.began.elapsed())
    }

    fn say(&mut self, byte: u8) -> io::Result<()> {
        match &mut self.to {
            // One that ended with the allowed time has closed its end, and its last answer can be read.
            Some(to) => to.write_all(&[byte]).or_else(|error| match error.kind() {
                io::ErrorKind::BrokenPipe => Ok(()),
                _ => Err(error),
            }),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn expect(&mut self, byte: u8) -> io::Result<()> {
        let mut answer = [0];
        self.answer(&mut answer)?;
        if answer[0] == byte { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn answer(&mut self, answer: &mut [u8]) -> io::Result<()> {
        if !readable(&self.from, Instant::now() + ANSWERS)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Its bytes are written at once, so that they are there at once.
        self.from.read_exact(answer)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The guard ends with its pipe.
        self.to = None;
        if let Err(error) = thaw(&mut self.switches) {
            tracing::error!(%error, "a paused control group cannot be let go on");
            // The next daemon tries.
            if let Some(note) = self.note.take() {
                std::mem::forget(note);
            }
        }
        // One that is stuck has nothing left to do.
        if !readable(&self.from, Instant::now() + ANSWERS).unwrap_or(false) {
            let _ = self.guard.kill();
        }
        let _ = self.guard.wait();
    }
}

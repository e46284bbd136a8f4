//! The databases of `bank.py`: it makes them, works in them, and checks copies.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::{Database, aside, aside_of};
use crate::daemon::utf8;

const SCRIPT: &str = include_str!("bank.py");
/// Debian's own, which has the modules of Debian's packages.
const PYTHON: &str = "/usr/bin/python3";

/// One of them.
pub struct Bank {
    kind: &'static str,
    aside: TempDir,
    running: Option<Child>,
}

impl Bank {
    /// Why there can be none: a program or a Python module is missing.
    pub fn obstacle(programs: &[&str], module: &str) -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let missing = |name: &&&str| !std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
        if let Some(name) = programs.iter().find(missing) {
            return Some(format!("no {name} in the path"));
        }
        let found = Command::new(PYTHON).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
        let fine = found.is_ok_and(|status| status.success());
        (!fine).then(|| format!("{PYTHON} has no module {module}"))
    }

    /// `kind` as in `bank.py`.
    pub fn new(kind: &'static str) -> Bank {
        Bank { kind, aside: aside(), running: None }
    }

    /// Of one that is prepared.
    ///
    /// # Panics
    /// When it is not.
    pub fn process(&mut self) -> &mut Child {
        self.running.as_mut().expect("prepared")
    }

    fn command(&self, what: &str, dir: &Path, aside: &Path) -> Command {
        let mut command = Command::new(PYTHON);
        command.args(["-c", SCRIPT, what, self.kind, utf8(dir), utf8(aside)]);
        command
    }

    fn kill(&mut self) {
        let Some(mut child) = self.running.take() else { return };
        // Not waited for yet, so that the group has no other owner.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let _ = child.wait();
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Database for Bank {
    fn prepare(&mut self, dir: &Path) {
        let mut command = self.command("work", dir, self.aside.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("python3 starts");
        let out = child.stdout.take().expect("piped");
        self.running = Some(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).expect("what it says");
        assert_eq!(line, "ready\n", "{} was not made", self.kind);
    }

    fn start(&mut self) {
        self.process().stdin.as_mut().expect("piped").write_all(b"go\n").expect("it waits for a line");
    }

    fn stop(&mut self) {
        let ended = self.process().try_wait().expect("wait");
        assert!(ended.is_none(), "{} has ended by itself: {ended:?}", self.kind);
        self.kill();
    }

    fn check(&self, copy: &Path, lane: usize) -> Result<u64, String> {
        let own = aside_of(self.aside.path(), lane);
        let output = self.command("check", copy, &own).stdin(Stdio::null()).output().expect("python3 starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            return Err(text(&output.stderr));
        }
        text(&output.stdout).trim().parse().map_err(|error| format!("no number: {error}"))
    }
}

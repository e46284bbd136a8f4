//! The README's commands in a small form: protect a directory with one command, change a file, restore, compare.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::tree::Tree;
use crate::sh;

/// The first command builds everything from source.
const UNTIL_READY: Duration = Duration::from_secs(3600);
/// For the program to end after SIGINT, its last flush included.
const UNTIL_ENDED: Duration = Duration::from_secs(60);

/// A few of each kind of thing that a directory holds.
const DATA: &str = "mkdir -p data/sub/deep && head -c 300000 /dev/urandom > data/big && echo hello > data/sub/small \
                    && ln data/big data/sub/hard && ln -s ../big data/sub/soft && truncate -s 1M data/sub/deep/hole \
                    && chmod 640 data/sub/small && touch data/empty";
const PROTECT: &str = "exec cargo xtask run -- protect ./data --store ./backup";
const CHANGE: &str = "printf changed | dd of=data/big bs=1 seek=100000 conv=notrunc status=none \
                      && echo new > data/sub/new && mv data/sub/small data/sub/moved";
const RESTORE: &str = "target/release/tracker sync --wait && target/release/tracker restore ./backup/data ./restored";
/// Content, then names, modes, owners, sizes, times and link targets.
const COMPARE: &str = "diff -r --no-dereference data restored && \
                       list() { (cd \"$1\" && find . -printf '%p %y %m %U %G %s %T@ %n %l\\n' | sort); } && \
                       diff <(list data) <(list restored)";
const CLEAN: &str = "rm -rf data backup restored";

pub(super) fn check(tree: &Tree) -> Result<()> {
    sh::output(&mut tree.shell(DATA))?;
    let mut running = protect(tree)?;
    let result = restore_and_compare(tree);
    let ended = end(&mut running);
    result?;
    ended?;
    sh::output(&mut tree.shell(CLEAN)).map(drop)
}

/// Starts the first command and waits for its line `ready`.
fn protect(tree: &Tree) -> Result<Child> {
    let mut command = tree.shell(PROTECT);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command.spawn();
    let mut child = sh::of(&command, child)?;
    let (sender, ready) = mpsc::channel();
    let stdout = child.stdout.take();
    std::thread::spawn(move || {
        for line in stdout.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok) {
            println!("{line}");
            // The receiver is gone once it has seen `ready`; the pipe is still to be emptied.
            if line == "ready" || line.starts_with("ready ") {
                sender.send(()).unwrap_or_default();
            }
        }
    });
    let started = Instant::now();
    if ready.recv_timeout(UNTIL_READY).is_ok() {
        println!("   ready after {:.1} s", started.elapsed().as_secs_f64());
        return Ok(child);
    }
    child.kill().unwrap_or_default();
    let status = child.wait()?;
    Err(sh::failed(PROTECT, status, "it ended without the line `ready`"))
}

fn restore_and_compare(tree: &Tree) -> Result<()> {
    sh::output(&mut tree.shell(CHANGE))?;
    sh::output(&mut tree.shell(RESTORE))?;
    if !Path::is_file(&tree.in_clone("restored/sub/moved")) {
        return Err(sh::missing(
            "the restored tree lacks a file that was renamed before `sync --wait`",
            "look into target/fresh/tree",
        ));
    }
    sh::output(&mut tree.shell(COMPARE)).map(drop)
}

/// Ends it as a user at a terminal does.
fn end(child: &mut Child) -> Result<()> {
    sh::output(Command::new("kill").args(["-INT", &child.id().to_string()]))?;
    let started = Instant::now();
    while started.elapsed() < UNTIL_ENDED {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap_or_default();
    let status = child.wait()?;
    Err(sh::failed(PROTECT, status, "it did not end after SIGINT"))
}

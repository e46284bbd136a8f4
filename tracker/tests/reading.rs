//! Reading a volume back through the command line: every commit restores to what was there, and damage of any kind ends
//! in its exit code with nothing false written.

#[path = "../../tests/src/compare.rs"]
#[expect(dead_code, unreachable_pub, reason = "public in the tests crate, which this file is also part of")]
mod compare;
#[path = "reading/trees.rs"]
mod trees;
#[path = "reading/volume.rs"]
mod volume;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use volume::{NAME, START, Volume};

fn tracker(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tracker")).args(args).env_remove("RUST_LOG").output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

struct Bed {
    dir: tempfile::TempDir,
    volume: Volume,
    /// Copies of the source at seq 1, 2, ..
    states: Vec<PathBuf>,
}

impl Bed {
    /// A store with three commits: inline, packs, both.
    fn new(era_len: u64) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::create(&dir.path().join("store"), era_len);
        let mut bed = Bed { dir, volume, states: Vec::new() };
        fs::create_dir(bed.path("source")).unwrap();
        for (step, inline) in [(trees::first as fn(&Path), 0), (trees::second, 500_000), (trees::third, 0)] {
            step(&bed.path("source"));
            bed.commit(inline);
        }
        bed
    }

    fn commit(&mut self, inline: usize) {
        let seq = self.volume.commit(&self.path("source"), inline);
        let state = self.path(&format!("state-{seq}"));
        trees::copy(&self.path("source"), &state);
        self.states.push(state);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn url(&self) -> String {
        self.path("store").join(NAME).to_str().unwrap().to_owned()
    }

    fn object(&self, key: &str) -> PathBuf {
        self.path("store").join(NAME).join(key)
    }

    fn objects(&self, folder: &str) -> Vec<PathBuf> {
        let mut all: Vec<_> = fs::read_dir(self.object(folder)).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all
    }

    fn restore(&self, target: &str, more: &[&str]) -> Output {
        let (url, target) = (self.url(), self.path(target));
        let mut args = vec!["restore", &url, target.to_str().unwrap()];
        args.extend(more);
        tracker(&args)
    }

    fn assert_state(&self, target: &str, seq: usize) {
        compare::assert_same(&self.states[seq - 1], &self.path(target));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Directories without write permission cannot be emptied by the temporary directory's own drop.
        let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(self.dir.path()).status();
    }
}

#[test]
fn every_commit_restores_to_what_was_there() {
    let bed = Bed::new(4096);
    for seq in 1..=3 {
        let target = format!("out-{seq}/below");
        let done = bed.restore(&target, &["--at", &seq.to_string(), "--json"]);
        assert_eq!(code(&done), 0, "{}", text(&done));
        bed.assert_state(&target, seq);
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!((report["type"].as_str(), report["seq"].as_u64()), (Some("restored"), Some(seq as u64)));
    }
    // No seq is the newest; a time is the last commit not later.
    assert_eq!(code(&bed.restore("newest", &[])), 0);
    bed.assert_state("newest", 3);
    let time = jiff::Timestamp::from_second(START + 2).unwrap();
    for (at, seq) in [
        (time, 2),
        (time + jiff::SignedDuration::from_nanos(999_999_999), 2),
        (time + jiff::SignedDuration::from_hours(9), 3),
    ] {
        let target = format!("at {at}");
        assert_eq!(code(&bed.restore(&target, &["--at", &at.to_string()])), 0);
        bed.assert_state(&target, seq);
    }
    let early = jiff::Timestamp::from_second(START).unwrap().to_string();
    assert_eq!(code(&bed.restore("early", &["--at", &early])), 10);
    assert_eq!(code(&bed.restore("late", &["--at", "4"])), 10);
    assert!(!bed.path("early").exists() && !bed.path("late").exists());
}

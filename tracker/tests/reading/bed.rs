//! A volume with three commits, the copies of its source at each, and the program run against it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::volume::{NAME, Volume};
use crate::{compare, trees};

pub(crate) fn tracker(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tracker")).args(args).env_remove("RUST_LOG").output().unwrap()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(crate) struct Bed {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) volume: Volume,
    /// Copies of the source at seq 1, 2, ..
    pub(crate) states: Vec<PathBuf>,
}

impl Bed {
    /// A store with three commits: inline, packs, both.
    pub(crate) fn new(era_len: u64) -> Bed {
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

    pub(crate) fn commit(&mut self, inline: usize) {
        let seq = self.volume.commit(&self.path("source"), inline);
        let state = self.path(&format!("state-{seq}"));
        trees::copy(&self.path("source"), &state);
        self.states.push(state);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        self.path("store").join(NAME).to_str().unwrap().to_owned()
    }

    pub(crate) fn object(&self, key: &str) -> PathBuf {
        self.path("store").join(NAME).join(key)
    }

    pub(crate) fn objects(&self, folder: &str) -> Vec<PathBuf> {
        let mut all: Vec<_> = fs::read_dir(self.object(folder)).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all
    }

    pub(crate) fn restore(&self, target: &str, more: &[&str]) -> Output {
        let (url, target) = (self.url(), self.path(target));
        let mut args = vec!["restore", &url, target.to_str().unwrap()];
        args.extend(more);
        tracker(&args)
    }

    pub(crate) fn assert_state(&self, target: &str, seq: usize) {
        compare::assert_same(&self.states[seq - 1], &self.path(target));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // The temporary directory's own drop cannot empty directories without write permission.
        let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(self.dir.path()).status();
    }
}

/// Changes one bit.
pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at % bytes.len();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// Checks that every regular file with a name in the target is as committed; nothing else is checked.
pub(crate) fn assert_no_false_file(bed: &Bed, target: &str, seq: usize) {
    let mut pending = vec![PathBuf::new()];
    while let Some(rel) = pending.pop() {
        for entry in fs::read_dir(bed.path(target).join(&rel)).into_iter().flatten() {
            let entry = entry.unwrap();
            let below = rel.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                pending.push(below);
            } else if entry.file_type().unwrap().is_file() {
                let was = fs::read(bed.states[seq - 1].join(&below));
                assert_eq!(was.ok(), fs::read(entry.path()).ok(), "{}", below.display());
            }
        }
    }
}

/// Sets a directory's times to those of another, after entries were removed from it.
pub(crate) fn filetime(from: &Path, to: &Path) {
    let time = fs::metadata(from).unwrap().modified().unwrap();
    fs::File::open(to).unwrap().set_modified(time).unwrap();
}

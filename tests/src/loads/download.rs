//! Files that arrive in pieces, as by a downloader: `NAME.part` grows by appends, is sometimes truncated and continued, and
//! is renamed to the final name; old files are deleted; directories are created, moved and removed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Worker, blocks_touched};
use crate::load::{Load, Random, Stop, Written};

/// Pause between steps.
const PACE: Duration = Duration::from_millis(8);
/// Downloads under way.
const PARTS: usize = 4;
/// Files kept; beyond that the oldest is deleted.
const KEPT: usize = 40;

pub struct Download {
    dir: PathBuf,
    worker: Option<Worker<State>>,
    /// Whether files are ever truncated.
    truncates: bool,
}

impl Download {
    pub fn new(truncates: bool) -> Download {
        Download { dir: PathBuf::new(), worker: None, truncates }
    }
}

struct State {
    dir: PathBuf,
    random: Random,
    parts: Vec<Part>,
    /// Final names, oldest first.
    done: Vec<PathBuf>,
    names: u64,
    truncates: bool,
    written: u64,
}

struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    wanted: u64,
}

impl State {
    fn step(&mut self) {
        std::thread::sleep(PACE);
        match self.random.below(40) {
            0 => self.move_directory(),
            1 if self.truncates => self.cut(),
            _ if self.parts.len() < PARTS => self.begin(),
            _ => self.append(),
        }
    }

    /// One of a few directories, which is created if needed.
    fn directory(&mut self) -> PathBuf {
        let (a, b) = (self.random.below(3), self.random.below(3));
        let dir = self.dir.join(format!("incoming/{a}/{b}"));
        fs::create_dir_all(&dir).expect("mkdir");
        dir
    }

    fn begin(&mut self) {
        self.names += 1;
        let path = self.directory().join(format!("item-{:05}.part", self.names));
        let file = OpenOptions::new().create_new(true).append(true).open(&path).expect("a part");
        let wanted = self.random.below(400_000);
        self.parts.push(Part { path, file, len: 0, wanted });
    }

    fn append(&mut self) {
        let at = self.random.below(self.parts.len() as u64) as usize;
        let len = 1 + self.random.below(40_000);
        let bytes = self.random.bytes(len as usize);
        let part = &mut self.parts[at];
        part.file.write_all(&bytes).expect("append");
        self.written += blocks_touched(part.len, len);
        part.len += len;
        if part.len >= part.wanted {
            self.finish(at);
        }
    }

    /// Drops a broken piece, to fetch it again.
    fn cut(&mut self) {
        let at = self.random.below(self.parts.len().max(1) as u64) as usize;
        let Some(part) = self.parts.get_mut(at) else { return };
        let len = self.random.below(part.len + 1);
        part.file.set_len(len).expect("truncate");
        part.len = len;
        // The truncated block has new bytes after its end.
        self.written += blocks_touched(len, 1);
    }

    fn finish(&mut self, at: usize) {
        let part = self.parts.swap_remove(at);
        let mut name = part.path.with_extension("bin");
        // Sometimes a newer version of an existing file.
        if self.random.one_in(3) && !self.done.is_empty() {
            let old = self.random.below(self.done.len() as u64) as usize;
            name = self.done.remove(old);
        }
        fs::rename(&part.path, &name).expect("rename over the final name");
        self.done.push(name);
        if self.done.len() > KEPT {
            fs::remove_file(self.done.remove(0)).expect("delete the oldest");
        }
    }

    /// Renames a directory with its contents; later it is renamed back or takes another's place.
    fn move_directory(&mut self) {
        let a = self.random.below(3);
        let from = self.dir.join(format!("incoming/{a}"));
        let to = self.dir.join(format!("sorted-{a}"));
        let (from, to) = if to.exists() { (to, from) } else { (from, to) };
        if !from.exists() || (to.exists() && fs::read_dir(&to).expect("list").next().is_some()) {
            return;
        }
        fs::rename(&from, &to).expect("move a directory");
        let moved = |path: &Path| path.strip_prefix(&from).map_or_else(|_| path.to_path_buf(), |rest| to.join(rest));
        for path in self.parts.iter_mut().map(|part| &mut part.path).chain(&mut self.done) {
            *path = moved(path);
        }
    }
}

impl Load for Download {
    fn prepare(&mut self, dir: &Path) {
        self.dir = dir.to_path_buf();
        let mut random = Random::new(11);
        fs::create_dir_all(dir.join("incoming/0/0")).expect("mkdir");
        for old in 0..10 {
            fs::write(dir.join(format!("incoming/0/0/old-{old}.bin")), random.bytes(50_000)).expect("an old file");
        }
    }

    fn start(&mut self) {
        let state = State {
            dir: self.dir.clone(),
            random: Random::new(5),
            parts: Vec::new(),
            done: Vec::new(),
            names: 0,
            truncates: self.truncates,
            written: 0,
        };
        self.worker = Some(Worker::start(state, State::step));
    }

    fn stop(&mut self, _how: Stop) -> Written {
        let state = self.worker.take().expect("started").stop();
        for part in &state.parts {
            let meta = fs::metadata(&part.path).expect("the part is where it was put");
            assert_eq!((meta.size(), meta.nlink()), (part.len, 1), "{}", part.path.display());
        }
        Written { bytes: state.written, mapped: 0 }
    }

    fn check(&mut self, _copy: &Path) {}
}

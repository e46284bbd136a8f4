//! A directory with all kinds of changes at once: files created, overwritten, appended to, truncated, replaced, stored into
//! through a mapping, renamed, linked and removed; directories moved. There is no application, so only the bytes are
//! checked.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::Worker;
use crate::load::Random;
use crate::raw_io::Mapping;

/// Files and directories of each kind: few, so that they use each other's names.
const FILES: u64 = 24;
const DIRS: u64 = 4;
/// Largest new file, in bytes.
const SIZE: u64 = 200_000;
/// Pause after each change, to leave the machine time for other work.
const PAUSE: Duration = Duration::from_millis(2);

/// Changes to a directory, one after the other.
pub struct Mixed {
    dir: PathBuf,
    random: Random,
    /// Changes made, by their kind.
    pub done: [u64; KINDS],
}

/// Kinds of changes that [`Mixed`] makes.
pub const KINDS: usize = 10;

impl Mixed {
    /// Fills `dir`, which exists.
    ///
    /// # Panics
    /// When it cannot.
    pub fn new(dir: &Path, seed: u64) -> Mixed {
        let mut mixed = Mixed { dir: dir.to_path_buf(), random: Random::new(seed), done: [0; KINDS] };
        for number in 0..DIRS {
            fs::create_dir(dir.join(format!("d{number}"))).expect("mkdir");
        }
        for _ in 0..FILES {
            mixed.fresh().expect("a new file");
        }
        mixed
    }

    /// Makes `count` changes.
    ///
    /// # Panics
    /// When the file system refuses one.
    pub fn changes(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
        }
    }

    /// Goes on in a thread until [`Running::stop`].
    pub fn run(self) -> Running {
        Running(Worker::start(self, Mixed::step))
    }

    fn step(&mut self) {
        let kind = self.random.below(KINDS as u64) as usize;
        match self.change(kind) {
            Ok(()) => self.done[kind] += 1,
            // The chosen name does not exist, exists already, or leads nowhere or in a circle: harmless.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EEXIST | libc::ELOOP)) => {}
            Err(error) => panic!("change {kind}: {error}"),
        }
        thread::sleep(PAUSE);
    }

    fn dir(&mut self) -> PathBuf {
        self.dir.join(format!("d{}", self.random.below(DIRS)))
    }

    /// A name, in use or not.
    fn name(&mut self) -> PathBuf {
        let dir = self.dir();
        dir.join(format!("f{}", self.random.below(FILES)))
    }

    /// Opens a file; one with several names or none works too.
    fn open(&mut self) -> io::Result<File> {
        let path = self.name();
        OpenOptions::new().read(true).write(true).open(path)
    }

    fn content(&mut self) -> Vec<u8> {
        let len = 1 + self.random.below(SIZE);
        self.random.bytes(len as usize)
    }

    fn fresh(&mut self) -> io::Result<()> {
        let (path, content) = (self.name(), self.content());
        fs::write(path, content)
    }

    fn change(&mut self, kind: usize) -> io::Result<()> {
        match kind {
            0 => self.fresh(),
            1 => {
                let file = self.open()?;
                let at = self.random.below(file.metadata()?.len() + 1);
                let len = 1 + self.random.below(9_000) as usize;
                file.write_all_at(&self.random.bytes(len), at)
            }
            2 => {
                let file = self.open()?;
                let (end, more) = (file.metadata()?.len().min(2 * SIZE), self.random.bytes(5_000));
                file.write_all_at(&more, end)
            }
            3 => {
                let file = self.open()?;
                file.set_len(self.random.below(SIZE))
            }
            4 => {
                // As editors and package managers do.
                let (path, content) = (self.name(), self.content());
                let beside = path.with_extension("new");
                fs::write(&beside, content)?;
                fs::rename(beside, path)
            }
            5 => {
                let file = self.open()?;
                let len = file.metadata()?.len() as usize;
                if len > 0 {
                    let mapping = Mapping::new(&file, len)?;
                    for _ in 0..4 {
                        mapping.store(self.random.below(len as u64) as usize, self.random.below(256) as u8);
                    }
                }
                Ok(())
            }
            6 => {
                let (from, to) = (self.name(), self.name());
                fs::rename(from, to)
            }
            7 => {
                let path = self.name();
                fs::remove_file(path)
            }
            8 => {
                let (from, to) = (self.name(), self.name());
                if self.random.one_in(3) { symlink(from, to) } else { fs::hard_link(from, to) }
            }
            _ => {
                // Two directories swap places; one of them gets another mode.
                let (one, two, between) = (self.dir(), self.dir(), self.dir.join("between"));
                if one == two {
                    return fs::set_permissions(one, fs::Permissions::from_mode(0o700 + self.random.below(64) as u32));
                }
                fs::rename(&one, &between)?;
                fs::rename(&two, &one)?;
                fs::rename(&between, &two)
            }
        }
    }
}

/// [`Mixed`] at work.
pub struct Running(Worker<Mixed>);

impl Running {
    /// Ends after the change it is at.
    ///
    /// # Panics
    /// When one of its changes has failed.
    pub fn stop(self) -> Mixed {
        self.0.stop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_comes_about() {
        let dir = tempfile::tempdir().unwrap();
        let mut mixed = Mixed::new(dir.path(), 1);
        mixed.changes(300);
        assert!(mixed.done.iter().all(|count| *count > 0), "{:?}", mixed.done);
    }
}

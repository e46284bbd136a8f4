//! A tree in which several threads make all kinds of changes at once: files, directories and names of every kind are
//! created, changed, moved, exchanged, linked and removed. Each change completes within `step`, so that the tree is at rest
//! while `Storm::rest` is held.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with, setxattr};

use crate::load::Random;
use crate::raw_io::{Mapping, Pages, uring_write};

/// Names in each directory: few, so that threads meet.
const FILES: u64 = 12;
const DIRS: u64 = 5;
/// Largest new file, in bytes.
const SIZE: u64 = 150_000;
/// Pause after each change.
const PAUSE: Duration = Duration::from_millis(1);
/// Kinds of changes.
pub const KINDS: usize = 18;

/// Threads at work on a tree.
pub struct Storm {
    gate: Arc<RwLock<()>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<[u64; KINDS]>>,
}

struct Worker {
    dir: PathBuf,
    random: Random,
    mapped: bool,
}

impl Storm {
    /// Starts `threads` threads below `dir`, which exists. `mapped` includes stores through mappings.
    ///
    /// # Panics
    /// When the first directories cannot be created.
    #[must_use]
    pub fn start(dir: &Path, threads: u64, seed: u64, mapped: bool) -> Storm {
        for number in 0..DIRS {
            fs::create_dir_all(dir.join(format!("d{number}/d{number}"))).expect("mkdir");
        }
        let (gate, stop) = (Arc::new(RwLock::new(())), Arc::new(AtomicBool::new(false)));
        let run = |number| {
            let mut worker = Worker { dir: dir.to_path_buf(), random: Random::new(seed * 1000 + number), mapped };
            let (gate, stop) = (Arc::clone(&gate), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut done = [0; KINDS];
                while !stop.load(SeqCst) {
                    let changing = gate.read().unwrap_or_else(PoisonError::into_inner);
                    let kind = worker.random.below(KINDS as u64) as usize;
                    match worker.change(kind) {
                        Ok(()) => done[kind] += 1,
                        Err(error) if is_no_harm(&error) => {}
                        Err(error) => panic!("change {kind}: {error}"),
                    }
                    drop(changing);
                    std::thread::sleep(PAUSE);
                }
                done
            })
        };
        let threads = (0..threads).map(run).collect();
        Storm { gate, stop, threads }
    }

    /// Nothing changes while this is held.
    pub fn rest(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it and returns how often each kind of change was made.
    ///
    /// # Panics
    /// When a change failed.
    #[must_use]
    pub fn stop(mut self) -> [u64; KINDS] {
        self.stop.store(true, SeqCst);
        let mut sum = [0; KINDS];
        for thread in self.threads.drain(..) {
            let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sum.iter_mut().zip(done).for_each(|(sum, done)| *sum += done);
        }
        sum
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A name that does not exist, exists already, is of another kind, or would be moved into itself.
fn is_no_harm(error: &io::Error) -> bool {
    const HARMLESS: [i32; 9] = [
        libc::ENOENT,
        libc::EEXIST,
        libc::ELOOP,
        libc::ENOTDIR,
        libc::EISDIR,
        libc::ENOTEMPTY,
        libc::EINVAL,
        libc::EPERM,
        libc::EMLINK,
    ];
    error.raw_os_error().is_some_and(|code| HARMLESS.contains(&code))
}

impl Worker {
    fn folder(&mut self) -> PathBuf {
        let outer = self.dir.join(format!("d{}", self.random.below(DIRS)));
        if self.random.one_in(2) { outer } else { outer.join(format!("d{}", self.random.below(DIRS))) }
    }

    fn name(&mut self) -> PathBuf {
        let folder = self.folder();
        folder.join(format!("f{}", self.random.below(FILES)))
    }

    fn open(&mut self) -> io::Result<File> {
        let path = self.name();
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let len = 1 + self.random.below(most);
        self.random.bytes(len as usize)
    }

    fn change(&mut self, kind: usize) -> io::Result<()> {
        match kind {
            0 | 1 => {
                let (path, bytes) = (self.name(), self.bytes(SIZE));
                fs::write(path, bytes)
            }
            2 => {
                let file = self.open()?;
                let at = self.random.below(file.metadata()?.len() + 1);
                file.write_all_at(&self.bytes(9000), at)
            }
            3 => {
                let file = self.open()?;
                let end = file.metadata()?.len().min(2 * SIZE);
                uring_write(&file, &self.bytes(5000), end, self.random.one_in(2))
            }
            4 => {
                let file = self.open()?;
                file.set_len(self.random.below(SIZE))
            }
            5 => self.store(),
            6 => {
                let file = self.name();
                let direct =
                    OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_NOFOLLOW).open(file)?;
                let page = Pages([self.random.below(256) as u8; 8192]);
                direct.write_all_at(&page.0, self.random.below(16) * 4096)
            }
            7 => {
                let (path, bytes) = (self.name(), self.bytes(SIZE));
                let beside = path.with_extension(format!("n{}", self.random.below(1000)));
                fs::write(&beside, bytes)?;
                fs::rename(&beside, path).inspect_err(|_| drop(fs::remove_file(&beside)))
            }
            8 | 9 => {
                let (from, to) = (self.name(), self.name());
                fs::rename(from, to)
            }
            10 => {
                let (from, to) = (self.folder(), self.folder());
                fs::rename(from, to)
            }
            11 => {
                let (one, other) =
                    if self.random.one_in(2) { (self.folder(), self.folder()) } else { (self.name(), self.name()) };
                Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
            }
            12 => {
                let path = self.name();
                fs::remove_file(path)
            }
            13 => {
                let (from, to) = (self.name(), self.name());
                fs::hard_link(from, to)
            }
            14 => {
                let (from, to) = (self.name(), self.name());
                symlink(from, to)
            }
            15 => {
                let file = self.open()?;
                file.set_permissions(fs::Permissions::from_mode(0o600 + self.random.below(64) as u32))
            }
            16 => {
                let path = self.name();
                let (value, name) = (self.bytes(100), ["user.a", "user.b"][self.random.below(2) as usize]);
                fs::symlink_metadata(&path).and_then(|meta| match meta.is_symlink() {
                    true => Ok(()),
                    false => Ok(setxattr(&path, name, &value, XattrFlags::empty())?),
                })
            }
            _ => {
                let path = self.folder();
                if self.random.one_in(3) { fs::remove_dir_all(path) } else { fs::create_dir_all(path) }
            }
        }
    }

    /// The size must not change meanwhile: other threads may truncate the file, so only a file that nobody else has is
    /// stored into.
    fn store(&mut self) -> io::Result<()> {
        if !self.mapped {
            return Ok(());
        }
        let own = self.folder().join(format!("m{:p}", std::ptr::from_ref(self)));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(own)?;
        file.set_len(SIZE)?;
        let mapping = Mapping::new(&file, SIZE as usize)?;
        for _ in 0..4 {
            mapping.store(self.random.below(SIZE) as usize, self.random.below(256) as u8);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_comes_about_and_rests() {
        let dir = tempfile::tempdir().unwrap();
        let storm = Storm::start(dir.path(), 3, 1, true);
        std::thread::sleep(Duration::from_secs(2));
        let rest = storm.rest();
        let before = crate::compare::compare(dir.path(), dir.path(), crate::compare::Options::default()).unwrap();
        assert!(before.is_empty());
        drop(rest);
        let done = storm.stop();
        let missing = done.iter().filter(|count| **count == 0).count();
        assert!(missing <= 2, "{done:?}");
    }
}

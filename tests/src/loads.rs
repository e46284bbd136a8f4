//! Real loads: each writes as its application does, and checks whether what was restored is usable.

pub mod build;
pub mod download;
pub mod fsx;
pub mod mixed;
pub mod postgres;
pub mod sqlite;
pub mod storm;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;

/// The unit of a mark, in bytes.
const BLOCK: u64 = 4096;

/// A thread that works until it is told to stop, or dropped.
struct Worker<T> {
    stop: Arc<AtomicBool>,
    /// `None` once it was waited for.
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Calls `step` on `state` repeatedly.
    fn start(mut state: T, mut step: impl FnMut(&mut T) + Send + 'static) -> Worker<T> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !asked.load(SeqCst) {
                step(&mut state);
            }
            state
        });
        Worker { stop, thread: Some(thread) }
    }

    /// Waits for the current step. Panics if a step panicked.
    fn stop(mut self) -> T {
        self.stop.store(true, SeqCst);
        let thread = self.thread.take().expect("waited for only here and when dropped");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        // Its files must be closed before the file system can be unmounted.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Bytes of the blocks that a write of `len` at `offset` touches.
fn blocks_touched(offset: u64, len: u64) -> u64 {
    if len == 0 { 0 } else { ((offset + len - 1) / BLOCK - offset / BLOCK + 1) * BLOCK }
}

/// Which files of a tree were written, judged by inode, size and times.
#[derive(Default)]
struct Versions {
    seen: HashMap<PathBuf, (u64, u64, i64, i64)>,
}

impl Versions {
    /// Bytes of the files that are new or different since the last call, in whole blocks.
    fn changed(&mut self, dir: &Path) -> io::Result<u64> {
        let mut bytes = 0;
        let mut dirs = vec![dir.to_path_buf()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let meta = entry.metadata()?;
                if meta.is_dir() {
                    dirs.push(entry.path());
                    continue;
                }
                let version = (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
                if self.seen.insert(entry.path(), version) != Some(version) {
                    bytes += blocks_touched(0, meta.len());
                }
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_rounded_to_the_blocks_it_touches() {
        for (offset, len, bytes) in [(0, 0, 0), (0, 1, 4096), (4095, 2, 8192), (4096, 4096, 4096), (1, 4096, 8192)] {
            assert_eq!(blocks_touched(offset, len), bytes, "{offset}+{len}");
        }
    }

    #[test]
    fn only_what_was_written_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, [0; 5000]).unwrap();
        fs::write(&b, [0; 10]).unwrap();
        let mut versions = Versions::default();
        assert_eq!(versions.changed(dir.path()).unwrap(), 8192 + 4096);
        assert_eq!(versions.changed(dir.path()).unwrap(), 0);
        fs::write(&b, [0; 11]).unwrap();
        assert_eq!(versions.changed(dir.path()).unwrap(), 4096);
    }
}

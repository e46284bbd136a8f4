//! A file that no flush can read to its end.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::mounts::skip;
use crate::raw_io::SlowSource;

/// A write into the file holds its lock and waits for memory. So no pass over the volume can complete before this is
/// dropped.
#[derive(Debug)]
pub struct Held {
    source: Arc<SlowSource>,
    writer: Option<JoinHandle<()>>,
}

impl Held {
    /// Begins the write. `None`, with a message, if memory cannot be held back.
    ///
    /// # Panics
    /// When the file cannot be opened.
    #[must_use]
    pub fn new(case: &str, path: &Path) -> Option<Held> {
        let source = SlowSource::new(b'h').inspect_err(|error| skip(case, "root", &format!("userfaultfd: {error}")));
        let source = Arc::new(source.ok()?);
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let bytes = Arc::clone(&source);
        let writer = thread::spawn(move || file.write_all_at(bytes.bytes(), 0).unwrap());
        source.wait().unwrap();
        Some(Held { source, writer: Some(writer) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.source.fill(b'h').unwrap();
        if let Some(writer) = self.writer.take() {
            writer.join().unwrap();
        }
    }
}

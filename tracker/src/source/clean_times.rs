//! How long the write-back of files took lately.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

/// How long writing files back took since this was last asked, by inode number; those that took less than a millisecond are
/// left out.
#[derive(Debug, Default)]
pub(super) struct CleanTimes(pub(super) Mutex<HashMap<u64, Duration>>);

impl CleanTimes {
    pub(super) fn add(&self, ino: u64, took: Duration) {
        if took >= Duration::from_millis(1) {
            *self.0.lock().entry(ino).or_default() += took;
        }
    }
}

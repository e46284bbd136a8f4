//! How long recent write-backs of files took.

use std::collections::HashMap;
use std::time::Duration;

use engine::model::Ino;
use parking_lot::Mutex;

/// How long writing files back took since the last call of `take`, by inode number. Files that took less than a millisecond
/// are left out.
#[derive(Debug, Default)]
pub(super) struct CleanTimes(pub(super) Mutex<HashMap<Ino, Duration>>);

impl CleanTimes {
    pub(super) fn add(&self, ino: Ino, took: Duration) {
        if took >= Duration::from_millis(1) {
            *self.0.lock().entry(ino).or_default() += took;
        }
    }
}

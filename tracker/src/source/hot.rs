//! Files that are written back flush after flush: there it is worth it to have each write marked.
//!
//! A write into a page that an earlier flush left dirty is no event, so a flush writes a file back before it reads it. For a file that is
//! written to all the time that is the disk's work many times over, which marks of each write spare.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use engine::model::Ino;
use parking_lot::Mutex;

/// So many times one after the other: two seconds at the default interval.
const TIMES: u32 = 8;

/// What is longer apart spares the disk nothing: the kernel itself writes a dirty page after 30 s (`dirty_expire_centisecs`).
const APART: Duration = Duration::from_secs(30);

/// Files that are counted at once; others are written back as before.
const MOST: usize = 4096;

/// How often files of one volume were written back of late.
#[derive(Debug, Default)]
pub(super) struct Hot(Mutex<HashMap<Ino, Written>>);

#[derive(Debug)]
struct Written {
    last: Instant,
    times: u32,
}

impl Hot {
    /// Whether the writes of a file are to be marked one by one.
    pub(super) fn is_hot(&self, ino: Ino, now: Instant) -> bool {
        self.0.lock().get(&ino).is_some_and(|of| of.times >= TIMES && now.duration_since(of.last) < APART)
    }

    /// A file was written back.
    pub(super) fn written(&self, ino: Ino, now: Instant) {
        let mut files = self.0.lock();
        if files.len() >= MOST && !files.contains_key(&ino) {
            return;
        }
        let of = files.entry(ino).or_insert(Written { last: now, times: 0 });
        of.times = if now.duration_since(of.last) < APART { of.times.saturating_add(1) } else { 1 };
        of.last = now;
    }

    /// Forgets what is no longer written back.
    pub(super) fn forget(&self, now: Instant) {
        self.0.lock().retain(|_, of| now.duration_since(of.last) < APART);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_hot_when_it_is_written_back_again_and_again() {
        let (files, began) = (Hot::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        for second in 0..u64::from(TIMES) {
            assert!(!files.is_hot(Ino(1), at(second)));
            files.written(Ino(1), at(second));
        }
        assert!(files.is_hot(Ino(1), at(8)) && !files.is_hot(Ino(2), at(8)));
        assert!(!files.is_hot(Ino(1), at(60)), "not any more");
        files.written(Ino(1), at(60));
        assert!(!files.is_hot(Ino(1), at(60)), "once is not again and again");
        files.forget(at(90));
        assert!(files.0.lock().is_empty());
    }
}

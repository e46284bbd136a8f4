//! Files that were read while their pages may have been dirty: what the disk says to these is still to be heard.
//!
//! A file whose writes are marked exactly needs no write-back to be read. But only who waits for a write-back hears of its error, and the
//! kernel reports it once. So such a file is written back after a while all the same: the kernel would have done that by then.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use engine::model::Ino;
use parking_lot::Mutex;

use crate::test_switches;

/// How long a file may go without a write-back of ours. The kernel writes a dirty page after 30 s (`dirty_expire_centisecs`).
const AFTER: Duration = Duration::from_secs(30);

fn after() -> Duration {
    test_switches::value("TRACKER_WRITTEN_BACK_AFTER").map_or(AFTER, Duration::from_millis)
}

/// These files of one volume.
#[derive(Debug, Default)]
pub(super) struct Unwritten(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since: HashMap<Ino, Instant>,
    /// To be written back by the next flush that reads them.
    due: HashSet<Ino>,
}

impl Unwritten {
    /// Whether a file may be read without a write-back at `now`; then one is owed.
    pub(super) fn may_wait(&self, ino: Ino, now: Instant) -> bool {
        let mut state = self.0.lock();
        if state.due.contains(&ino) {
            return false;
        }
        now.duration_since(*state.since.entry(ino).or_insert(now)) < after()
    }

    /// Whether a file is to be written back by the next flush that reads it.
    pub(super) fn is_due(&self, ino: Ino) -> bool {
        self.0.lock().due.contains(&ino)
    }

    /// A file was written back.
    pub(super) fn written(&self, ino: Ino) {
        let mut state = self.0.lock();
        state.since.remove(&ino);
        state.due.remove(&ino);
    }

    /// The files whose time is over at `now`, each once: their next flush writes them back.
    pub(super) fn take_due(&self, now: Instant) -> Vec<Ino> {
        let (mut state, after) = (self.0.lock(), after());
        let is_over = |since: &Instant| now.duration_since(*since) >= after;
        let over: Vec<Ino> = state.since.iter().filter(|(_, since)| is_over(since)).map(|(ino, _)| *ino).collect();
        for ino in &over {
            state.since.remove(ino);
            state.due.insert(*ino);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_back_after_a_while_also_when_it_is_quiet() {
        let (files, began) = (Unwritten::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert!(files.may_wait(Ino(1), at(0)) && files.may_wait(Ino(2), at(20)) && files.may_wait(Ino(1), at(29)));
        assert_eq!(files.take_due(at(29)), []);
        assert!(!files.may_wait(Ino(1), at(30)), "written to all the time");
        assert_eq!(files.take_due(at(31)), [Ino(1)]);
        assert_eq!(files.take_due(at(32)), [], "once");
        assert!(!files.may_wait(Ino(1), at(32)), "until it was written back");
        files.written(Ino(1));
        assert!(files.may_wait(Ino(1), at(33)));
    }
}

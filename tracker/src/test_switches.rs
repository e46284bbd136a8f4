//! Faults and limits that tests request by environment variables. Compiled in only by the feature `test-switches`: in a
//! binary without it every function here is empty, and none of the names can be found.
//!
//! `TRACKER_FAILPOINT=NAME[:N]`: the process ends at the N-th passing of that point, as by `kill -9`: nothing is flushed,
//! no destructor runs. `TRACKER_DROP_MARKS=N`: of the block marks that come out of the kernel every N-th is lost.
//! `TRACKER_MISSED_RUN=PATH`: where that file is made, it goes, and the kernel counts as having skipped one run of a program.
//! `TRACKER_CHECKPOINT_HELD=PATH`: as long as that file exists, no object of a checkpoint is put.
//! `TRACKER_ERA_LENGTH`, `TRACKER_SELF_TEST_GAP` and `TRACKER_WRITTEN_BACK_AFTER` (milliseconds), `TRACKER_SCRUB_MAX` (percent an
//! hour), `TRACKER_EBPF_OBJECT` (a file): other values than the built-in ones.

use engine::dirty::Marks;

#[cfg(feature = "test-switches")]
pub use on::{DropMarks, hit, missed_run, value, wait_while_held};

#[cfg(feature = "test-switches")]
mod on {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Marks, drop_every};

    struct Point {
        name: String,
        left: AtomicU64,
    }

    /// The value of a switch, if it is set and valid.
    pub fn value<T: std::str::FromStr>(name: &str) -> Option<T> {
        std::env::var(name).ok()?.parse().ok()
    }

    fn wanted() -> Option<&'static Point> {
        static POINT: OnceLock<Option<Point>> = OnceLock::new();
        POINT.get_or_init(|| point(&std::env::var("TRACKER_FAILPOINT").ok()?)).as_ref()
    }

    fn point(text: &str) -> Option<Point> {
        let (name, times) = text.split_once(':').unwrap_or((text, "1"));
        Some(Point { name: name.to_owned(), left: AtomicU64::new(times.parse().ok()?) })
    }

    /// A step at which a test may want this process to die.
    pub fn hit(name: &str) {
        if let Some(point) = wanted()
            && point.name == name
            && point.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            std::process::abort();
        }
    }

    /// Whether a test requests that a skipped run of a program be counted now.
    pub fn missed_run() -> bool {
        std::env::var_os("TRACKER_MISSED_RUN").is_some_and(|path| std::fs::remove_file(path).is_ok())
    }

    /// Waits as long as the file exists that this switch names.
    pub fn wait_while_held(switch: &str) {
        let Some(path) = std::env::var_os(switch) else { return };
        while std::path::Path::new(&path).exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Loses block marks, like a hook that silently misses events.
    #[derive(Debug, Default)]
    pub struct DropMarks {
        every: Option<u64>,
        seen: u64,
    }

    impl DropMarks {
        pub fn from_environment() -> DropMarks {
            DropMarks { every: value("TRACKER_DROP_MARKS").filter(|every| *every > 0), seen: 0 }
        }

        /// Removes every N-th block that passes through.
        pub fn some_of(&mut self, marks: &mut Marks) {
            if let Some(every) = self.every {
                drop_every(every, &mut self.seen, marks);
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::point;

        #[test]
        fn a_point_has_a_name_and_a_count() {
            assert_eq!(point("swap").map(|point| point.left.into_inner()), Some(1));
            let third = point("before settle:3").unwrap();
            assert_eq!((third.name.as_str(), third.left.into_inner()), ("before settle", 3));
            assert!(point("swap:x").is_none());
        }
    }
}

#[cfg(not(feature = "test-switches"))]
pub use off::{DropMarks, hit, missed_run, value, wait_while_held};

#[cfg(not(feature = "test-switches"))]
mod off {
    use super::Marks;

    #[inline(always)]
    pub fn value<T: std::str::FromStr>(_name: &str) -> Option<T> {
        None
    }

    #[inline(always)]
    pub fn hit(_name: &str) {}

    #[inline(always)]
    pub fn missed_run() -> bool {
        false
    }

    #[inline(always)]
    pub fn wait_while_held(_switch: &str) {}

    #[derive(Debug, Default)]
    pub struct DropMarks;

    impl DropMarks {
        pub fn from_environment() -> DropMarks {
            DropMarks
        }

        #[inline(always)]
        pub fn some_of(&mut self, _marks: &mut Marks) {}
    }
}

/// Removes from `marks` every N-th of the blocks that have passed so far (`seen`).
#[cfg(any(test, feature = "test-switches"))]
fn drop_every(every: u64, seen: &mut u64, marks: &mut Marks) {
    let before = *seen;
    *seen += marks.blocks.len();
    let lost = (before..*seen).filter(|at| (at + 1) % every == 0).map(|at| (at - before) as u32);
    let lost: Vec<u32> = lost.filter_map(|at| marks.blocks.select(at)).collect();
    for block in lost {
        marks.blocks.remove(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nth_mark_is_lost_over_all_drains() {
        let (mut seen, mut left) = (0, 0);
        for _ in 0..5 {
            let mut marks = Marks::default();
            marks.mark_bytes(0, 4 * 4096);
            drop_every(3, &mut seen, &mut marks);
            left += marks.blocks.len();
        }
        assert_eq!(left, 20 - 20 / 3);
        let mut marks = Marks::default();
        marks.mark_bytes(0, 4096);
        DropMarks::default().some_of(&mut marks);
        assert_eq!(marks.blocks.len(), 1, "nothing is lost unless it is asked for");
    }
}

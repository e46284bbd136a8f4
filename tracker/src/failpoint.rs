//! Faults that tests ask for by environment variables; without them nothing here does anything.
//!
//! `TRACKER_FAILPOINT=NAME[:N]`: the process ends at the N-th passing of that point, as by `kill -9`: nothing is flushed,
//! no destructor runs. `TRACKER_DROP_MARKS=N`: of the block marks that come out of the kernel every N-th is lost.
//! `TRACKER_MISSED_RUN=PATH`: where that file is made, it goes, and the kernel counts as having skipped one run of a program.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::dirty::Marks;

struct Point {
    name: String,
    left: AtomicU64,
}

fn wanted() -> Option<&'static Point> {
    static POINT: OnceLock<Option<Point>> = OnceLock::new();
    POINT.get_or_init(|| point(&std::env::var("TRACKER_FAILPOINT").ok()?)).as_ref()
}

fn point(text: &str) -> Option<Point> {
    let (name, times) = text.split_once(':').unwrap_or((text, "1"));
    Some(Point { name: name.to_owned(), left: AtomicU64::new(times.parse().ok()?) })
}

/// A step that a test may want to be the last one of this process.
pub fn hit(name: &str) {
    if let Some(point) = wanted()
        && point.name == name
        && point.left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

/// Whether a test wants a skipped run of a program to be counted now.
pub fn missed_run() -> bool {
    std::env::var_os("TRACKER_MISSED_RUN").is_some_and(|path| std::fs::remove_file(path).is_ok())
}

/// Loses block marks, as a hook that silently misses would.
#[derive(Debug, Default)]
pub struct DropMarks {
    every: Option<u64>,
    seen: u64,
}

impl DropMarks {
    pub fn from_environment() -> DropMarks {
        let every = std::env::var("TRACKER_DROP_MARKS").ok().and_then(|text| text.parse().ok());
        DropMarks { every: every.filter(|every| *every > 0), seen: 0 }
    }

    /// Takes every N-th block out of what comes through.
    pub fn some_of(&mut self, marks: &mut Marks) {
        let Some(every) = self.every else { return };
        let before = self.seen;
        self.seen += marks.blocks.len();
        let lost = (before..self.seen).filter(|at| (at + 1) % every == 0).map(|at| (at - before) as u32);
        let lost: Vec<u32> = lost.filter_map(|at| marks.blocks.select(at)).collect();
        for block in lost {
            marks.blocks.remove(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nth_mark_is_lost_over_all_drains() {
        let mut drop = DropMarks { every: Some(3), seen: 0 };
        let mut left = 0;
        for _ in 0..5 {
            let mut marks = Marks::default();
            marks.mark_bytes(0, 4 * 4096);
            drop.some_of(&mut marks);
            left += marks.blocks.len();
        }
        assert_eq!(left, 20 - 20 / 3);
        let mut marks = Marks::default();
        marks.mark_bytes(0, 4096);
        DropMarks::default().some_of(&mut marks);
        assert_eq!(marks.blocks.len(), 1, "nothing is lost unless it is asked for");
    }

    #[test]
    fn a_point_has_a_name_and_a_count() {
        assert_eq!(point("swap").map(|point| point.left.into_inner()), Some(1));
        let third = point("before settle:3").unwrap();
        assert_eq!((third.name.as_str(), third.left.into_inner()), ("before settle", 3));
        assert!(point("swap:x").is_none());
    }
}

//! Whether an equal change time will prove that a file is unchanged. Pure.
//!
//! The times that a kernel gives to changes move in steps: with the timer tick before Linux 6.13 (`current_time` of
//! `fs/inode.c`; since then ext4, xfs, btrfs and tmpfs advance the time after each stat), and by the second if inodes have
//! no room for more (ext4 with inodes of 128 bytes). A change within the step in which a file was read gets the same time
//! that was read.

use engine::model::Time;

/// Twice the longest tick, that of 100 Hz, in nanoseconds.
const TICK_NS: i128 = 20_000_000;
/// Twice the step of file systems that store whole seconds, in nanoseconds.
const SECOND_NS: i128 = 2_000_000_000;

/// Returns `ctime`, read at or after `began`, if every later change will get another one; else `None`, "unknown".
///
/// A time in the future, left by a clock that was set back, is unknown until the clock has passed it.
pub(crate) fn settled(ctime: Time, began: Time) -> Option<Time> {
    let ns = |time: Time| i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec);
    let step = if ctime.nsec == 0 { SECOND_NS } else { TICK_NS };
    (ns(ctime) + step < ns(began)).then_some(ctime)
}

#[cfg(test)]
mod tests {
    use super::settled;
    use engine::model::Time;

    fn at(sec: i64, nsec: u32) -> Time {
        Time { sec, nsec }
    }

    #[test]
    fn a_time_within_one_step_of_the_look_proves_nothing() {
        let began = at(1000, 500_000_000);
        assert_eq!(settled(at(1000, 400_000_000), began), Some(at(1000, 400_000_000)));
        assert_eq!(settled(at(1000, 490_000_000), began), None);
        assert_eq!(settled(began, began), None);
        assert_eq!(settled(at(1000, 600_000_000), began), None, "changed while the flush ran");
        assert_eq!(settled(at(5000, 1), began), None, "the clock was set back");
    }

    #[test]
    fn whole_seconds_step_by_the_second() {
        let began = at(1000, 500_000_000);
        assert_eq!(settled(at(999, 0), began), None);
        assert_eq!(settled(at(998, 0), began), Some(at(998, 0)));
        assert_eq!(settled(at(-5, 0), at(-1, 0)), Some(at(-5, 0)));
    }
}

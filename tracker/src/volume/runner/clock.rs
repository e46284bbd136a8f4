//! Times of commits as numbers, and clocks that disagree.

use engine::model::Time;

/// Since 1970; 0 before.
pub(crate) fn nanoseconds(time: Time) -> u64 {
    u64::try_from(i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec)).unwrap_or(0)
}

/// Seconds that `now` lies before the clock of the last commit; less than one is no news. Both in nanoseconds since 1970.
pub(crate) fn clock_behind(last: u64, now: u64) -> f64 {
    let behind = last.saturating_sub(now);
    if behind < 1_000_000_000 { 0.0 } else { behind as f64 / 1e9 }
}

/// Since 1970.
pub(crate) fn seconds(time: Time) -> f64 {
    time.sec as f64 + f64::from(time.nsec) / 1e9
}

#[cfg(test)]
mod tests {
    use super::clock_behind;

    #[test]
    fn a_clock_behind_the_last_commit_is_told() {
        let at = |seconds: u64| seconds * 1_000_000_000;
        assert_eq!(clock_behind(at(1000), at(1000)), 0.0);
        assert_eq!(clock_behind(at(1000), at(2000)), 0.0);
        assert_eq!(clock_behind(at(1000) + 5, at(1000)), 0.0, "clocks are steered by less than a second all the time");
        assert_eq!(clock_behind(at(173_800), at(1000)), 172_800.0);
    }
}

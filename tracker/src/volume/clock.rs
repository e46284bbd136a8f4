//! The clocks of this host: wall clock and boot id, and the times of commits as numbers.

use engine::model::Time;

/// Nanoseconds since 1970, for `since_ns`.
pub(crate) fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The wall clock as a commit records it.
pub(crate) fn wall_clock() -> Time {
    Time::of_unix_ns(now_ns())
}

/// Identifies the boot of this host; `None` if the kernel does not tell.
pub(crate) fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

/// By how many seconds `now` is before the time of the last commit; less than one second counts as 0. Both in nanoseconds
/// since 1970.
pub(crate) fn clock_behind(last: u64, now: u64) -> f64 {
    let behind = last.saturating_sub(now);
    if behind < 1_000_000_000 { 0.0 } else { behind as f64 / 1e9 }
}

/// Seconds since 1970.
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

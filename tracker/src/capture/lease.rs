//! Times of the lease of a pinned capture. Programs mark until it is over, so that what a process leaves in the kernel does
//! not cost anything forever.

use std::time::Duration;

/// Longest gap between two renewals.
const GAP_MAX: Duration = Duration::from_secs(60);

/// `CLOCK_MONOTONIC` in nanoseconds, the clock that the programs use.
pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// When a lease that starts at `now` ends.
pub(super) fn until(now: u64, lease: Duration) -> u64 {
    now.saturating_add(u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX))
}

/// Whether a lease was over at `now`. A lease that was never set is not over.
pub(super) fn is_over(until: u64, now: u64) -> bool {
    until <= now
}

/// How often a lease is renewed: well before a quarter of it has passed.
pub(super) fn gap(lease: Duration) -> Duration {
    (lease / 4).min(GAP_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_once_and_one_never_given_does_not() {
        let given = until(1_000, Duration::from_nanos(500));
        assert!(!is_over(given, 1_499) && is_over(given, 1_500));
        assert!(!is_over(u64::MAX, u64::MAX - 1));
        assert_eq!(until(u64::MAX - 1, Duration::from_secs(1)), u64::MAX);
    }

    #[test]
    fn a_lease_is_renewed_long_before_its_end() {
        assert_eq!(gap(Duration::from_secs(8)), Duration::from_secs(2));
        assert_eq!(gap(Duration::from_secs(86_400)), GAP_MAX);
    }
}

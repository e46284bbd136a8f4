//! How fast the processor's time stamp counter runs. A guest reads the host's; what it finds out itself at its boot, against an
//! emulated timer, is wrong by factors when it has to share its processor just then, and all its deadlines with it.

use std::time::{Duration, Instant};

/// Its ticks in a millisecond; none where the processor has no such counter.
pub(super) fn khz() -> Option<u128> {
    let (begun, first) = sample()?;
    std::thread::sleep(Duration::from_millis(100));
    let (ended, last) = sample()?;
    Some(u128::from(last.wrapping_sub(first)) * 1_000_000 / ended.duration_since(begun).as_nanos().max(1))
}

/// The clock and the counter at the same time: a pair that was interrupted in between is read again.
#[cfg(target_arch = "x86_64")]
fn sample() -> Option<(Instant, u64)> {
    (0..1000).find_map(|_| {
        let before = Instant::now();
        // SAFETY: it reads a register that every x86-64 has.
        #[expect(unsafe_code, reason = "no safe crate is worth one instruction")]
        let ticks = unsafe { std::arch::x86_64::_rdtsc() };
        (before.elapsed() < Duration::from_micros(20)).then_some((before, ticks))
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn sample() -> Option<(Instant, u64)> {
    None
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_counter_runs_at_one_speed() {
        let (one, other) = (super::khz().unwrap(), super::khz().unwrap());
        assert!(one > 100_000 && one.abs_diff(other) < one / 100, "{one} and {other}");
    }
}

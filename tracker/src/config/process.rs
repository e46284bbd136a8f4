//! What concerns the process and not a volume: how long a stop may take, and what of the capture stays in the kernel after it.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::Checker;
use crate::units;

/// How long a stop tries to make the last flush.
pub const STOP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// A stop needs some time for one flush; a service manager ends what takes too long by force.
const STOP_TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// How long the programs go on marking after the last daemon was seen.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// A running daemon renews the lease once a minute or more often; longer than a month nobody plans.
const LEASE_RANGE: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(31 * 24 * 3600);
/// Kernel memory of all captures on this host together above which no further one is attached.
pub const MEMORY_DEFAULT: u64 = 1 << 30;

/// Settings of a process that serves volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// How long a stop tries to make the last flush of every volume.
    pub stop_timeout: Duration,
    /// Whether programs go on marking after a clean stop, so that the next start need not compare.
    pub keep_tracking: bool,
    /// For how long they do after the process was last alive.
    pub lease: Duration,
    /// Most bytes of kernel memory that all captures on this host may have together when a new one is attached.
    pub memory: u64,
}

impl ProcessConfig {
    /// The defaults of a daemon, whose volumes are meant to come back.
    #[must_use]
    pub const fn daemon() -> Self {
        Self { stop_timeout: STOP_TIMEOUT_DEFAULT, keep_tracking: true, lease: LEASE_DEFAULT, memory: MEMORY_DEFAULT }
    }
}

/// The table `[tracking]` as written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTracking {
    keep: Option<bool>,
    lease: Option<Spanned<String>>,
    memory: Option<Spanned<String>>,
}

/// Checks what is written of the process.
pub(super) fn read(
    check: &mut Checker<'_>,
    stop_timeout: Option<&Spanned<String>>,
    tracking: &RawTracking,
) -> ProcessConfig {
    let mut process = ProcessConfig::daemon();
    if let Some(limit) = stop_timeout.and_then(|text| check.parsed(text, |text| parse_stop_timeout(text))) {
        process.stop_timeout = limit;
    }
    if let Some(lease) = tracking.lease.as_ref().and_then(|text| check.parsed(text, |text| parse_lease(text))) {
        process.lease = lease;
    }
    if let Some(memory) = tracking.memory.as_ref().and_then(|text| check.parsed(text, |text| parse_memory(text))) {
        process.memory = memory;
    }
    process.keep_tracking = tracking.keep.unwrap_or(true);
    process
}

fn within(text: &str, range: &RangeInclusive<Duration>, what: &str) -> Result<Duration, String> {
    let found = units::parse_duration(text).map_err(|e| e.to_string())?;
    let show = units::show_duration;
    if range.contains(&found) {
        return Ok(found);
    }
    Err(format!("{what} must lie between {} and {}", show(*range.start()), show(*range.end())))
}

/// Reads how long a stop may take.
pub fn parse_stop_timeout(text: &str) -> Result<Duration, String> {
    within(text, &STOP_TIMEOUT_RANGE, "the time for a stop")
}

/// Reads for how long marks are made without a daemon.
pub fn parse_lease(text: &str) -> Result<Duration, String> {
    within(text, &LEASE_RANGE, "the lease of tracking")
}

/// Reads the bound on kernel memory.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    units::parse_size(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn file(text: &str) -> String {
        format!("{text}\n[[volume]]\nsource = \"/s\"\nstore = \"/b\"\n")
    }

    #[test]
    fn what_concerns_the_process_is_read_and_bounded() {
        let (config, _) = parse(&file("")).unwrap();
        assert_eq!(config.process, ProcessConfig::daemon());
        let text = "stop_timeout = \"5s\"\n[tracking]\nkeep = false\nlease = \"90m\"\nmemory = \"64MiB\"";
        let (config, _) = parse(&file(text)).unwrap();
        let expected = ProcessConfig {
            stop_timeout: Duration::from_secs(5),
            keep_tracking: false,
            lease: Duration::from_secs(5400),
            memory: 64 << 20,
        };
        assert_eq!(config.process, expected);
        for wrong in ["stop_timeout = \"0s\"", "[tracking]\nlease = \"1s\"", "[tracking]\nmemory = \"much\""] {
            let problems = parse(&file(wrong)).unwrap_err();
            assert!(problems[0].line.is_some(), "{problems:?}");
        }
    }

    /// A service manager that ends a stop by force sooner than the program itself gives up would hide what was lost.
    #[test]
    fn the_unit_waits_longer_than_a_stop_takes() {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/tracker.service");
        let unit = std::fs::read_to_string(unit).unwrap();
        let seconds = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
        let seconds: u64 = seconds.parse().unwrap();
        assert!(Duration::from_secs(seconds) >= STOP_TIMEOUT_DEFAULT + Duration::from_secs(15), "{seconds}");
    }
}

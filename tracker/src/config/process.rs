//! Settings of the process, not of a volume: how long a stop may take, and what of the capture stays in the kernel after
//! it.

use serde::Deserialize;

use crate::config::values::{Lease, Memory, StopTimeout};

/// Settings of a process that serves volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessConfig {
    /// How long a stop tries to make the last flush of every volume.
    pub stop_timeout: StopTimeout,
    pub tracking: Tracking,
}

/// What stays in the kernel while no process runs: the table `[tracking]`. The defaults are those of a daemon, whose
/// volumes are meant to come back.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tracking {
    /// Programs go on marking after a clean stop, so that the next start need not compare.
    pub keep: bool,
    /// How long they do so after the process was last alive.
    pub lease: Lease,
    /// Most kernel memory in bytes of all captures on this host together, when a new one is attached.
    pub memory: Memory,
}

impl Default for Tracking {
    fn default() -> Tracking {
        Tracking { keep: true, lease: Lease::default(), memory: Memory::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// If the service manager kills a stopping process before the program itself gives up, nobody learns what was lost.
    #[test]
    fn the_unit_waits_longer_than_a_stop_takes() {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/tracker.service");
        let unit = std::fs::read_to_string(unit).unwrap();
        let seconds = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
        let seconds: u64 = seconds.parse().unwrap();
        assert!(Duration::from_secs(seconds) >= StopTimeout::default().0 + Duration::from_secs(15), "{seconds}");
    }
}

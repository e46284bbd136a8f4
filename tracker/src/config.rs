//! The configuration of a daemon: a TOML file, or the command line of `protect`.
//!
//! Reads and checks values; `guard` checks that the paths do not form a cycle.

mod capture;
mod file;
pub mod guard;
mod hooks;
mod maps;
mod problem;
mod process;
mod replaced;
mod values;
mod volume;

pub use capture::CaptureMode;
pub use file::{Config, load, parse};
pub use hooks::{HookLine, HookTimeout};
pub use maps::{ENTRIES_RANGE, KernelMap, WATCH_BY_FILES, default_maps, parse_map_entries};
pub use problem::{ConfigError, Problem};
pub use process::{ProcessConfig, Tracking};
pub use replaced::{Allow, Replaced};
pub use values::{ConsistencyMode, Interval, Lease, Listen, MaxDelete, Memory, Nice, Pause, ScrubRate, StopTimeout};
pub use volume::{Changed, Takes, VolumeConfig, VolumeOptions};

#[cfg(test)]
mod tests;

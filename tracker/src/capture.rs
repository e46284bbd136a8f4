//! Capture: the kernel object, its maps and their drain. The only place that names aya. It knows inodes, not files or
//! volumes.
//!
//! Everything blocks and is called from one thread. Programs, maps and links are pinned, so changes are still marked while
//! no daemon runs. Only one process may use a pin directory; its caller ensures that by a lock file in the state directory.
//!
//! One drain: `swap`, `grace`, `read_retired`, (the caller saves the marks), `clear_retired`. After `Started::Resumed` the
//! caller first calls `grace`, `read_retired`, saves, and calls `clear_retired`, because a predecessor may have died
//! between the steps.

mod attach;
mod back_end;
pub mod btf;
mod btf_functions;
pub mod choose;
mod config;
pub mod cut;
mod drain;
mod error;
pub mod exact;
mod find;
mod groups;
mod health;
mod keeper;
pub mod layout;
#[cfg(test)]
mod layout_tests;
mod lease;
mod leasing;
mod load;
mod log;
pub mod looked;
pub mod mounts;
mod object;
pub mod owner;
mod pin_files;
pub mod pin_sets;
mod pins;
mod plain;
mod points;
pub mod quiet;
mod retired;
mod running;
mod single;
mod sys;
mod tables;
mod watch;
pub mod writers;

pub use back_end::BackEnd;
pub use config::{CaptureConfig, Lease, MapEntries, Started, Why};
pub use error::CaptureError;
pub use health::{Health, Problem};
pub(crate) use lease::monotonic_ns;
pub use mounts::mount_of;
pub use object::object;
pub use retired::{Counters, InflightWrite, InodeMarks, Live, Overflow, Retired};
pub use running::Capture;
pub use watch::WatchOutcome;

/// What `InodeMarks::flags` can hold.
pub use common::maps::flag as flags;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use common::hooks::HOOKS;

    #[test]
    fn programs_of_the_object_are_those_of_the_hook_list() {
        let Some(object) = super::object() else {
            eprintln!("SKIP programs_of_the_object_are_those_of_the_hook_list: no eBPF object was built");
            return;
        };
        // Section and symbol names lie in the string table, each behind a zero byte.
        let names: BTreeSet<&[u8]> = object.split(|&byte| byte == 0).collect();
        let sections: BTreeSet<String> = names
            .iter()
            .filter_map(|name| Some(std::str::from_utf8(name.strip_prefix(b"raw_tp/")?).ok()?.to_owned()))
            .collect();
        let expected: BTreeSet<String> = HOOKS.iter().map(|hook| hook.tracepoint.to_owned()).collect();
        assert_eq!(sections, expected);
        for hook in HOOKS {
            assert!(names.contains(hook.program.as_bytes()), "{}", hook.program);
        }
        for point in super::points::every() {
            assert!(names.contains(point.program.as_bytes()), "{}", point.program);
        }
    }
}

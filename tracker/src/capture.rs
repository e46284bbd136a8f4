//! Capture: the kernel object, its maps and their drain. The only place that names aya; knows inodes, not files or volumes.
//!
//! Everything blocks and is called from one thread. Programs, maps and links are pinned, so marks go on being made while no
//! daemon runs; only one process may use a pin directory, which its caller ensures by a lock file in the state directory.
//!
//! One drain: `swap`, `grace`, `read_retired`, (the caller saves the marks), `clear_retired`. After `Started::Resumed` the
//! caller first does `grace`, `read_retired`, save, `clear_retired`, because a predecessor may have died between the steps.

mod attach;
pub mod btf;
mod btf_functions;
pub mod choose;
pub mod cut;
mod drain;
mod health;
pub mod layout;
#[cfg(test)]
mod layout_tests;
mod lease;
mod load;
mod log;
pub mod mounts;
pub mod owner;
mod pins;
mod points;
pub mod sets;
mod single;
mod sys;
mod tables;
mod watch;

use std::{io, path::PathBuf};

use common::limits;

pub use choose::BackEnd;
pub use drain::{Counters, InflightWrite, InodeMarks, Overflow, Retired};
pub use health::{Health, Problem};
pub use mounts::{MountInfo, mount_of};
pub use pins::Capture;
pub use watch::WatchOutcome;

/// What `InodeMarks::flags` can hold.
pub use common::maps::flag as flags;

include!(concat!(env!("OUT_DIR"), "/object.rs"));

/// Environment variable that names a file to load instead of the embedded kernel object, for tests.
pub const OBJECT_VARIABLE: &str = "TRACKER_EBPF_OBJECT";

/// The kernel object this binary carries: `None` when it was built without (`cargo xtask build-ebpf` makes one).
#[must_use]
pub fn object() -> Option<&'static [u8]> {
    static OBJECT: std::sync::OnceLock<Option<&'static [u8]>> = std::sync::OnceLock::new();
    *OBJECT.get_or_init(|| match std::env::var_os(OBJECT_VARIABLE) {
        // Read once per process and kept, as the embedded one is.
        Some(path) => std::fs::read(path).ok().map(|bytes| &*bytes.leak()),
        None => EMBEDDED.map(|aligned| &aligned.0),
    })
}

/// Bytes with the alignment of ELF headers, which `include_bytes` alone does not give.
#[repr(C, align(32))]
struct Aligned<T: ?Sized>(T);

/// Entries of the kernel maps, which bound the kernel memory of the capture. Fixed when the maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntries {
    /// Entries of each DIRTY map: 2 MiB groups with marks per drain. What an entry costs stands in `HASH_ENTRY`.
    pub dirty: u32,
    /// Entries of each INODE map: inodes with flags per drain.
    pub inode: u32,
    /// Entries of the WATCH map: inodes watched.
    pub watch: u32,
    /// Entries of the INFLIGHT map: direct writes under way.
    pub inflight: u32,
}

impl Default for MapEntries {
    fn default() -> Self {
        Self {
            dirty: limits::DIRTY_ENTRIES,
            inode: limits::INODE_ENTRIES,
            watch: limits::WATCH_ENTRIES,
            inflight: limits::INFLIGHT_ENTRIES,
        }
    }
}

/// Bytes that the kernel's hash map takes for an entry beside key and value, and for a slot of its table.
const HASH_ENTRY: u64 = 48;
const HASH_SLOT: u64 = 16;

impl MapEntries {
    /// The hash maps that grow: entries, bytes of key and value, how many there are of it.
    fn growing(&self) -> [(u32, u64, u64); 3] {
        [(self.dirty, 16 + 64, 2), (self.inode, 16 + 24, 2), (self.watch, 16 + 8, 1)]
    }

    /// Kernel memory of maps of these sizes that hold nothing, in bytes, about.
    #[must_use]
    pub fn idle_bytes(&self) -> u64 {
        let tables = self.growing().iter().map(|(entries, _, maps)| slots(*entries) * HASH_SLOT * maps).sum::<u64>();
        let fixed = [(self.inflight, 8 + 40), (limits::SUPERS_ENTRIES, 8 + 8)];
        let fixed = fixed.iter().map(|(n, of)| u64::from(*n) * (HASH_ENTRY + of) + slots(*n) * HASH_SLOT).sum::<u64>();
        tables + fixed + u64::from(limits::OVERFLOW_WORDS) * 8 * 2
    }

    /// The same of maps that are full.
    #[must_use]
    pub fn largest_bytes(&self) -> u64 {
        let grown = self.growing().iter().map(|(n, of, maps)| u64::from(*n) * (HASH_ENTRY + of) * maps).sum::<u64>();
        self.idle_bytes() + grown
    }
}

/// Slots of a hash map's table.
fn slots(entries: u32) -> u64 {
    u64::from(entries).next_power_of_two()
}

/// How capture is set up.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// Directory on a bpffs for the pins; made if absent.
    pub pin_dir: PathBuf,
    /// Which programs are attached; `Scan` attaches none and cannot be started.
    pub back_end: BackEnd,
    /// Sizes of the maps.
    pub entries: MapEntries,
    /// Whether programs log every mark; for debugging, slow.
    pub log_marks: bool,
    /// Whose pins they are, and for how long programs go on marking when the process is gone; `None`: nobody's, for ever.
    pub lease: Option<Lease>,
    /// Programs that are left out, though the kernel could have them: tests show so that each is missed.
    pub without: Vec<&'static str>,
}

impl CaptureConfig {
    /// Default sizes with pins in `pin_dir`.
    #[must_use]
    pub fn new(pin_dir: impl Into<PathBuf>, back_end: BackEnd) -> Self {
        Self {
            pin_dir: pin_dir.into(),
            back_end,
            entries: MapEntries::default(),
            log_marks: false,
            lease: None,
            without: Vec::new(),
        }
    }
}

/// Who a capture belongs to and how long it outlives its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub state_dir: PathBuf,
    pub lasts: std::time::Duration,
}

/// How capture started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// Maps and programs are new: nothing is known about changes before now.
    Fresh(Why),
    /// Pinned maps and programs were taken over: every change since they were made is marked.
    Resumed,
}

/// Why capture did not resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There were no pins.
    NoPins,
    /// A pin is missing or cannot be opened, or an earlier start did not finish.
    Incomplete,
    /// The pinned object has another ABI.
    OtherAbi,
    /// The pins are of another boot.
    OtherBoot,
    /// The pinned programs are those of another kernel object.
    OtherObject,
    /// A link's program is not the pinned one.
    OtherProgram,
    /// The pinned maps have other sizes than are asked for.
    OtherSizes,
    /// The pinned set is that of another back end.
    OtherBackEnd,
    /// A tracepoint has appeared since (its module was loaded).
    NewTracepoint,
    /// Nobody came back in time, and programs ceased to mark.
    LeaseOver,
}

/// Why capture failed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// This binary carries no kernel object.
    #[error("this binary was built without the eBPF object; build it with `cargo xtask build-ebpf` first")]
    NoObject,
    /// Nothing speaks for any back end.
    #[error("no capture back end can be had: {reasons}")]
    NoBackEnd {
        /// One for each that was looked at.
        reasons: String,
    },
    /// The kernel's structs are not known.
    #[error(transparent)]
    Layout(#[from] layout::LayoutError),
    /// The kernel lacks tracepoints without which no file system can be protected.
    #[error("kernel {kernel} lacks the tracepoints {missing:?}")]
    NoTracepoints {
        /// Release of the kernel.
        kernel: String,
        /// Their names.
        missing: Vec<&'static str>,
    },
    /// The kernel lacks a function that the back end hooks, or has it with other arguments.
    #[error("kernel {kernel}: {problem}")]
    Function {
        /// Release of the kernel.
        kernel: String,
        /// What is missing or different.
        problem: String,
    },
    /// The object could not be loaded.
    #[error("cannot load the eBPF object")]
    Load {
        /// aya's error.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The object lacks something this binary expects in it.
    #[error("the eBPF object has no {what} {name}")]
    ObjectLacks {
        /// Program or map.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A program was refused or could not be attached.
    #[error("cannot attach program {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// aya's error.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// Something could not be pinned.
    #[error("cannot pin {path:?}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// aya's error.
        #[source]
        source: Box<aya::pin::PinError>,
    },
    /// A file system call failed.
    #[error("{what} {path:?}")]
    File {
        /// What was done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A call on a map failed.
    #[error("{what} of map {map}")]
    Map {
        /// What was done.
        what: &'static str,
        /// Its name.
        map: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Waiting for running programs failed: the retired maps must not be read.
    #[error("cannot wait for running programs to end")]
    Grace {
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The mount table does not have what is needed from it.
    #[error("cannot find the mount of {path:?}")]
    Mount {
        /// The path asked about.
        path: PathBuf,
    },
}

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

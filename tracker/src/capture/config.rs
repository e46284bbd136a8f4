//! How a capture is set up and how it started.

use std::path::PathBuf;

use common::limits;

use super::back_end::BackEnd;

/// Entries of the kernel maps, which bound the capture's kernel memory. Fixed when the maps are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntries {
    /// Entries of each DIRTY map: 2 MiB groups with marks per drain. `HASH_ENTRY` says what an entry costs.
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

/// Bytes of an entry in the kernel's hash map in addition to key and value, plus a slot of its table.
const HASH_ENTRY: u64 = 48;
const HASH_SLOT: u64 = 16;

impl MapEntries {
    /// The hash maps that grow: entries, bytes of key and value, number of such maps.
    fn growing(&self) -> [(u32, u64, u64); 3] {
        [(self.dirty, 16 + 64, 2), (self.inode, 16 + 24, 2), (self.watch, 16 + 8, 1)]
    }

    /// Approximate kernel memory of empty maps of these sizes, in bytes.
    #[must_use]
    pub fn idle_bytes(&self) -> u64 {
        let tables = self.growing().iter().map(|(entries, _, maps)| slots(*entries) * HASH_SLOT * maps).sum::<u64>();
        let fixed = [(self.inflight, 8 + 40), (limits::SUPERS_ENTRIES, 8 + 8), (limits::WRITERS_ENTRIES, 16 + 8)];
        let fixed = fixed.iter().map(|(n, of)| u64::from(*n) * (HASH_ENTRY + of) + slots(*n) * HASH_SLOT).sum::<u64>();
        tables
            + fixed
            + u64::from(limits::OVERFLOW_WORDS) * 8 * 2
            + u64::from(limits::WRITES_ENTRIES) * 32
            + u64::from(limits::NEAR_ENTRIES) * 8
    }

    /// Approximate kernel memory of full maps of these sizes, in bytes.
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
    /// Who owns the pins, and how long programs go on marking when the process is gone; `None`: no owner, forever.
    pub lease: Option<Lease>,
    /// Programs that are left out although the kernel supports them: tests show that each is needed.
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
    /// Maps and programs are new: no change before now is known.
    Fresh(Why),
    /// Pinned maps and programs were taken over: every change since they were made is marked.
    Resumed,
}

/// Why capture did not take over pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There were no pins.
    NoPins,
    /// A pin is missing or cannot be opened, or an earlier start did not finish.
    Incomplete,
    /// The pinned object has another ABI.
    OtherAbi,
    /// The pins are from another boot.
    OtherBoot,
    /// The pinned programs are those of another kernel object.
    OtherObject,
    /// A link's program is not the pinned one.
    OtherProgram,
    /// The pinned maps have other sizes than are asked for.
    OtherSizes,
    /// The pinned set is that of another back end.
    OtherBackEnd,
    /// A tracepoint has appeared since then (its module was loaded).
    NewTracepoint,
    /// Nobody came back in time, and the programs stopped marking.
    LeaseOver,
}

//! What a drain takes from the kernel maps: plain data.

use std::collections::HashMap;

use common::{
    functions::FUNCTIONS,
    hooks::HOOKS,
    maps::{GroupKey, InodeKey, counter, flag, overflow_bit},
};
use engine::model::{Dev, Ino};
use roaring::RoaringBitmap;

use super::groups::Group;

/// The result of a drain.
#[derive(Debug)]
pub struct Retired {
    /// Marks by (superblock device, inode number).
    pub inodes: HashMap<(Dev, Ino), InodeMarks>,
    /// Inodes whose marks did not fit into the maps.
    pub overflow: Overflow,
    /// In-flight direct writes: their ranges count as changed, in this drain and in the next.
    pub inflight: Vec<InflightWrite>,
    /// Counters, read after the wait.
    pub counters: Counters,
}

/// Marks since the last swap, which stay where they are.
#[derive(Debug)]
pub struct Live {
    /// Marks by (superblock device, inode number).
    pub inodes: HashMap<(Dev, Ino), InodeMarks>,
    /// Those of them by block, as the kernel holds them.
    pub(super) groups: Vec<Group>,
    /// How often generations have been swapped.
    pub(super) generation: u64,
    /// What began and has not completed.
    pub inflight: Vec<InflightWrite>,
}

/// Marks of one inode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InodeMarks {
    /// Bits of `common::maps::flag`.
    pub flags: u64,
    /// Lowest byte that may have changed, of the ranges that `blocks` does not cover; with `flag::FROM` or `flag::RANGE`.
    pub from: u64,
    /// One past the highest such byte; `u64::MAX` with `flag::FROM`.
    pub end: u64,
    /// Indexes of the 4 KiB blocks that may have changed.
    pub blocks: RoaringBitmap,
}

impl InodeMarks {
    /// Whether any byte in `start..end` may have changed.
    #[must_use]
    pub fn covers(&self, start: u64, end: u64) -> bool {
        if self.flags & flag::WHOLE_CONTENT != 0 {
            return true;
        }
        let spans = self.flags & (flag::FROM | flag::RANGE) != 0;
        (start / 4096..end.div_ceil(4096)).all(|block| {
            let in_span = spans && block >= self.from / 4096 && block < self.end.div_ceil(4096);
            in_span || u32::try_from(block).is_ok_and(|block| self.blocks.contains(block))
        })
    }
}

/// A change in flight: a direct write, or a call of a hooked function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InflightWrite {
    /// Superblock device.
    pub dev: Dev,
    /// Inode number.
    pub ino: Ino,
    /// First byte.
    pub start: u64,
    /// Bytes; 0: no range, `u64::MAX`: everything from `start` on.
    pub len: u64,
    /// Bits of `common::maps::flag`.
    pub flags: u64,
    /// `CLOCK_MONOTONIC` when it began, ns. The entry of a direct write that failed before it was submitted stays until its
    /// request block is reused.
    pub began_ns: u64,
    /// Its key in the INFLIGHT map.
    pub key: u64,
}

impl InflightWrite {
    /// The task that is in the call; `None` for a direct write.
    #[must_use]
    pub fn task(&self) -> Option<u32> {
        common::maps::call_task(self.key)
    }
}

/// Bits for inodes whose marks did not fit: a hit means "compare the whole file".
#[derive(Clone, Debug, Default)]
pub struct Overflow(pub(super) Vec<u64>);

impl Overflow {
    /// Whether this inode may be one of them.
    #[must_use]
    pub fn hit(&self, dev: Dev, ino: Ino) -> bool {
        let bit = overflow_bit(dev.kernel(), ino.0);
        self.0.get((bit / 64) as usize).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Whether there are any.
    #[must_use]
    pub fn any(&self) -> bool {
        self.0.iter().any(|&word| word != 0)
    }
}

/// Counters of the programs, summed over CPUs, since the maps were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub(super) Vec<u64>);

impl Counters {
    /// The cell of `common::maps::counter`.
    #[must_use]
    pub fn get(&self, cell: u32) -> u64 {
        self.0.get(cell as usize).copied().unwrap_or(0)
    }

    /// Events of the hook with this program name, on tracked superblocks.
    #[must_use]
    pub fn of_hook(&self, program: &str) -> u64 {
        let at = HOOKS.iter().position(|hook| hook.program == program);
        at.map_or(0, |at| self.0.get(counter::HOOK_BASE as usize + at).copied().unwrap_or(0))
    }

    /// Name and value of each.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let own = counter::NAMES.iter().zip(&self.0).map(|(name, value)| (*name, *value));
        let names = HOOKS.iter().map(|hook| hook.program).chain(FUNCTIONS.iter().map(|function| function.probe));
        own.chain(names.zip(self.0.iter().skip(counter::HOOK_BASE as usize).copied()))
    }
}

/// Keys of the retired set that were read.
#[derive(Debug, Default)]
pub(super) struct Drained {
    pub(super) generation: Option<u64>,
    pub(super) groups: Vec<GroupKey>,
    pub(super) inodes: Vec<InodeKey>,
    pub(super) overflow: Vec<u32>,
}

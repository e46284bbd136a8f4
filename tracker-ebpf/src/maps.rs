//! The maps. Sizes given here are defaults: user space sets them at load. User space creates DIRTY, INODE and WATCH itself,
//! without preallocation if the kernel supports that safely. An allocation that fails during an event counts as a full map:
//! the mark is widened. INFLIGHT, SUPERS and WRITERS are preallocated, since a failure there costs more or they are small. None is
//! an LRU map, because those forget silently.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use common::{
    limits,
    maps::{GroupKey, GroupMarks, Inflight, InodeKey, InodeMark, LastWrite, WriterKey, counter, ctrl},
};

use crate::atomic;

/// Marks by block, by generation.
#[map(name = "DIRTY0")]
pub(crate) static DIRTY0: HashMap<GroupKey, GroupMarks> = HashMap::with_max_entries(limits::DIRTY_ENTRIES, 0);
#[map(name = "DIRTY1")]
pub(crate) static DIRTY1: HashMap<GroupKey, GroupMarks> = HashMap::with_max_entries(limits::DIRTY_ENTRIES, 0);
/// Marks by inode, by generation.
#[map(name = "INODE0")]
pub(crate) static INODE0: HashMap<InodeKey, InodeMark> = HashMap::with_max_entries(limits::INODE_ENTRIES, 0);
#[map(name = "INODE1")]
pub(crate) static INODE1: HashMap<InodeKey, InodeMark> = HashMap::with_max_entries(limits::INODE_ENTRIES, 0);
/// The last resort, which cannot fail: one bit per hash of an inode, by generation.
#[map(name = "OVERFLOW0")]
pub(crate) static OVERFLOW0: Array<u64> = Array::with_max_entries(limits::OVERFLOW_WORDS, 0);
#[map(name = "OVERFLOW1")]
pub(crate) static OVERFLOW1: Array<u64> = Array::with_max_entries(limits::OVERFLOW_WORDS, 0);
/// Control words.
#[map(name = "CTRL")]
pub(crate) static CTRL: Array<u64> = Array::with_max_entries(ctrl::WORDS, 0);
/// Counters.
#[map(name = "COUNTERS")]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::CELLS, 0);
/// Tracked superblocks.
#[map(name = "SUPERS")]
pub(crate) static SUPERS: HashMap<u32, u32> = HashMap::with_max_entries(limits::SUPERS_ENTRIES, 0);
/// Changes by slot: what WATCH has for an inode. User space reads it without a system call.
#[map(name = "CHANGES")]
pub(crate) static CHANGES: Array<u64> = Array::with_max_entries(limits::SLOTS, BPF_F_MMAPABLE);
/// Changes by slot and by the cgroup of the task that made them.
#[map(name = "WRITERS")]
pub(crate) static WRITERS: HashMap<WriterKey, u64> = HashMap::with_max_entries(limits::WRITERS_ENTRIES, 0);
/// The last buffered write of each task, by its number.
#[map(name = "WRITES")]
pub(crate) static WRITES: Array<LastWrite> = Array::with_max_entries(limits::WRITES_ENTRIES, 0);
/// Not 0 where an inode with exact marks has had a dirty folio since it is in memory. Most writes are to others, and need not ask more.
#[map(name = "NEAR")]
pub(crate) static NEAR: Array<u64> = Array::with_max_entries(limits::NEAR_ENTRIES, 0);
/// Watched inodes, each with the slot in which its changes are counted, and `watched` bits.
#[map(name = "WATCH")]
pub(crate) static WATCH: HashMap<InodeKey, u64> = HashMap::with_max_entries(limits::WATCH_ENTRIES, 0);
/// Direct writes in flight, by address of their kiocb.
#[map(name = "INFLIGHT")]
pub(crate) static INFLIGHT: HashMap<u64, Inflight> = HashMap::with_max_entries(limits::INFLIGHT_ENTRIES, 0);

/// The current value of a control word.
#[inline(always)]
pub(crate) fn control(word: u32) -> u64 {
    // SAFETY: the map just returned the pointer; volatile, because user space changes the word while the program runs.
    CTRL.get_ptr(word).map_or(0, |at| unsafe { core::ptr::read_volatile(at) })
}

/// Sets a control word.
#[inline(always)]
pub(crate) fn set_control(word: u32, value: u64) {
    if let Some(at) = CTRL.get_ptr_mut(word) {
        // SAFETY: the map just returned the pointer.
        unsafe { core::ptr::write_volatile(at, value) };
    }
}

/// Adds one to a counter.
#[inline(always)]
pub(crate) fn count(cell: u32) {
    if let Some(at) = COUNTERS.get_ptr_mut(cell) {
        // SAFETY: the map just returned the pointer. Atomic, because a program can interrupt another one on the same CPU.
        unsafe { atomic::add(at, 1) };
    }
}

/// The slot of a watched inode and what is known of its pages, for programs that change it.
#[inline(always)]
pub(crate) fn watched(dev: u32, ino: u64) -> Option<*mut u64> {
    WATCH.get_ptr_mut(InodeKey::new(dev, ino))
}

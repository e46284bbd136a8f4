//! Keys, values, flags, control words and counters of the maps, as both sides see them.
//!
//! Keys have no implicit padding: the kernel hashes all their bytes.

use crate::limits::{GROUP_WORDS, OVERFLOW_BITS};

/// Key of a DIRTY map: one group of blocks of one inode.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupKey {
    /// Inode number.
    pub ino: u64,
    /// Superblock device in the kernel's encoding (`major << 20 | minor`).
    pub dev: u32,
    /// File offset / 2 MiB.
    pub group: u32,
}

/// Value of a DIRTY map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMarks {
    /// One bit per 4 KiB block, lowest bit of the first word first.
    pub bits: [u64; GROUP_WORDS],
    /// How often blocks here were marked, also those that were marked already.
    pub times: u64,
}

impl GroupMarks {
    /// Nothing is marked.
    pub const NONE: Self = Self { bits: [0; GROUP_WORDS], times: 0 };
}

/// Key of the INODE and WATCH maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InodeKey {
    /// Inode number.
    pub ino: u64,
    /// Superblock device in the kernel's encoding.
    pub dev: u32,
    /// Always 0.
    pub pad: u32,
}

impl InodeKey {
    /// The key of inode `ino` on superblock `dev`.
    #[must_use]
    pub const fn new(dev: u32, ino: u64) -> Self {
        Self { ino, dev, pad: 0 }
    }
}

/// Value of an INODE map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeMark {
    /// Union of the `flag` bits.
    pub flags: u64,
    /// Lowest byte of all ranges merged here; meaningful with `flag::RANGE` or `flag::FROM`.
    pub from: u64,
    /// One past the highest byte of all ranges merged here; meaningful with `flag::RANGE`.
    pub end: u64,
}

/// Value of the INFLIGHT map: a change that began. Its key is the kernel's address of the `kiocb` for a direct write, and
/// `call_key` for a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inflight {
    /// Inode number.
    pub ino: u64,
    /// First byte.
    pub start: u64,
    /// Bytes; 0: no range, `u64::MAX`: everything from `start` on.
    pub len: u64,
    /// `CLOCK_MONOTONIC` at the begin, ns.
    pub began_ns: u64,
    /// Superblock device in the kernel's encoding.
    pub dev: u32,
    /// Union of the `flag` bits, which all fit.
    pub flags: u32,
}

/// Key of the WRITERS map: a cgroup whose tasks changed a volume.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WriterKey {
    /// The kernel's id of the cgroup in the hierarchy of version 2. On 64 bits it is the inode number of its directory
    /// (`cgroup_id` and `kernfs_id_ino`, since Linux 5.5).
    pub cgroup: u64,
    /// The volume's slot.
    pub slot: u32,
    /// Always 0.
    pub pad: u32,
}

impl WriterKey {
    /// The key of changes that tasks of `cgroup` made in the volume of `slot`.
    #[must_use]
    pub const fn new(slot: u32, cgroup: u64) -> Self {
        Self { cgroup, slot, pad: 0 }
    }
}

/// Value of the WRITES map: the last buffered write of a task that a hook reported with its range, and that was marked.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastWrite {
    /// Process and task, as the kernel numbers them.
    pub task: u64,
    /// Address of the inode.
    pub inode: u64,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// Entry of the NEAR map for an inode at this address. Inodes lie hundreds of bytes apart.
#[must_use]
#[inline(always)]
pub const fn near(inode: u64) -> u32 {
    ((inode >> 8) ^ (inode >> 20)) as u32 & (crate::limits::NEAR_ENTRIES - 1)
}

/// A value of the WATCH map: the slot, and what is known of the pages of the inode.
pub mod watched {
    /// Bits of the slot.
    pub const SLOT: u64 = 0xffff;
    /// Its buffered writes are marked by what is written, not by whole folios. Set when a folio of several blocks becomes dirty, or
    /// when user space asks for it, and stays.
    pub const EXACT: u64 = 1 << 16;
    /// It was stored to through a mapping, or can have been: stores into a folio that is dirty already set no mark, so folios are marked
    /// whole for ever.
    pub const MAPPED: u64 = 1 << 17;
    /// A folio became dirty, and no write that was reported explains it: folios are marked whole until `exact::PROGRAM` runs again.
    pub const UNSURE: u64 = 1 << 18;

    /// Name of the program that sets the slot of a watched inode: its device, its number and the slot are the arguments. It is attached to
    /// nothing. Not user space itself, because that replaces a value, with what programs write into it meanwhile.
    pub const PROGRAM: &str = "set_slot";

    /// What `value` becomes with `slot`, which has no bit that the slot in it lacks: it goes from `SLOT_OF_NONE`, or to `SLOT_OF_ALL`.
    #[must_use]
    #[inline(always)]
    pub const fn kept_with(slot: u32) -> u64 {
        !SLOT | slot as u64
    }

    /// The slot in a value.
    #[must_use]
    #[inline(always)]
    pub const fn slot(value: u64) -> u32 {
        (value & SLOT) as u32
    }

    /// Whether hooks mark each write.
    #[must_use]
    #[inline(always)]
    pub const fn tells_every_write(value: u64) -> bool {
        value & (EXACT | MAPPED) == EXACT
    }

    /// Whether a write that a hook reports needs no mark of its folio.
    #[must_use]
    #[inline(always)]
    pub const fn is_exact(value: u64) -> bool {
        value & (EXACT | MAPPED | UNSURE) == EXACT
    }
}

/// What the program `exact_now` answers of a file, and where writes can be marked exactly.
pub mod exact {
    /// Bit of `ctrl::EXACT_ON`: on ext4.
    pub const EXT4: u64 = 1;
    /// Bit of `ctrl::EXACT_ON`: on XFS.
    pub const XFS: u64 = 2;
    /// Name of the program. It is attached to nothing: user space runs it, with a file descriptor of its own, and whether the writes of
    /// this file are to be marked exactly from now on.
    pub const PROGRAM: &str = "exact_now";
    /// Its folios are marked whole.
    pub const NO: u32 = 0;
    /// Its writes are marked exactly, again from now on: why one of its folios became dirty is not known.
    pub const FROM_NOW: u32 = 1;
    /// Its writes are marked exactly.
    pub const YES: u32 = 2;
}

/// Cgroups of a `WriterKey` that are none, or not like others.
pub mod writer {
    /// Kernel threads of the root group. No group has this id.
    pub const KERNEL: u64 = 0;
    /// The root group: the first node of the hierarchy.
    pub const ROOT: u64 = 1;
}

/// The INFLIGHT key of a task in a hooked function: below every kernel address, so never the key of a direct write.
#[must_use]
#[inline(always)]
pub const fn call_key(task: u32, function: u32) -> u64 {
    (task as u64) << 8 | (function & 0xff) as u64
}

/// The task of a `call_key`; `None` for the address of a request block.
#[must_use]
#[inline(always)]
pub const fn call_task(key: u64) -> Option<u32> {
    if key >> 40 == 0 { Some((key >> 8) as u32) } else { None }
}

/// What happened to an inode in addition to exact block marks.
pub mod flag {
    /// A timestamp tick on anything but a directory: size, mode, owner, times, attributes or content changed.
    pub const META: u64 = 1 << 0;
    /// A timestamp tick on a directory: list it.
    pub const NAMES: u64 = 1 << 1;
    /// Everything from `from` on may have changed.
    pub const FROM: u64 = 1 << 2;
    /// Everything in `from..end` may have changed.
    pub const RANGE: u64 = 1 << 3;
    /// The whole content may have changed: a range operation whose range the hook does not give.
    pub const WHOLE: u64 = 1 << 4;
    /// A mark could not be made exactly: full re-read.
    pub const RESCAN: u64 = 1 << 5;
    /// In addition to `WHOLE`: the file system gives no ranges (tmpfs).
    pub const DATA_NO_RANGE: u64 = 1 << 6;

    /// In addition to block bits: when they were set, a mapping of the file allowed stores. Says nothing about what
    /// changed.
    pub const MAPPED: u64 = 1 << 7;
    /// In addition to a range or `RESCAN`: other blocks of the disk were mapped into the file, and its pages in memory may
    /// still have the content of the old ones.
    pub const REMAPPED: u64 = 1 << 8;

    /// Any of the flags that mean "compare the whole content".
    pub const WHOLE_CONTENT: u64 = WHOLE | RESCAN | DATA_NO_RANGE;
}

/// Values of the SUPERS map.
pub mod mode {
    /// Mark watched inodes only.
    pub const WATCHED: u32 = 1;
    /// Mark every inode of the superblock.
    pub const ALL: u32 = 2;
}

/// What the program `mapped_now` answers of a file: whether it can be stored to through a mapping.
pub mod mapped {
    /// Name of the program. It is attached to nothing: user space runs it, with a file descriptor of its own.
    pub const PROGRAM: &str = "mapped_now";
    /// That cannot be told.
    pub const UNKNOWN: u32 = 0;
    /// No mapping is shared and writable.
    pub const NO: u32 = 1;
    /// Some mapping is.
    pub const YES: u32 = 2;
}

/// Words of the CTRL map (an array of u64).
pub mod ctrl {
    /// Generation; its lowest bit selects the map set that programs write.
    pub const GENERATION: u32 = 0;
    /// Not 0: mark completions of direct I/O that have no INFLIGHT entry.
    pub const MARK_UNKNOWN_DIO: u32 = 1;
    /// `limits::ABI_VERSION` of the object that made the maps.
    pub const ABI_VERSION: u32 = 2;
    /// Hash of the boot id of the boot in which the maps were made.
    pub const BOOT: u32 = 3;
    /// Not 0: every program was attached and every map pinned; a set without it is not resumed.
    pub const COMPLETE: u32 = 4;
    /// Which back end made the set.
    pub const BACK_END: u32 = 5;
    /// Hash of the kernel object that made the set.
    pub const OBJECT: u32 = 6;
    /// Not 0: as `MARK_UNKNOWN_DIO`, because direct writes may have begun before anything was attached to see them.
    pub const MARK_EARLIER_DIO: u32 = 7;
    /// Until when programs mark, in ns of `CLOCK_MONOTONIC`; `u64::MAX`: forever. A live daemon renews it.
    pub const LEASE: u32 = 8;
    /// Not 0: a change was not marked because the lease was over.
    pub const LAPSED: u32 = 9;
    /// Until when writes are counted that set no other mark, in ns of `CLOCK_MONOTONIC`: somebody looks for an instant.
    pub const WRITES_UNTIL: u32 = 10;
    /// The process that last ran `mapped::PROGRAM`, as the kernel numbers it: the daemon. What it changes itself is nobody's writing.
    pub const DAEMON: u32 = 11;
    /// On which file systems the kernel tells of every write and of every mapping: the bits of `exact`.
    pub const EXACT_ON: u32 = 12;
    /// Number of words.
    pub const WORDS: u32 = 13;
}

/// Cells of the COUNTERS map (per CPU u64).
pub mod counter {
    /// A mark could not be inserted into DIRTY.
    pub const DIRTY_FULL: u32 = 0;
    /// A mark could not be inserted into INODE.
    pub const INODE_FULL: u32 = 1;
    /// An OVERFLOW bit was set.
    pub const OVERFLOW: u32 = 2;
    /// A direct write could not be inserted into INFLIGHT.
    pub const INFLIGHT_FULL: u32 = 3;
    /// A folio's size, or a field needed to find the inode, could not be read.
    pub const UNREADABLE: u32 = 4;
    /// A compare-and-exchange did not succeed within its limit; the inode was widened.
    pub const CAS_BOUND: u32 = 5;
    /// A direct completion without INFLIGHT entry was marked.
    pub const UNKNOWN_DIO: u32 = 6;
    /// An event whose inode could not be determined at all (no mark is possible).
    pub const LOST: u32 = 7;
    /// Entries inserted into DIRTY.
    pub const GROUPS_NEW: u32 = 8;
    /// Entries inserted into INODE.
    pub const INODES_NEW: u32 = 9;
    /// A change whose cgroup was not recorded, because WRITERS is full. Nothing but that record is lost.
    pub const WRITERS_FULL: u32 = 10;
    /// First of one cell per hook, in the order of `hooks::HOOKS` and then `functions::FUNCTIONS`: events on tracked
    /// superblocks.
    pub const HOOK_BASE: u32 = 16;
    /// Number of cells.
    pub const CELLS: u32 = 96;

    /// Names of the cells before `HOOK_BASE`, for metrics.
    pub const NAMES: [&str; 11] = [
        "dirty_full",
        "inode_full",
        "overflow",
        "inflight_full",
        "unreadable",
        "cas_bound",
        "unknown_dio",
        "lost",
        "groups_new",
        "inodes_new",
        "writers_full",
    ];
    /// Cells of which any increase means that marks were widened or lost: the caller must check.
    pub const WIDENED_OR_LOST: [u32; 7] =
        [DIRTY_FULL, INODE_FULL, OVERFLOW, INFLIGHT_FULL, UNREADABLE, CAS_BOUND, LOST];
}

/// The OVERFLOW bit of an inode.
#[must_use]
#[inline(always)]
pub const fn overflow_bit(dev: u32, ino: u64) -> u32 {
    // SplitMix64's finisher: cheap in a program, and spreads the low bits that inode numbers differ in.
    let mut x = ino ^ ((dev as u64) << 40) ^ dev as u64;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    (x as u32) & (OVERFLOW_BITS - 1)
}

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod for map keys and values: they are plain bytes, checked by size tests")]
mod pod {
    use super::{GroupKey, Inflight, InodeKey, InodeMark, LastWrite, WriterKey};

    // SAFETY: repr(C), only integers, no padding (the asserts below), valid for every bit pattern.
    unsafe impl aya::Pod for GroupKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for InodeKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for InodeMark {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Inflight {}
    // SAFETY: as above.
    unsafe impl aya::Pod for WriterKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for LastWrite {}
}

const _: () = {
    assert!(size_of::<GroupKey>() == 16);
    assert!(size_of::<GroupMarks>() == 8 * GROUP_WORDS + 8);
    assert!(size_of::<InodeKey>() == 16);
    assert!(size_of::<InodeMark>() == 24);
    assert!(size_of::<Inflight>() == 40);
    assert!(size_of::<WriterKey>() == 16);
    assert!(size_of::<LastWrite>() == 32);
    assert!(crate::limits::SLOTS as u64 - 1 <= watched::SLOT);
    assert!(crate::limits::SLOT_OF_ALL == 0 && (crate::limits::SLOT_OF_NONE + 1).is_power_of_two());
    assert!(counter::NAMES.len() <= counter::HOOK_BASE as usize);
};

#[cfg(test)]
mod tests {
    use super::overflow_bit;
    use crate::limits::OVERFLOW_BITS;

    #[test]
    fn neighbouring_inodes_and_devices_get_different_bits() {
        let mut same = 0;
        for ino in 1..2000u64 {
            for dev in [0x80_0001u32, 0x80_0002, 0x70_0000] {
                let bit = overflow_bit(dev, ino);
                assert!(bit < OVERFLOW_BITS);
                same += u32::from(bit == overflow_bit(dev, ino + 1));
                same += u32::from(bit == overflow_bit(dev + 1, ino));
            }
        }
        assert!(same < 10, "{same} collisions between neighbours");
    }
}

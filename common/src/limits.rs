//! Limits of the kernel side: sizes of maps that user space does not set, and of every loop in a program.

/// Version of everything in this crate that a pinned, still running kernel object shares with a newer daemon: map layout,
/// meaning of flags, control words, counters, program names. Raise it with any change of these; an old pin set is then
/// replaced.
pub const ABI_VERSION: u64 = 12;

/// Bytes of one block, the unit of a mark.
pub const BLOCK_BYTES: u64 = 4096;
/// Blocks of one entry of a DIRTY map.
pub const GROUP_BLOCKS: u64 = 512;
/// Bytes of one entry of a DIRTY map: the largest folio, so that one event touches at most two entries.
pub const GROUP_BYTES: u64 = BLOCK_BYTES * GROUP_BLOCKS;
/// 64-bit words of one entry of a DIRTY map.
pub const GROUP_WORDS: usize = 8;
/// A range over more groups than this goes to the INODE map as two numbers instead of a loop over groups.
pub const RANGE_GROUPS_MAX: u64 = 8;
/// Tries of one compare-and-exchange before the inode is widened instead.
pub const CAS_TRIES: u32 = 8;

/// Bits of one OVERFLOW map.
pub const OVERFLOW_BITS: u32 = 1 << 20;
/// 64-bit words of one OVERFLOW map.
pub const OVERFLOW_WORDS: u32 = OVERFLOW_BITS / 64;

/// Default entries of each DIRTY map; user space sets the real number at load. An entry of these maps costs memory only
/// while it exists, plus 16 bytes of the table in any case: with the defaults an idle capture uses less than 8 MiB.
pub const DIRTY_ENTRIES: u32 = 1 << 16;
/// Default entries of each INODE map.
pub const INODE_ENTRIES: u32 = 1 << 16;
/// Least entries of the WATCH map.
pub const WATCH_ENTRIES: u32 = 1 << 17;
/// Most entries of the WATCH map, some 400 MiB of kernel memory.
pub const WATCH_ENTRIES_MAX: u32 = 1 << 22;
/// Default entries of the INFLIGHT map: direct I/O requests in flight on tracked superblocks. They are preallocated.
pub const INFLIGHT_ENTRIES: u32 = 1 << 13;
/// Entries of the WRITERS map: pairs of a volume and a cgroup that changed it. They are preallocated.
pub const WRITERS_ENTRIES: u32 = 4096;
/// Entries of the WRITES map: the last write of a task, by its number. Tasks that share an entry get wider marks.
pub const WRITES_ENTRIES: u32 = 1 << 12;
/// Entries of the NEAR map: whether inodes at such addresses have exact marks.
pub const NEAR_ENTRIES: u32 = 1 << 12;
/// A buffered write that a hook reports at once is marked in as many pieces of `RANGE_GROUPS_MAX - 1` groups, 112 MiB; what is
/// larger, as one range.
pub const WRITE_PIECES_MAX: u64 = 8;
/// Superblocks that can be tracked at once.
pub const SUPERS_ENTRIES: u32 = 1024;

/// Slots in which changes are counted: one for each volume, by a hash of its id, so two volumes can share one. That is harmless:
/// a volume then seems to change when its neighbour does.
pub const SLOTS: u32 = 4096;
/// The slot of inodes that belong to several volumes, or to none that is known: it counts for every volume.
pub const SLOT_OF_ALL: u32 = 0;
/// The slot of files that belong to no volume.
pub const SLOT_OF_NONE: u32 = SLOTS - 1;

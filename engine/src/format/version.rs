//! Versions, magic numbers, and the writer's defaults.

/// Newest version; the version is the fourth byte of every object.
///
/// 1: the first one. 2: commits, ends of eras and checkpoints say how the clock stood and whether a complete baseline
/// stands behind them; attributes may have inode flags and a project. 3: commits say whether they are of one instant. An
/// object is written in the oldest version that holds it, so kinds that did not change, and what says nothing new, stay
/// what they were.
pub const VERSION: u8 = 3;
/// The version with standings, inode flags and projects; the newest of ends of eras, checkpoints and pages.
pub const STANDING_VERSION: u8 = 2;
/// The version of commits that say whether they are of one instant.
pub const CONSISTENCY_VERSION: u8 = 3;
/// Oldest version.
pub const FIRST_VERSION: u8 = 1;

/// First three bytes of each kind of object; the version byte follows.
pub const MAGIC_FORMAT: [u8; 3] = *b"TKV";
pub const MAGIC_COMMIT: [u8; 3] = *b"TKC";
pub const MAGIC_PACK: [u8; 3] = *b"TKP";
pub const MAGIC_ERA: [u8; 3] = *b"TKE";
pub const MAGIC_CHECKPOINT: [u8; 3] = *b"TKR";
pub const MAGIC_PAGE: [u8; 3] = *b"TKN";
/// Magic and version.
pub const HEAD_BYTES: usize = 4;
/// Length of the checksum at the end of every object (the first bytes of a BLAKE3).
pub const CHECKSUM_BYTES: usize = 16;

/// Seqs of an era unless the volume's `format` object says otherwise.
pub const DEFAULT_ERA_LEN: u64 = 4096;
/// zstd level of frames unless the caller says otherwise.
pub const DEFAULT_LEVEL: i32 = 1;
/// Size at which a pack is closed unless the caller says otherwise.
pub const DEFAULT_PACK_BYTES: usize = 32 << 20;

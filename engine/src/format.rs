//! Bytes of the store: what each object looks like, how it is written, how it is believed.
//!
//! `docs/format.md` is the authority on layouts; a test compares its constants with the ones here. Every decoder takes
//! its input as hostile: lengths are checked against what is left and against a limit before anything is allocated,
//! and nothing is believed before version, position and checksum were checked (I7). Nothing here touches a store.

pub mod checkpoint;
pub mod codec;
pub mod commit;
mod content;
pub mod era;
pub mod frame;
pub mod keys;
pub mod pack;
pub mod page;
mod parts;
pub mod seal;

pub use codec::{DecodeError, EncodeError};
pub use keys::Key;
pub use parts::is_entry_name;

/// Newest version; the version is the fourth byte of every object.
///
/// 1: the first one. 2: commits, ends of eras and checkpoints say how the clock stood and whether a complete baseline
/// stands behind them; attributes may have inode flags and a project. An object is written in the oldest version that
/// holds it, so kinds that did not change, and pages without anything new, stay what they were.
pub const VERSION: u8 = 2;
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

/// Limits of all versions. What exceeds one is refused, on both sides.
pub mod limits {
    /// Plain bytes of one frame.
    pub const FRAME_PLAIN: usize = 128 * 1024;
    /// Stored bytes of a commit's inline payload, frame headers included.
    pub const INLINE: usize = 512 * 1024;
    /// Bytes of a commit object.
    pub const COMMIT: usize = 128 << 20;
    /// Bytes of a pack.
    pub const PACK: usize = 1 << 30;
    /// Bytes of one checkpoint page or checkpoint root.
    pub const PAGE: usize = 64 << 20;
    /// Packs named by one commit.
    pub const PACKS: usize = 4096;
    /// Frames of one pack, or referred to by one commit.
    pub const FRAMES: usize = 1 << 20;
    /// File changes, name changes or gone files of one commit.
    pub const CHANGES: usize = 1 << 20;
    /// Ops of all files of one commit.
    pub const OPS: usize = 1 << 22;
    /// Bytes of a file, as `off_t` has it.
    pub const SIZE: u64 = i64::MAX as u64;
    /// Bytes of one name.
    pub const NAME: usize = 255;
    /// Bytes of a symlink's target.
    pub const TARGET: usize = 4096;
    /// Extended attributes of one file; bytes of an attribute's name; bytes of a value.
    pub const XATTRS: usize = 4096;
    pub const XATTR_NAME: usize = 255;
    pub const XATTR_VALUE: usize = 65_536;
    /// Extents of one checkpoint page.
    pub const EXTENTS: usize = 1 << 20;
    /// Pages of one checkpoint.
    pub const PAGES: usize = 1 << 20;
    /// Seqs of an era.
    pub const ERA_LEN: u64 = 1 << 20;
}

/// Seqs of an era unless the volume's `format` object says otherwise.
pub const DEFAULT_ERA_LEN: u64 = 4096;
/// zstd level of frames unless the caller says otherwise.
pub const DEFAULT_LEVEL: i32 = 1;
/// Size at which a pack is closed unless the caller says otherwise.
pub const DEFAULT_PACK_BYTES: usize = 32 << 20;

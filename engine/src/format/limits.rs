//! Limits of all versions. Both writer and reader refuse what exceeds one.

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
/// Bytes of a file, the maximum of `off_t`.
pub const SIZE: u64 = i64::MAX as u64;
/// Bytes of one name.
pub const NAME: usize = 255;
/// Bytes of a symlink's target.
pub const SYMLINK_TARGET: usize = 4096;
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

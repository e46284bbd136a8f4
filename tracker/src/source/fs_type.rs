//! File systems by their magic number.

/// The file systems that tracker knows; for any other its magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsType {
    /// ext2, ext3 and ext4 share the number; all have the calls used here.
    Ext4,
    Xfs,
    Btrfs,
    Tmpfs,
    Overlay,
    Other(u64),
}

//! How long an inode number stands for one file. Pure; the only place that decides it.
//!
//! A number alone is given again: at once by ext4, and from the start by a FUSE file system that is mounted again (sshfs
//! counts its files in the order in which they are looked up). Only the generation, where there is one, tells two holders
//! of a number apart. Without it the name is what a file is known by, and what lies there is compared by content.

use crate::model::InodeId;

/// For how long an inode's number and generation name the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// While the file lives, across mounts and boots: the generation tells.
    Always,
    /// At most until the file system is mounted again, and not even then for certain: there is no generation.
    Mount,
}

impl Span {
    pub fn of(inode: InodeId) -> Span {
        if inode.generation == 0 { Span::Mount } else { Span::Always }
    }
}

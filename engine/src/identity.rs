//! How long an inode number stands for one file. Pure; the only place that decides it.
//!
//! A number alone is given again: at once by ext4, and from the start by a FUSE file system that is mounted again (sshfs
//! counts its files in the order in which they are looked up). Some give one number to two files at the same time (bindfs
//! over several file systems). Only the generation, where there is one, tells two holders of a number apart. Without it the
//! name is what a file is known by, the number is a hint where a file may have moved to, and what lies there is read.

use crate::flush::world::Stat;
use crate::model::{FileId, InodeId, Kind, Time};

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

/// What two entries of one flush must have in common to be one new file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NewKey {
    Inode {
        inode: InodeId,
        dir: bool,
    },
    /// Without a generation: names of an inode that says itself that it has several.
    Links {
        inode: InodeId,
        nlink: u32,
        size: u64,
        mtime: Time,
    },
    /// Without a generation, and with one link: the name.
    Name {
        inode: InodeId,
        kind: Kind,
        dir: FileId,
        name: Vec<u8>,
    },
}

impl NewKey {
    pub fn of(stat: &Stat, dir: FileId, name: &[u8]) -> NewKey {
        let inode = stat.inode;
        match Span::of(inode) {
            Span::Always => NewKey::Inode { inode, dir: stat.kind == Kind::Dir },
            Span::Mount if has_links(stat) => {
                NewKey::Links { inode, nlink: stat.nlink, size: stat.size, mtime: stat.mtime }
            }
            Span::Mount => NewKey::Name { inode, kind: stat.kind, dir, name: name.to_vec() },
        }
    }
}

fn has_links(stat: &Stat) -> bool {
    stat.kind == Kind::File && stat.nlink > 1
}

/// Whether `seen` may be another name of the file that `other`, with the same inode number and no generation, was seen as at
/// about the same time. Of names that are committed as links, sizes and times are not asked for: they move while the file is
/// written.
pub fn may_be_links(seen: &Stat, other: &Stat, committed: bool) -> bool {
    let attributes = |stat: &Stat| (stat.inode, stat.mode, stat.uid, stat.gid, stat.nlink);
    let times = |stat: &Stat| (stat.size, stat.mtime, stat.ctime);
    let alike = attributes(seen) == attributes(other) && (committed || times(seen) == times(other));
    has_links(seen) && has_links(other) && alike
}

/// Whether an inode that is seen under a name which the catalog does not have for it may be taken for a known file by its
/// number alone. What is taken so must be read under its new name before that is committed.
pub fn may_be_claimed(seen: &Stat) -> bool {
    seen.kind == Kind::File
}

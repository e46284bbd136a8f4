//! The nouns of the engine: who a file is, what its attributes are, what one flush changes.
//!
//! Only plain values; no I/O, no encoding (that is `format`), no rules (those are `reconcile`, `image`, `flush`).

mod consistency;
mod ids;
mod numbers;
mod seq;

use std::fmt;

pub use consistency::{Consistency, NotInstant};
pub use ids::{CommitId, IdError, VolumeId, WriterId};
pub use numbers::{Dev, Ino};
pub use seq::Seq;

/// Bytes of one block, the unit of a mark.
pub const BLOCK_BYTES: u64 = 4096;

/// A file's number in one volume. Assigned by the writer, never reused for another file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

impl FileId {
    /// The source directory itself.
    pub const ROOT: FileId = FileId(1);
}

/// BLAKE3 of something: a commit object, a checkpoint page.
pub type Hash = [u8; 32];

/// A random 128-bit identifier of something that has no type of its own yet.
pub type Id = [u8; 16];

/// The kernel's identity of an existing file: its inode number, and a generation that tells two users of one number apart.
///
/// `generation` is the birth time in nanoseconds (`statx` `stx_btime`), 0 where the file system keeps none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId {
    pub ino: Ino,
    pub generation: u64,
}

/// A point in time as file systems store it: seconds since 1970 (may be negative) and nanoseconds (0..1e9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

impl Time {
    /// From nanoseconds since 1970.
    pub fn of_unix_ns(ns: u64) -> Time {
        Time { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
    }

    /// Nanoseconds since 1970; 0 for times before, the largest number for those beyond it.
    pub fn unix_ns(self) -> u64 {
        let ns = i128::from(self.sec) * 1_000_000_000 + i128::from(self.nsec);
        u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
    }

    /// The time of a commit: the clock, but always later than the parent's time, so that commit times rise whatever the
    /// clock does.
    pub fn later_than(parent: Time, now: Time) -> Time {
        if now > parent {
            return now;
        }
        match parent.nsec {
            999_999_999 => Time { sec: parent.sec + 1, nsec: 0 },
            nsec => Time { sec: parent.sec, nsec: nsec + 1 },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// Extended attributes: names and values, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// All of a file except its names and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (`st_mode & 0o7777`).
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// `st_rdev` as `makedev` encodes it, for the two device kinds; else 0.
    pub rdev: u64,
    /// A symlink's target; empty for every other kind.
    pub target: Vec<u8>,
    /// Extended attributes (POSIX ACLs are among them), sorted by name.
    pub xattrs: Xattrs,
    /// Bits of [`InodeFlags`].
    pub flags: u32,
    /// Number of the project whose quota the file counts against; 0 is none.
    pub project: u32,
}

impl Meta {
    /// Whether the attributes include some that objects of version 1 cannot hold.
    pub fn has_flags(&self) -> bool {
        (self.flags, self.project) != (0, 0)
    }
}

/// Inode flags in the store. The bits are our own, so that no kernel's numbers are part of the format.
pub struct InodeFlags;

impl InodeFlags {
    /// Neither content nor attributes nor names can change (`chattr +i`).
    pub const IMMUTABLE: u32 = 1;
    /// Content can only be added to (`+a`).
    pub const APPEND: u32 = 1 << 1;
    /// Left out by dump programs (`+d`).
    pub const NODUMP: u32 = 1 << 2;
    /// Reads do not set the access time (`+A`).
    pub const NOATIME: u32 = 1 << 3;
    /// Writes are synchronous (`+S`).
    pub const SYNC: u32 = 1 << 4;
    /// Changes of a directory are synchronous (`+D`).
    pub const DIRSYNC: u32 = 1 << 5;
    /// Written in place, without checksums on btrfs (`+C`).
    pub const NOCOW: u32 = 1 << 6;
    /// Compressed by the file system (`+c`).
    pub const COMPRESS: u32 = 1 << 7;
    /// Never compressed (`+m`).
    pub const NOCOMPRESS: u32 = 1 << 8;
    /// Data goes through the journal (`+j`).
    pub const JOURNAL_DATA: u32 = 1 << 9;
    /// The last block is not shared (`+t`).
    pub const NOTAIL: u32 = 1 << 10;
    /// Files made in the directory are spread over the disk (`+T`).
    pub const TOPDIR: u32 = 1 << 11;
    /// Mapped without page cache where the device can (`+x`).
    pub const DAX: u32 = 1 << 12;
    /// Files made in the directory get its project (`+P`).
    pub const PROJECT_INHERIT: u32 = 1 << 13;
    /// Names of the directory are compared without case (`+F`).
    pub const CASEFOLD: u32 = 1 << 14;
    /// All of them; others are refused.
    pub const ALL: u32 = (1 << 15) - 1;
}

/// What a commit records of its clock and its baseline; commits of version 1 record neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The wall clock, unadjusted, from before the swap of the flush; it may be before the parent's.
    pub wall: Time,
    /// The newest commit, up to this one, whose wall clock is before that of its parent; 0 if there is none. From there on
    /// wall clocks never fall, so they can be searched by bisection.
    pub steady_since: Seq,
    /// Whether the baseline is complete: at this commit or an earlier one, the first pass over the tree left nothing. Then
    /// every file that existed before the swap of that flush is committed, except those that could not be read and were
    /// reported. Once true, it stays true.
    pub baseline: bool,
}

impl Standing {
    /// The standing of commit `seq`, whose parent has `before` and the time `time`.
    pub fn after(before: Option<Standing>, time: Time, seq: Seq, wall: Time, baseline: bool) -> Standing {
        let (last, since) = before.map_or((time, Seq::NONE), |before| (before.wall, before.steady_since));
        let steady_since = if seq > Seq::FIRST && wall < last { seq } else { since };
        Standing { wall, steady_since, baseline }
    }
}

/// Longest symlink target that Linux allows (`PATH_MAX` minus its NUL).
const TARGET_MAX: usize = 4095;

impl Meta {
    /// Why a restore could not create a file with these attributes; `None` if it can. Such attributes are never committed,
    /// but a store from before that rule can hold them.
    pub fn unmakeable(&self) -> Option<&'static str> {
        if self.kind != Kind::Symlink {
            return None;
        }
        match self.target.len() {
            0 => Some("a symlink without a target"),
            1..=TARGET_MAX if self.target.contains(&0) => Some("a symlink with a NUL in its target"),
            1..=TARGET_MAX => None,
            _ => Some("a symlink with a target above 4095 bytes"),
        }
    }
}

/// A file's content hash, and by which rule it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    /// Standard BLAKE3 of the bytes: what `b3sum` prints.
    Blake3(Hash),
    /// BLAKE3 tree in which every all-hole subtree has a fixed value per level (`tree`): for files with more than 1 GiB of
    /// holes, so that the cost of hashing grows with the data and not with the size.
    Sparse(Hash),
}

/// Where literal bytes lie in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectRef {
    /// Inside the commit object of this seq.
    Commit(Seq),
    /// `packs/<seq>-<epoch>-<n>`.
    Pack { seq: Seq, epoch: u64, n: u32 },
}

/// A run of literal bytes: one frame of one object, and the run's offset in the frame's plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataRef {
    pub object: ObjectRef,
    /// Byte offset of the frame in the object.
    pub frame_offset: u64,
    /// Stored bytes of the frame, header included.
    pub frame_bytes: u32,
    /// Offset in the frame's plain bytes.
    pub skip: u32,
}

/// One step of rebuilding a file: librsync's model plus holes. The steps follow each other without gaps and fill the file's
/// size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<L> {
    /// Bytes `from..from + len` of the base's content as committed before this commit.
    Copy { from: u64, len: u64 },
    /// New bytes. While planning `L` is `Vec<u8>`; in a commit it is `Stored`.
    Literal(L),
    /// `len` bytes that were never written, or were punched: zeros that take no space.
    Hole { len: u64 },
}

/// A literal in a commit: its place in the store and its length in plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub at: DataRef,
    pub len: u64,
}

/// New content of one file in one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content<L> {
    pub size: u64,
    pub root: Root,
    /// Whose content the copies read, as of the commit before this one; `None` when there are no copies.
    pub base: Option<FileId>,
    pub ops: Vec<Op<L>>,
}

/// What one flush changes of one file. A new file has both parts; a directory, symlink and so on only `meta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange<L> {
    pub id: FileId,
    pub meta: Option<Meta>,
    pub content: Option<Content<L>>,
}

/// A change of one directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameChange {
    /// `parent/name` is now `id` (added, or another file than before).
    Set { parent: FileId, name: Vec<u8>, id: FileId },
    /// `parent/name` is removed.
    Unset { parent: FileId, name: Vec<u8> },
}

/// All that one commit changes. `names` apply as a set: all `Unset` first, then all `Set`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeSet<L> {
    pub files: Vec<FileChange<L>>,
    pub names: Vec<NameChange>,
    /// Files that have lost all their names.
    pub gone: Vec<FileId>,
}

impl<L> Default for ChangeSet<L> {
    fn default() -> Self {
        ChangeSet { files: Vec::new(), names: Vec::new(), gone: Vec::new() }
    }
}

impl<L> ChangeSet<L> {
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.names.is_empty() && self.gone.is_empty()
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_nanoseconds_since_1970_and_back() {
        for ns in [0, 1, 999_999_999, 1_796_034_524_342_333_519, u64::MAX] {
            assert_eq!(Time::of_unix_ns(ns).unix_ns(), ns);
        }
        assert_eq!(Time { sec: -1, nsec: 5 }.unix_ns(), 0, "before 1970");
        assert_eq!(Time { sec: i64::MAX, nsec: 0 }.unix_ns(), u64::MAX, "beyond what the number holds");
    }

    #[test]
    fn a_symlink_without_a_target_cannot_be_made() {
        let meta = |kind, target: &[u8]| Meta {
            kind,
            mode: 0o777,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            rdev: 0,
            target: target.to_vec(),
            xattrs: Vec::new(),
            flags: 0,
            project: 0,
        };
        for target in [&b""[..], b"a\0b", &[b'a'; 4096]] {
            assert!(meta(Kind::Symlink, target).unmakeable().is_some(), "{} bytes", target.len());
        }
        assert_eq!(meta(Kind::Symlink, &[b'a'; 4095]).unmakeable(), None);
        assert_eq!(meta(Kind::File, b"").unmakeable(), None);
    }
}

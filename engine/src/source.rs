//! What is seen of the protected tree: attributes, listings, lookups of one name, and what was read of one file.
//!
//! Only values, and the trait of one open file. `flush` decides what is called, and in which order.

use bytes::Bytes;

use crate::dirty::Marks;
use crate::model::{FileId, InodeId, Kind, Time};
use crate::xattrs::ReadXattrs;

/// The `statx` values of one inode that a flush needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub inode: InodeId,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    pub nlink: u32,
    pub mtime: Time,
    pub ctime: Time,
}

/// One directory entry as a listing saw it, with the `statx` that followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub stat: Stat,
}

/// What is known of an inode whose name vanished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive {
    /// The handle is stale, or the link count is 0.
    Gone,
    /// It exists somewhere, inside or outside the tree.
    Yes,
    /// It exists inside the tree, under its only name. A listing that did not see it was overtaken by its move, however
    /// often that happens.
    Inside,
    /// No handle, or no right to use it.
    Unknown,
}

/// What one name in a directory leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    Entry(Stat),
    Nothing,
    /// The directory itself is not at its path, or cannot be searched: the name may or may not exist.
    NoDirectory,
}

/// Names of a directory that could not be looked up, each with the cause.
pub type Unknown = Vec<(Vec<u8>, String)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    Entries(Vec<Entry>),
    Partly(Vec<Entry>, Unknown),
    /// The directory is not at its path any more (moved or removed); its parent has a mark.
    NotThere,
    /// It is there but may not be read.
    Unreadable(String),
}

/// Why one file could not be read in this flush; its marks stay pending.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error("not at its path any more")]
    Moved,
    #[error("not ready before the deadline of the flush")]
    Late,
    #[error("write-back failed: {cause}")]
    WriteBack { cause: String },
    #[error("cannot be read: {cause}")]
    Unreadable { cause: String },
    /// The file is not read at all; its committed state stays.
    #[error("cannot be committed: {cause}")]
    Beyond { cause: String },
    #[error("no room in this commit")]
    NoRoom,
    #[error("its size changed {times} times while it was read")]
    Unsteady { times: u32 },
}

impl FileError {
    /// Whether trying again will probably fail the same way until somebody acts. Nothing waits for such a file: the rest of
    /// the volume is protected without it, and the file is reported by name.
    pub fn is_lasting(&self) -> bool {
        matches!(self, FileError::Unreadable { .. } | FileError::Beyond { .. } | FileError::WriteBack { .. })
    }
}

/// What was read of something that is not a regular file, all from one inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub stat: Stat,
    /// Of a symlink.
    pub target: Vec<u8>,
    pub xattrs: ReadXattrs,
}

/// Data or hole, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Bytes { offset: u64, bytes: &'a [u8] },
    Hole { offset: u64, len: u64 },
}

/// How the writes of a file are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exactly {
    /// Once for each page or folio until that is clean again.
    No,
    /// By what is written, from now on: why some page became dirty is not known.
    FromNow,
    /// By what is written, also into pages that are dirty, and no page hides a change.
    Already,
}

/// The primitive steps on one open file. `read::read_file` decides their order.
pub trait FileOps {
    fn statx(&mut self) -> Result<Stat, FileError>;
    /// Reads extended attributes and inode flags. One that cannot be read is not an error.
    fn xattrs(&mut self) -> Result<ReadXattrs, FileError>;
    /// How writes to this file are marked.
    fn how_marked(&mut self) -> Exactly {
        Exactly::No
    }
    /// Writes dirty pages back and waits, so that later stores through mappings fault, and mark, again.
    fn clean(&mut self) -> Result<(), FileError>;
    /// Waits for a writer that holds the inode lock.
    fn barrier(&mut self) -> Result<(), FileError>;
    /// From now on, `read` gives what is on the disk, whatever pages of the file are in memory.
    fn uncache(&mut self) -> Result<(), FileError>;
    /// Bytes from `offset`, fewer than asked only at the end of the file.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, FileError>;
    /// The data ranges (first byte, first byte after) inside `start..end`, in order.
    fn data_ranges(&mut self, start: u64, end: u64) -> Result<Vec<(u64, u64)>, FileError>;
}

/// One file to be read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadJob {
    pub id: FileId,
    pub inode: InodeId,
    pub marks: Marks,
    /// Size of the committed image; `None` if there is none, and the whole file is read.
    pub committed_size: Option<u64>,
}

/// What was read of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileImage {
    /// The `statx` from before CLEAN, with the size that BARRIER found if that is larger.
    pub stat: Stat,
    pub xattrs: ReadXattrs,
    /// Size of the image: `stat.size`, or less if the file shrank meanwhile.
    pub size: u64,
    /// Whether the read ended before `stat.size`: the file stays pending.
    pub short: bool,
    /// Whether every byte was read, so that nothing of the committed image is used.
    pub whole: bool,
    /// What was read, in order; parts start at block boundaries, and each block is in exactly one part.
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A clone shares them.
    Bytes {
        offset: u64,
        bytes: Bytes,
    },
    Hole {
        offset: u64,
        len: u64,
    },
}

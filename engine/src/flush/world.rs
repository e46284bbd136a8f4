//! What a flush needs from outside: kernel maps, directories, files, catalog, store, clock. The daemon implements it with
//! system calls, the simulation with a model; the order of calls is `flush`'s alone.

use std::collections::BTreeMap;

use super::xattrs::ReadXattrs;
use crate::dirty::{DirtySet, Marks};
use crate::model::{ChangeSet, FileId, Hash, Id, InodeId, Kind, Meta, Root, Seq, Standing, Stored, Time};

/// What `statx` says of one inode, as far as a flush needs it.
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

/// What the catalog keeps of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub id: FileId,
    pub inode: InodeId,
    pub meta: Meta,
    /// Size of the committed image; 0 for everything but regular files.
    pub size: u64,
    /// Root of the committed image; `None` for everything but regular files.
    pub root: Option<Root>,
    /// Bytes of holes in the committed image (decides the kind of the root).
    pub hole_bytes: u64,
    /// Whether the catalog holds a signature of the whole image.
    pub signed: bool,
    /// Change time of the inode when all of it was known to be committed; `None` is "unknown" (invariant I3).
    pub ctime: Option<Time>,
}

/// One directory entry as a listing saw it, with the `statx` that followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub stat: Stat,
}

/// What the catalog has under one name, as far as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub id: FileId,
    pub inode: InodeId,
    pub kind: Kind,
    pub size: u64,
    pub mtime: Time,
    /// As in [`Record`].
    pub ctime: Option<Time>,
}

/// What became of an inode whose name vanished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive {
    /// The handle is stale, or the link count is 0.
    Gone,
    /// It exists somewhere, inside or outside the tree.
    Yes,
    /// It exists inside the tree, by the one name it has: a listing that did not see it was overtaken by its move, however
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
    /// The directory itself is not at its path, or does not tell: nothing is known of the name.
    NoDirectory,
}

/// Names of a directory of which nothing can be learned, each with the cause.
pub type Unknown = Vec<(Vec<u8>, String)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    Entries(Vec<Entry>),
    Partly(Vec<Entry>, Unknown),
    /// The directory is not at its path any more (moved, removed); its parent's marks tell.
    NotThere,
    /// It is there but may not be read.
    Unreadable(String),
}

/// What a drain took out of the kernel maps, for one volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drained {
    pub marks: Vec<(u64, Marks)>,
    /// Why the whole volume is in doubt, if it is.
    pub doubt: Option<String>,
}

/// The steps of a drain (invariants I2, I3).
pub trait DrainWorld {
    type Error;
    /// Programs write into the other set of maps from now on.
    fn swap(&mut self) -> Result<(), Self::Error>;
    /// Returns when no program that saw the old generation is still running.
    fn grace(&mut self) -> Result<(), Self::Error>;
    /// Reads the retired maps and makes what they hold pending, in a way that survives the death of this process.
    fn save_retired(&mut self) -> Result<(), Self::Error>;
    /// Empties the retired maps.
    fn clear_retired(&mut self) -> Result<(), Self::Error>;
}

/// Data or hole, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Bytes { offset: u64, bytes: &'a [u8] },
    Hole { offset: u64, len: u64 },
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
    /// Nothing of it is read: what is in the commits stays.
    #[error("cannot be committed: {cause}")]
    Beyond { cause: String },
    #[error("no room in this commit")]
    NoRoom,
    #[error("its size changed {times} times while it was read")]
    Unsteady { times: u32 },
}

impl FileError {
    /// Whether trying again is likely to end the same way until somebody acts. Nothing waits for such a file: the rest of the
    /// volume is protected without it, and it is named.
    pub fn is_lasting(&self) -> bool {
        matches!(self, FileError::Unreadable { .. } | FileError::Beyond { .. } | FileError::WriteBack { .. })
    }
}

/// What was read of something that is no regular file, all of one inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub stat: Stat,
    /// Of a symlink.
    pub target: Vec<u8>,
    pub xattrs: ReadXattrs,
}

/// The thin steps on one open file. Their order is `read::read_file`'s.
pub trait FileOps {
    fn statx(&mut self) -> Result<Stat, FileError>;
    /// Extended attributes and inode flags. One that cannot be read is no error.
    fn xattrs(&mut self) -> Result<ReadXattrs, FileError>;
    /// Writes dirty pages back and waits: later stores through mappings fault, and mark, again.
    fn clean(&mut self) -> Result<(), FileError>;
    /// Waits for a writer that holds the inode lock.
    fn barrier(&mut self) -> Result<(), FileError>;
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
    /// Size of the committed image; `None` when there is none, and all of the file is read.
    pub committed_size: Option<u64>,
}

/// Header facts of a commit that is about to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub seq: Seq,
    pub commit_id: Id,
    pub hash: Hash,
    pub time: Time,
    pub standing: Option<Standing>,
    /// The exact bytes: while the outcome is unknown, only these may be put at `seq` (invariant I5).
    pub bytes: Vec<u8>,
}

/// The newest commit this writer knows to be in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub seq: Seq,
    pub hash: Hash,
    pub time: Time,
    /// As in the commit's header; `None` if it is of version 1, or there is no commit.
    pub standing: Option<Standing>,
}

/// A node of a file's block tree (`tree`): file, level, index.
pub type NodeKey = (FileId, u8, u64);

/// Parent and name of files that the running flush has found elsewhere than they are committed.
pub type Moved = BTreeMap<FileId, (FileId, Vec<u8>)>;

/// Tree nodes to keep; `None` deletes.
pub type NodeChanges = Vec<(NodeKey, Option<Vec<u8>>)>;

/// Signatures to keep, by file and group; `None` deletes.
pub type SignatureChanges = Vec<((FileId, u64), Option<Vec<u8>>)>;

/// Extended attributes: names and values, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A name that vanished without proof, and the drain in which that was first seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    pub parent: FileId,
    pub name: Vec<u8>,
    pub drain: u64,
}

/// What a flush changes in the catalog, in one transaction with the intent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CatalogChange {
    pub records: Vec<Record>,
    pub changes: ChangeSet<Stored>,
    pub nodes: NodeChanges,
    pub signatures: SignatureChanges,
    /// Files whose nodes and signatures are all replaced: the old ones go first.
    pub replaced: Vec<FileId>,
    /// All names that wait for proof of their removal, replacing the former list.
    pub missing: Vec<Missing>,
    /// The next file id that was never given.
    pub next_id: u64,
}

/// What the store answered to the creation of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    Yes,
    /// An object is there already.
    Exists,
    /// It may or may not have taken effect.
    Unknown,
}

/// Everything a flush needs.
pub trait World {
    type Error: From<crate::format::EncodeError>;
    type File: FileOps;

    /// A file's content could not be planned: its nodes cannot be read, or do not fit its record.
    fn plan_error(error: crate::image::ImageError<Self::Error>) -> Self::Error;

    /// Entries of a directory of the tree, each with its `statx`.
    fn list(&mut self, dir: FileId) -> Result<Listed, Self::Error>;
    /// One entry by name.
    fn lookup(&mut self, dir: FileId, name: &[u8]) -> Result<Named, Self::Error>;
    fn alive(&mut self, id: FileId) -> Result<Alive, Self::Error>;
    /// Adds inodes to the watch set; after this returns every change of theirs is marked.
    fn watch(&mut self, inodes: &[u64]) -> Result<(), Self::Error>;
    fn unwatch(&mut self, inodes: &[u64]) -> Result<(), Self::Error>;
    /// Tells where new files were seen in this flush, so that `open` and `attributes` find files the catalog has not yet.
    fn place(&mut self, id: FileId, parent: FileId, name: &[u8], inode: InodeId);
    /// Tells where known files are by the names that this flush is going to commit, in place of what it told before: they and
    /// what lies below them are looked for there. What is read of a file is committed under the name it was read by.
    fn moved(&mut self, places: &Moved);
    /// Attributes of anything but a regular file, if `inode` is what its path leads to.
    fn attributes(&mut self, id: FileId, inode: InodeId) -> Result<Attributes, FileError>;
    /// Reads files by `read::read_file`, in parallel if it likes; a file that is late is reported as such.
    fn read_files(&mut self, jobs: &[ReadJob], steps: super::Steps) -> Vec<Result<super::read::FileImage, FileError>>;
    /// Opens a file that is too large for `read_files`.
    fn open(&mut self, job: &ReadJob) -> Result<Self::File, FileError>;

    fn record(&self, id: FileId) -> Result<Option<Record>, Self::Error>;
    fn by_inode(&self, ino: u64) -> Result<Vec<Record>, Self::Error>;
    fn children(&self, dir: FileId) -> Result<Vec<(Vec<u8>, FileId)>, Self::Error>;
    /// As `children`, with what a listing can be compared to: of all entries of a directory, however many.
    fn known_in(&self, dir: FileId) -> Result<Vec<(Vec<u8>, Known)>, Self::Error> {
        let mut out = Vec::new();
        for (name, id) in self.children(dir)? {
            if let Some(Record { inode, meta, size, ctime, .. }) = self.record(id)? {
                out.push((name, Known { id, inode, kind: meta.kind, size, mtime: meta.mtime, ctime }));
            }
        }
        Ok(out)
    }
    /// For a listing of `dir`: may take entries out of `seen` that are known by name, inode and kind. What it leaves out of
    /// `known_in` are names of such entries; names of entries left in `seen` are in its answer where they are known.
    fn others_in(&self, dir: FileId, _seen: &mut Vec<Entry>) -> Result<Vec<(Vec<u8>, Known)>, Self::Error> {
        self.known_in(dir)
    }
    fn names_of(&self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>, Self::Error>;
    /// In one transaction: other inodes carry these files. Nothing is known any more of what is in them (`Record::ctime`).
    fn bind(&mut self, inodes: &[(FileId, InodeId)]) -> Result<(), Self::Error>;
    fn node(&self, key: NodeKey) -> Result<Option<Vec<u8>>, Self::Error>;
    fn signature(&self, id: FileId, group: u64) -> Result<Option<Vec<u8>>, Self::Error>;
    /// Files in the catalog, directories not counted.
    fn files(&self) -> Result<u64, Self::Error>;
    fn missing(&self) -> Result<Vec<Missing>, Self::Error>;
    fn next_id(&self) -> Result<u64, Self::Error>;
    fn head(&self) -> Result<Head, Self::Error>;

    /// BLAKE3 of the object that ends the era before, if `seq` is the first of an era and that object is in the store.
    fn era_before(&mut self, _seq: Seq) -> Result<Option<Hash>, Self::Error> {
        Ok(None)
    }
    /// A number that no other try of this writer epoch gets, kept durably before it is returned: packs are named by it.
    fn next_attempt(&mut self) -> Result<u32, Self::Error>;
    /// Through a shared reference: packs are put while nodes are being read.
    fn put_pack(&self, at: crate::model::ObjectRef, bytes: Vec<u8>) -> Result<(), Self::Error>;
    /// One transaction: the intent and all that the commit changes. The marks stay pending.
    fn begin_commit(&mut self, intent: &Intent, change: CatalogChange) -> Result<(), Self::Error>;
    fn intent(&self) -> Result<Option<Intent>, Self::Error>;
    fn create_commit(&mut self, seq: Seq, bytes: &[u8]) -> Result<Created, Self::Error>;
    fn read_commit(&mut self, seq: Seq) -> Result<Option<Vec<u8>>, Self::Error>;
    /// Takes note that what was read at `seq` is neither this writer's commit nor a valid one of another.
    fn commit_damaged(&mut self, _seq: Seq, _cause: &str) {}
    /// Whether the era of `seq` was closed by another writer (see design: a late writer must not revive it).
    fn era_closed_by_other(&mut self, seq: Seq) -> Result<bool, Self::Error>;
    /// One transaction: the intent is settled, the head moves, `waiting` is all that is pending now.
    fn settle(&mut self, head: Head, taken: &[u64], kept: &DirtySet) -> Result<(), Self::Error>;
    /// One transaction: `taken` is forgotten, `kept` is pending (also what was never taken), records are brought up to date.
    /// Called when nothing is committed, and with an empty `taken` before an intent that leaves more open than was taken.
    fn forget(
        &mut self,
        records: Vec<Record>,
        missing: Vec<Missing>,
        taken: &[u64],
        kept: &DirtySet,
    ) -> Result<(), Self::Error>;
}

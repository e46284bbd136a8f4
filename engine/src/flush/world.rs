//! What a flush needs from outside, in four parts: the protected tree, the committed state, the store, the watch set. The daemon
//! implements them with system calls, the simulation with a model; the order of calls is `flush`'s alone.

use std::collections::BTreeMap;

use super::steps::Steps;
use crate::catalog::{CatalogChange, Head, Intent, Known, Missing, NodeKey, Record};
use crate::dirty::DirtySet;
use crate::format::EncodeError;
use crate::image::ImageError;
use crate::model::{FileId, Hash, Ino, InodeId, ObjectRef, Seq};
use crate::source::{Alive, Attributes, Entry, FileError, FileImage, FileOps, Listed, Named, ReadJob};

/// Parent and name of files that the running flush has found elsewhere than they are committed.
pub type Moved = BTreeMap<FileId, (FileId, Vec<u8>)>;

/// The error that all four parts share: it ends the flush at once.
pub trait Fails {
    type Error: From<EncodeError>;

    /// A file's content could not be planned: its nodes cannot be read, or do not fit its record.
    fn plan_error(error: ImageError<Self::Error>) -> Self::Error;
}

/// The protected tree, as it is now.
pub trait SourceTree: Fails {
    type File: FileOps;

    /// Entries of a directory of the tree, each with its `statx`.
    fn list(&mut self, dir: FileId) -> Result<Listed, Self::Error>;
    /// One entry by name.
    fn lookup(&mut self, dir: FileId, name: &[u8]) -> Result<Named, Self::Error>;
    /// Whether the inode of a committed file still exists.
    fn alive(&mut self, id: FileId) -> Result<Alive, Self::Error>;
    /// Tells where new files were seen in this flush, so that `open` and `attributes` find files the catalog has not yet.
    fn place(&mut self, id: FileId, parent: FileId, name: &[u8], inode: InodeId);
    /// Tells under which names this flush is going to commit known files, in place of what it told before: they and what lies
    /// below them are looked for there. A file's content is committed under the name by which it was read.
    fn moved(&mut self, places: &Moved);
    /// Attributes of anything but a regular file, if `inode` is what its path leads to.
    fn attributes(&mut self, id: FileId, inode: InodeId) -> Result<Attributes, FileError>;
    /// Reads files by `read::read_file`, in parallel if it likes; a file that is late is reported as such.
    fn read_files(&mut self, jobs: &[ReadJob], steps: Steps) -> Vec<Result<FileImage, FileError>>;
    /// Opens a file that is too large for `read_files`.
    fn open(&mut self, job: &ReadJob) -> Result<Self::File, FileError>;
}

/// What this host knows of the committed volume, and the transactions that change it.
pub trait CommittedState: Fails {
    fn record(&self, id: FileId) -> Result<Option<Record>, Self::Error>;
    /// All files whose inode has this number: several where a number was given again.
    fn by_inode(&self, ino: Ino) -> Result<Vec<Record>, Self::Error>;
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
    /// Returns the committed entries of `dir`. May drop unchanged entries (same name, inode and kind) from `seen` and leave
    /// them out of the result.
    fn others_in(&self, dir: FileId, _seen: &mut Vec<Entry>) -> Result<Vec<(Vec<u8>, Known)>, Self::Error> {
        self.known_in(dir)
    }
    fn names_of(&self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>, Self::Error>;
    fn node(&self, key: NodeKey) -> Result<Option<Vec<u8>>, Self::Error>;
    fn signature(&self, id: FileId, group: u64) -> Result<Option<Vec<u8>>, Self::Error>;
    /// Files in the catalog, directories not counted.
    fn files(&self) -> Result<u64, Self::Error>;
    fn missing(&self) -> Result<Vec<Missing>, Self::Error>;
    fn next_id(&self) -> Result<FileId, Self::Error>;
    fn head(&self) -> Result<Head, Self::Error>;
    /// The commit whose outcome is not known, if any.
    fn intent(&self) -> Result<Option<Intent>, Self::Error>;

    /// One transaction: other inodes carry these files. Their `Record::ctime` becomes `None`, so that their content is compared.
    fn bind(&mut self, inodes: &[(FileId, InodeId)]) -> Result<(), Self::Error>;
    /// One transaction: the intent and all that the commit changes. The marks stay pending.
    fn begin_commit(&mut self, intent: &Intent, change: CatalogChange) -> Result<(), Self::Error>;
    /// One transaction: the intent is settled, the head moves, `taken` is forgotten and `kept` is pending.
    fn settle(&mut self, head: Head, taken: &[Ino], kept: &DirtySet) -> Result<(), Self::Error>;
    /// One transaction: `taken` is forgotten, `kept` is pending (also what was never taken), records are brought up to date.
    /// Called when nothing is committed, and with an empty `taken` before an intent that leaves more open than was taken.
    fn forget(
        &mut self,
        records: Vec<Record>,
        missing: Vec<Missing>,
        taken: &[Ino],
        kept: &DirtySet,
    ) -> Result<(), Self::Error>;
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

/// The volume's commits and packs in the store.
pub trait CommitStore: Fails {
    /// BLAKE3 of the object that ends the era before, if `seq` is the first of an era and that object is in the store.
    fn era_before(&mut self, _seq: Seq) -> Result<Option<Hash>, Self::Error> {
        Ok(None)
    }
    /// Whether another writer has closed the era of `seq`: a late writer must not revive it.
    fn era_closed_by_other(&mut self, seq: Seq) -> Result<bool, Self::Error>;
    /// A number that no other try of this writer epoch gets, kept durably before it is returned: packs are named by it.
    fn next_attempt(&mut self) -> Result<u32, Self::Error>;
    /// Through a shared reference: packs are put while nodes are being read.
    fn put_pack(&self, at: ObjectRef, bytes: Vec<u8>) -> Result<(), Self::Error>;
    fn create_commit(&mut self, seq: Seq, bytes: &[u8]) -> Result<Created, Self::Error>;
    fn read_commit(&mut self, seq: Seq) -> Result<Option<Vec<u8>>, Self::Error>;
    /// Told when what was read at `seq` is neither this writer's commit nor a valid one of another.
    fn commit_damaged(&mut self, _seq: Seq, _cause: &str) {}
}

/// Whose changes the kernel marks.
pub trait WatchSet: Fails {
    /// Adds inodes to the watch set; after this returns every change of theirs is marked.
    fn watch(&mut self, inodes: &[Ino]) -> Result<(), Self::Error>;
    fn unwatch(&mut self, inodes: &[Ino]) -> Result<(), Self::Error>;
}

/// Everything a flush needs.
pub trait World: SourceTree + CommittedState + CommitStore + WatchSet {}

impl<W: SourceTree + CommittedState + CommitStore + WatchSet> World for W {}

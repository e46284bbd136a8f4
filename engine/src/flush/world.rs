//! What a flush needs from outside, in four parts: the protected tree, the committed state, the store, the watch set. The
//! daemon implements them with system calls, the simulation with a model. Only `flush` decides the order of the calls.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::steps::Steps;
use crate::catalog::{CatalogChange, Head, Intent, Known, Missing, NodeKey, Record};
use crate::dirty::DirtySet;
use crate::format::EncodeError;
use crate::image::ImageError;
use crate::model::{FileId, Hash, Ino, InodeId, ObjectRef, Seq};
use crate::source::{Alive, Attributes, Entry, FileError, FileImage, FileOps, Listed, Named, ReadJob};
use crate::tree::Memo;

/// Parent and name of files that the running flush found at another place than their committed one.
pub type Moved = BTreeMap<FileId, (FileId, Vec<u8>)>;

/// The error that all four parts share. It ends the flush at once.
pub trait Fails {
    type Error: From<EncodeError>;

    /// The error for a file whose content could not be planned: its nodes cannot be read, or do not match its record.
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
    /// Whether all that is listed and asked is of one moment.
    fn is_of_one_moment(&self) -> bool {
        false
    }
    /// Tells the tree where this flush saw a new file, so that `open` and `attributes` find files that are not in the
    /// catalog yet.
    fn place(&mut self, id: FileId, parent: FileId, name: &[u8], inode: InodeId);
    /// Tells the tree under which names this flush will commit known files; replaces what was told before. These files and
    /// everything below them are then looked for there. A file's content is committed under the name by which it was read.
    fn moved(&mut self, places: &Moved);
    /// Attributes of anything but a regular file, if its path leads to `inode`.
    fn attributes(&mut self, id: FileId, inode: InodeId) -> Result<Attributes, FileError>;
    /// Reads files by `read::read_file`, in parallel if the implementation wants. Reports a file that takes too long as
    /// late.
    fn read_files(&mut self, jobs: &[ReadJob], steps: Steps) -> Vec<Result<FileImage, FileError>>;
    /// Opens a file that is too large for `read_files`.
    fn open(&mut self, job: &ReadJob) -> Result<Self::File, FileError>;
    /// Whether the file can be stored to through a mapping now. If that cannot be told: yes.
    fn is_mapped(&mut self, file: &Self::File) -> bool;
}

/// What this host knows of the committed volume, and the transactions that change it.
pub trait CommittedState: Fails {
    fn record(&self, id: FileId) -> Result<Option<Record>, Self::Error>;
    /// All files whose inode has this number: several if the number was reused.
    fn by_inode(&self, ino: Ino) -> Result<Vec<Record>, Self::Error>;
    fn children(&self, dir: FileId) -> Result<Vec<(Vec<u8>, FileId)>, Self::Error>;
    /// As `children`, with what a listing is compared with. Returns all entries of a directory, however many.
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
    /// What is remembered of values that were computed for earlier commits, if anything is.
    fn memo(&self) -> Option<&RefCell<Memo>> {
        None
    }
    /// Files in the catalog, directories not counted.
    fn files(&self) -> Result<u64, Self::Error>;
    fn missing(&self) -> Result<Vec<Missing>, Self::Error>;
    fn next_id(&self) -> Result<FileId, Self::Error>;
    fn head(&self) -> Result<Head, Self::Error>;
    /// The commit whose outcome is not known, if any.
    fn intent(&self) -> Result<Option<Intent>, Self::Error>;

    /// One transaction: binds these files to other inodes. Sets their `Record::ctime` to `None`, so that their content is
    /// compared.
    fn bind(&mut self, inodes: &[(FileId, InodeId)]) -> Result<(), Self::Error>;
    /// One transaction: saves the intent and everything that the commit changes. The marks stay pending.
    fn begin_commit(&mut self, intent: &Intent, change: CatalogChange) -> Result<(), Self::Error>;
    /// One transaction: settles the intent, moves the head, forgets `taken` and makes `kept` pending.
    fn settle(&mut self, head: Head, taken: &[Ino], kept: &DirtySet) -> Result<(), Self::Error>;
    /// One transaction: forgets `taken`, makes `kept` pending (also if it was never taken), updates records. Called when
    /// nothing is committed, and with an empty `taken` before an intent that leaves more open than was taken.
    fn forget(
        &mut self,
        records: Vec<Record>,
        missing: Vec<Missing>,
        taken: &[Ino],
        kept: &DirtySet,
    ) -> Result<(), Self::Error>;
}

/// The store's answer to the creation of a commit.
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
    /// BLAKE3 of the object that closes the previous era, if `seq` is the first of an era and that object is in the store.
    fn era_before(&mut self, _seq: Seq) -> Result<Option<Hash>, Self::Error> {
        Ok(None)
    }
    /// Whether another writer has closed the era of `seq`: a late writer must not revive it.
    fn era_closed_by_other(&mut self, seq: Seq) -> Result<bool, Self::Error>;
    /// A number that no other attempt of this writer epoch gets, durable before it is returned: packs are named by it.
    fn next_attempt(&mut self) -> Result<u32, Self::Error>;
    /// Takes a shared reference, because packs are put while nodes are being read.
    fn put_pack(&self, at: ObjectRef, bytes: Vec<u8>) -> Result<(), Self::Error>;
    fn create_commit(&mut self, seq: Seq, bytes: &[u8]) -> Result<Created, Self::Error>;
    fn read_commit(&mut self, seq: Seq) -> Result<Option<Vec<u8>>, Self::Error>;
    /// Called when the object at `seq` is neither this writer's commit nor a valid one of another.
    fn commit_damaged(&mut self, _seq: Seq, _cause: &str) {}
}

/// One look at the counter of a volume's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// How many changes the kernel has counted so far.
    pub changes: u64,
    /// When, in microseconds of a clock that never goes back.
    pub at_us: u64,
}

/// What changed since the last drain. It stays with the kernel, and the next drain brings it again.
#[derive(Clone, Debug, Default)]
pub struct Live {
    pub marks: DirtySet,
    /// What of it may have changed since the call before this one in the same flush, at least that each inode is marked; everything at
    /// the first call. Who has read the file since that call need not read the rest again.
    pub newer: DirtySet,
    /// Direct writes are under way.
    pub direct: bool,
}

/// What became of a request to pause the volume's writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paused {
    /// Nobody is to be paused, or there is nobody to pause.
    No,
    /// Who writes is not to be paused, or could not be.
    Cannot,
    /// They stop at their own pace; what they are doing in the kernel they may go on with. Until `thaw`, or the end of the time
    /// that is allowed.
    Yes,
}

/// Whose changes the kernel marks, and what it tells of them between two drains.
pub trait WatchSet: Fails {
    /// Adds inodes to the watch set. After it returns, every change of theirs is marked.
    fn watch(&mut self, inodes: &[Ino]) -> Result<(), Self::Error>;
    fn unwatch(&mut self, inodes: &[Ino]) -> Result<(), Self::Error>;
    /// Counts the changes of the volume. Every change that is counted was marked before.
    fn count(&mut self) -> Result<Count, Self::Error>;
    /// Everything of the volume that is marked and not among what this flush has taken.
    fn live(&mut self) -> Result<Live, Self::Error>;
    /// Whether every change since the last drain was marked and counted, as far as the kernel can tell.
    fn is_sure(&mut self) -> Result<bool, Self::Error>;
    /// Told at the begin of a look (`true`) and at its end: while it lasts, every moment counts.
    fn hurry(&mut self, _looking: bool) {}
    /// Waits a moment before the tree is looked at again. Returns false when the time for that is over: a time of its own while
    /// writers are paused.
    fn try_again(&mut self, tries: u32) -> Result<bool, Self::Error>;
    /// Whether a pause of the writers is over, so that nothing is left to look for.
    fn is_late(&self) -> bool {
        false
    }
    /// Pauses the writers of the volume, where that is allowed.
    fn freeze(&mut self) -> Result<Paused, Self::Error> {
        Ok(Paused::No)
    }
    /// Lets them go on. Returns for how many microseconds they were paused.
    fn thaw(&mut self) -> Result<u32, Self::Error> {
        Ok(0)
    }
}

/// Everything a flush needs.
pub trait World: SourceTree + CommittedState + CommitStore + WatchSet {}

impl<W: SourceTree + CommittedState + CommitStore + WatchSet> World for W {}

//! `engine::flush::World` over the real thing: directories and files of the source, the catalog, the store, the kernel's
//! watch set. Thin: every decision is the engine's.

pub(crate) mod covered;
pub(crate) mod paths;
pub mod pool;
pub(crate) mod timestamp_granularity;
pub(crate) mod unread;
pub mod write_back;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use engine::dirty::DirtySet;
use engine::flush::Steps;
use engine::flush::read::FileImage;
use engine::flush::world::{
    self, Alive, Attributes, CatalogChange, Created, Entry, FileError, Head, Intent, Known, Listed, Missing, Moved,
    NodeKey, ReadJob, Record, World,
};
use engine::format::{EncodeError, Key, commit};
use engine::model::{FileId, Hash, InodeId, ObjectRef, Seq, Time};

use crate::capture::WatchOutcome;
use crate::catalog::{self, Catalog, CatalogError, FileRow, MissingRow, NodeWrite, SigWrite};
use crate::repository::{Closing, ReadError, VolumeWriter, WriteError};
use crate::source::{Foreign, MountTable, Named, OpenFile, SourceError, SourceRoot};
use crate::store::StoreError;
use crate::test_switches;
use crate::volume::clock::now_ns;
use crate::volume::marks::dispatcher::{Dispatcher, DispatcherError};
use crate::volume::marks::waiting::Pending;
use crate::volume::world::paths::Paths;
use crate::volume::world::pool::{Opener, Pool};

/// What ends a flush. Files that cannot be read are not among them.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error(transparent)]
    Dispatcher(#[from] DispatcherError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("no random numbers: {cause}")]
    Random { cause: String },
    #[error("the catalog and a file's content do not fit: {cause}")]
    Plan { cause: String },
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<StoreError> for WorldError {
    fn from(error: StoreError) -> WorldError {
        WriteError::from(error).into()
    }
}

impl From<ReadError> for WorldError {
    fn from(error: ReadError) -> WorldError {
        WriteError::from(error).into()
    }
}

fn unreadable(error: impl std::fmt::Display) -> FileError {
    FileError::Unreadable { cause: error.to_string() }
}

/// The real world of one volume.
pub struct VolumeWorld {
    pub root: Arc<SourceRoot>,
    pub catalog: Arc<Catalog>,
    pub pending: Arc<Pending>,
    /// Puts the volume's objects into the store.
    pub writer: VolumeWriter,
    /// `None` with the scan back end.
    pub dispatcher: Option<(Arc<Dispatcher>, u32)>,
    /// Files that the catalog does not have yet: parent and name, and inode.
    pub(super) placed: HashMap<FileId, ((FileId, Vec<u8>), InodeId)>,
    /// Files that the running flush has found elsewhere than the catalog has them.
    pub(super) moved: Moved,
    /// What was found by both and by the catalog.
    pub(super) paths: RefCell<Paths>,
    pool: Pool<OpenFile>,
    /// What has a name in the tree and is not part of the volume: mounts and subvolumes inside it.
    pub foreign: BTreeMap<PathBuf, Foreign>,
    /// Mounts come and go; `None` where there is no `/proc` to tell.
    pub(super) mounts: Option<MountTable>,
    /// Directories of `foreign` as they are noted in the catalog; `None` before the first time.
    pub(super) foreign_noted: Option<BTreeSet<PathBuf>>,
    /// The watch set was full: every inode of the superblock is recorded now.
    pub watch_full: bool,
    /// The commit that this flush asked for came back damaged: why.
    pub damaged: Option<String>,
    /// Wall clock before anything of this flush was read.
    began: Time,
}

impl VolumeWorld {
    pub fn new(
        root: Arc<SourceRoot>,
        catalog: Arc<Catalog>,
        pending: Arc<Pending>,
        writer: VolumeWriter,
        dispatcher: Option<(Arc<Dispatcher>, u32)>,
    ) -> VolumeWorld {
        let mounts = MountTable::open(root.path()).ok();
        VolumeWorld {
            root,
            catalog,
            pending,
            writer,
            dispatcher,
            placed: HashMap::new(),
            moved: Moved::new(),
            paths: RefCell::default(),
            pool: Pool::new(),
            foreign: BTreeMap::new(),
            mounts,
            foreign_noted: None,
            watch_full: false,
            damaged: None,
            began: Time::default(),
        }
    }

    /// Notes when a flush begins: change times from shortly before on are not trusted.
    pub fn begin_flush(&mut self) {
        let ns = now_ns();
        self.began = Time { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 };
    }

    /// A record as it may be believed in later comparisons.
    fn believed(&self, record: Record) -> Record {
        let ctime = record.ctime.and_then(|ctime| timestamp_granularity::settled(ctime, self.began));
        Record { ctime, ..record }
    }
}

fn to_record(row: FileRow) -> Record {
    Record {
        id: row.id,
        inode: row.inode,
        meta: row.meta,
        size: row.size,
        root: row.root,
        hole_bytes: row.hole_bytes,
        signed: row.flags & SIGNED != 0,
        ctime: row.ctime,
    }
}

/// `FileRow::flags`: the catalog holds a signature of the whole image.
const SIGNED: u32 = 1;

/// A record as a row; the handle of a known inode stays as it is stored.
pub(super) fn to_row(record: Record, handle: Option<Vec<u8>>) -> FileRow {
    FileRow {
        id: record.id,
        inode: record.inode,
        handle,
        meta: record.meta,
        size: record.size,
        root: record.root,
        hole_bytes: record.hole_bytes,
        ctime: record.ctime,
        flags: if record.signed { SIGNED } else { 0 },
    }
}

fn missing_rows(missing: Vec<Missing>) -> Vec<MissingRow> {
    missing.into_iter().map(|m| MissingRow { parent: m.parent, name: m.name, drain: m.drain }).collect()
}

/// Opens by path and makes sure that it is the inode that was meant.
fn open(root: &SourceRoot, path: Option<&PathBuf>, inode: InodeId) -> Result<OpenFile, FileError> {
    Ok(root.open_file(path.ok_or(FileError::Moved)?, inode)?)
}

impl World for VolumeWorld {
    type Error = WorldError;
    type File = OpenFile;

    fn plan_error(error: engine::image::ImageError<WorldError>) -> WorldError {
        WorldError::Plan { cause: error.to_string() }
    }

    fn list(&mut self, dir: FileId) -> Result<Listed, WorldError> {
        let Some((path, opened)) = self.directory(dir)? else { return Ok(Listed::NotThere) };
        match opened.and_then(|dir| dir.entries()) {
            Ok(mut found) => {
                self.foreign.retain(|foreign, _| foreign.parent() != Some(path.as_path()));
                for (name, why) in found.foreign {
                    if let (Foreign::MountPoint, Some(stat)) = (why, self.covered(dir, &name)?) {
                        found.entries.push(Entry { name: name.clone(), stat });
                    }
                    self.foreign.insert(path.join(OsStr::from_bytes(&name)), why);
                }
                Ok(match found.unknown {
                    unknown if unknown.is_empty() => Listed::Entries(found.entries),
                    unknown => Listed::Partly(found.entries, unknown),
                })
            }
            Err(error) => Ok(Listed::Unreadable(error.cause())),
        }
    }

    fn lookup(&mut self, dir: FileId, name: &[u8]) -> Result<world::Named, WorldError> {
        let Some((_, opened)) = self.directory(dir)? else { return Ok(world::Named::NoDirectory) };
        // A directory or name that does not tell is no reason to end the flush: nothing is known of it.
        let Ok(found) = opened.and_then(|dir| dir.named(name)) else { return Ok(world::Named::NoDirectory) };
        let found = match found {
            Some(Named::Entry(stat)) => Some(stat),
            Some(Named::Foreign(Foreign::MountPoint)) => self.covered(dir, name)?,
            Some(Named::Foreign(Foreign::OtherDevice | Foreign::RestoreArea)) | None => None,
        };
        Ok(found.map_or(world::Named::Nothing, world::Named::Entry))
    }

    fn alive(&mut self, id: FileId) -> Result<Alive, WorldError> {
        let Some(handle) = self.catalog.file(id)?.and_then(|row| row.handle) else { return Ok(Alive::Unknown) };
        let alive = self.root.alive(&handle);
        // One of several committed names may be the one it has: what is missing is another one then, and really gone.
        let several = alive == Alive::Inside && self.catalog.names_of(id)?.len() > 1;
        Ok(if several { Alive::Yes } else { alive })
    }

    fn watch(&mut self, inodes: &[u64]) -> Result<(), WorldError> {
        if inodes.is_empty() {
            return Ok(());
        }
        self.pending.add_fresh(inodes);
        if let Some((dispatcher, dev)) = &self.dispatcher {
            self.watch_full |= dispatcher.watch(*dev, inodes)? != WatchOutcome::Watching;
        }
        Ok(())
    }

    fn unwatch(&mut self, inodes: &[u64]) -> Result<(), WorldError> {
        if let Some((dispatcher, dev)) = &self.dispatcher {
            dispatcher.unwatch(&self.pending, *dev, inodes)?;
        }
        Ok(())
    }

    fn place(&mut self, id: FileId, parent: FileId, name: &[u8], inode: InodeId) {
        self.set_place(id, parent, name, inode);
    }

    fn moved(&mut self, places: &Moved) {
        self.set_moved(places);
    }

    fn attributes(&mut self, id: FileId, inode: InodeId) -> Result<Attributes, FileError> {
        let path = self.path(id).map_err(unreadable)?.ok_or(FileError::Moved)?;
        match self.root.attributes(&path) {
            Ok(found) if found.stat.inode == inode => Ok(found),
            Ok(_) | Err(SourceError::Gone { .. } | SourceError::MountPoint { .. }) => Err(FileError::Moved),
            Err(error) => Err(unreadable(error.cause())),
        }
    }

    fn read_files(&mut self, jobs: &[ReadJob], steps: Steps) -> Vec<Result<FileImage, FileError>> {
        test_switches::hit("names");
        let mut paths = Paths::default();
        for job in jobs {
            // One without a way counts as moved.
            let _ = self.find_path(job.id, &mut paths);
        }
        let root = Arc::clone(&self.root);
        let opener: Opener<OpenFile> = Arc::new(move |job| open(&root, paths.path(job.id).as_ref(), job.inode));
        let images = self.pool.read(jobs, steps, &opener);
        test_switches::hit("read");
        images
    }

    fn open(&mut self, job: &ReadJob) -> Result<OpenFile, FileError> {
        open(&self.root, self.path(job.id).map_err(unreadable)?.as_ref(), job.inode)
    }

    fn record(&self, id: FileId) -> Result<Option<Record>, WorldError> {
        Ok(self.catalog.file(id)?.map(to_record))
    }

    fn by_inode(&self, ino: u64) -> Result<Vec<Record>, WorldError> {
        Ok(self.catalog.by_ino(ino)?.into_iter().map(to_record).collect())
    }

    fn children(&self, dir: FileId) -> Result<Vec<(Vec<u8>, FileId)>, WorldError> {
        Ok(self.catalog.children(dir)?.into_iter().map(|child| (child.name, child.id)).collect())
    }

    fn known_in(&self, dir: FileId) -> Result<Vec<(Vec<u8>, Known)>, WorldError> {
        Ok(self.catalog.known_in(dir)?)
    }

    fn others_in(&self, dir: FileId, seen: &mut Vec<Entry>) -> Result<Vec<(Vec<u8>, Known)>, WorldError> {
        Ok(self.catalog.others_in(dir, seen)?)
    }

    fn names_of(&self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>, WorldError> {
        Ok(self.catalog.names_of(id)?)
    }

    fn bind(&mut self, inodes: &[(FileId, InodeId)]) -> Result<(), WorldError> {
        self.bind_files(inodes)
    }

    fn node(&self, (file, level, index): NodeKey) -> Result<Option<Vec<u8>>, WorldError> {
        Ok(self.catalog.node(file, level, index)?)
    }

    fn signature(&self, id: FileId, group: u64) -> Result<Option<Vec<u8>>, WorldError> {
        Ok(self.catalog.sig(id, group)?)
    }

    fn files(&self) -> Result<u64, WorldError> {
        Ok(self.catalog.files()?)
    }

    fn missing(&self) -> Result<Vec<Missing>, WorldError> {
        let rows = self.pending.missing()?;
        Ok(rows.into_iter().map(|row| Missing { parent: row.parent, name: row.name, drain: row.drain }).collect())
    }

    fn next_id(&self) -> Result<u64, WorldError> {
        Ok(self.catalog.next_id()?.0)
    }

    fn head(&self) -> Result<Head, WorldError> {
        let head = self.catalog.head()?;
        Ok(head.map_or(Head::default(), |head| Head {
            seq: head.seq,
            hash: head.hash,
            time: head.time,
            standing: head.standing,
        }))
    }

    fn era_before(&mut self, seq: Seq) -> Result<Option<Hash>, WorldError> {
        Ok(self.writer.era_before(seq)?)
    }

    fn next_attempt(&mut self) -> Result<u32, WorldError> {
        self.look_where_free()?;
        // Before anything is put.
        self.writer.era_before(self.head()?.seq + 1)?;
        Ok(self.catalog.next_attempt()?)
    }

    fn put_pack(&self, at: ObjectRef, bytes: Vec<u8>) -> Result<(), WorldError> {
        Ok(self.writer.put_pack(at, bytes)?)
    }

    fn begin_commit(&mut self, intent: &Intent, change: CatalogChange) -> Result<(), WorldError> {
        let mut files = Vec::with_capacity(change.records.len());
        for record in change.records {
            let handle = self.handle(&record);
            files.push(to_row(self.believed(record), handle));
        }
        let rows = catalog::CatalogChange {
            files,
            names: change.changes.names,
            gone: change.changes.gone,
            nodes: change
                .nodes
                .into_iter()
                .map(|((file, level, idx), blob)| NodeWrite { file, level, idx, blob })
                .collect(),
            sigs: change.signatures.into_iter().map(|((file, group), blob)| SigWrite { file, group, blob }).collect(),
            drop_nodes_of: change.replaced,
            missing: Some(missing_rows(change.missing)),
            next_id: Some(FileId(change.next_id)),
        };
        let intent = catalog::Intent {
            seq: intent.seq,
            commit_id: intent.commit_id,
            hash: intent.hash,
            time: intent.time,
            bytes: intent.bytes.clone(),
        };
        test_switches::hit("before-intent");
        self.catalog.begin_commit(&intent, &rows)?;
        test_switches::hit("intent");
        Ok(())
    }

    fn intent(&self) -> Result<Option<Intent>, WorldError> {
        let Some(catalog::Intent { seq, commit_id, hash, time, bytes }) = self.catalog.intent()? else {
            return Ok(None);
        };
        let standing = commit::peek(&bytes)
            .map_err(|error| WriteError::Object { key: Key::Commit(seq).to_string(), cause: error.to_string() })?
            .standing;
        Ok(Some(Intent { seq, commit_id, hash, time, standing, bytes }))
    }

    fn create_commit(&mut self, seq: Seq, bytes: &[u8]) -> Result<Created, WorldError> {
        self.look_where_free()?;
        Ok(self.writer.create_commit(seq, bytes)?)
    }

    fn read_commit(&mut self, seq: Seq) -> Result<Option<Vec<u8>>, WorldError> {
        Ok(self.writer.read_commit(seq)?)
    }

    fn commit_damaged(&mut self, seq: Seq, cause: &str) {
        let key = Key::Commit(seq).to_string();
        tracing::warn!(key, cause, "the commit came back damaged, it is asked for again");
        self.damaged = Some(format!("what the store gives as {key} is damaged: {cause}"));
    }

    fn era_closed_by_other(&mut self, seq: Seq) -> Result<bool, WorldError> {
        Ok(self.writer.is_closed_by_other(seq)?)
    }

    fn settle(&mut self, head: Head, taken: &[u64], kept: &DirtySet) -> Result<(), WorldError> {
        test_switches::hit("before-settle");
        self.pending.settle(head, taken, kept)?;
        test_switches::hit("settle");
        Ok(())
    }

    fn forget(
        &mut self,
        records: Vec<Record>,
        missing: Vec<Missing>,
        taken: &[u64],
        kept: &DirtySet,
    ) -> Result<(), WorldError> {
        let change = catalog::CatalogChange {
            files: records.into_iter().map(|record| to_row(self.believed(record), None)).collect(),
            missing: Some(missing_rows(missing)),
            ..catalog::CatalogChange::default()
        };
        Ok(self.pending.forget(&change, taken, kept)?)
    }
}

impl VolumeWorld {
    /// Watches all that the catalog knows.
    pub fn watch_all(&mut self) -> Result<(), WorldError> {
        let Some((dispatcher, dev)) = &self.dispatcher else { return Ok(()) };
        let full = &mut self.watch_full;
        self.catalog.each_inodes(|inodes| {
            *full |= dispatcher.watch(*dev, inodes)? != WatchOutcome::Watching;
            Ok(())
        })
    }

    /// Before anything is put into a store that costs nothing to be asked: that the history is there still.
    fn look_where_free(&self) -> Result<(), WorldError> {
        Ok(self.writer.must_have_where_free(self.head()?.seq)?)
    }

    /// Fails where the store lacks what this host has committed.
    pub fn look_for_head(&self) -> Result<(), WorldError> {
        Ok(self.writer.must_have(self.head()?.seq)?)
    }

    /// Closes the era that the head fills, unless a commit is under way.
    pub fn close_era_if_due(&mut self) -> Result<Closing, WorldError> {
        if self.catalog.intent()?.is_some() {
            return Ok(Closing::Done);
        }
        let head = self.head()?;
        Ok(self.writer.close_era_if_due(&head)?)
    }

    /// Files whose reading thread has not come back.
    pub fn stalled(&self) -> usize {
        self.pool.stalled()
    }
}

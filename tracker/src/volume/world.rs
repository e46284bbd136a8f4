//! `engine::flush::World` over the real thing: directories and files of the source, the catalog, the store, the kernel's
//! watch set. Thin: every decision is the engine's.

pub(crate) mod covered;
pub(crate) mod paths;
pub mod pool;
pub(crate) mod presence;
pub(crate) mod timestamp_granularity;
pub(crate) mod unread;
pub mod write_back;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use engine::dirty::DirtySet;
use engine::flush::Steps;
use engine::flush::read::FileImage;
use engine::flush::world::{
    self, Alive, Attributes, CatalogChange, Created, Entry, FileError, Head, Intent, Known, Listed, Missing, Moved,
    NodeKey, ReadJob, Record, World,
};
use engine::format::{EncodeError, Key, commit};
use engine::model::{FileId, Hash, Id, InodeId, ObjectRef, Seq, Time};

use crate::capture::WatchOutcome;
use crate::catalog::{self, Catalog, CatalogError, FileRow, MissingRow, NodeWrite, SigWrite};
use crate::failpoint;
use crate::source::{Foreign, MountTable, Named, OpenFile, SourceError, SourceRoot};
use crate::store::{self, ErrorKind, Store, StoreError};
use crate::volume::marks::dispatcher::{Hub, HubError};
use crate::volume::marks::waiting::{Pending, now_ns};
use crate::volume::world::paths::Ways;
use crate::volume::world::pool::{Opener, Pool};
use crate::volume::world::timestamp_granularity as tick;

/// What ends a flush. Files that cannot be read are not among them.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("pack {key} is in the store with other bytes than were made: they are put under another name")]
    ForeignPack { key: String },
    #[error("no random numbers: {cause}")]
    Random { cause: String },
    #[error("the catalog and a file's content do not fit: {cause}")]
    Plan { cause: String },
    #[error(transparent)]
    Read(#[from] crate::repository::ReadError),
    #[error(
        "the store ({store}) no longer has {key}, though this host has committed to it: nothing is committed until it is back"
    )]
    Lost { key: String, store: String },
    #[error("object {key}: {cause}")]
    Object { key: String, cause: String },
}

fn unreadable(error: impl std::fmt::Display) -> FileError {
    FileError::Unreadable { cause: error.to_string() }
}

/// The real world of one volume.
pub struct VolumeWorld {
    pub root: Arc<SourceRoot>,
    pub catalog: Arc<Catalog>,
    pub pending: Arc<Pending>,
    /// The volume's part of the store.
    pub store: Arc<dyn Store>,
    /// `None` with the scan back end.
    pub hub: Option<(Arc<Hub>, u32)>,
    pub era_length: u64,
    pub epoch: u64,
    pub volume_id: Id,
    /// Files that the catalog does not have yet: parent and name, and inode.
    pub(super) placed: HashMap<FileId, ((FileId, Vec<u8>), InodeId)>,
    /// Files that the running flush has found elsewhere than the catalog has them.
    pub(super) moved: Moved,
    /// What was found by both and by the catalog.
    pub(super) ways: RefCell<Ways>,
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
    /// The last era that this process saw closed as it should be, and the hash of its end.
    pub(crate) era_ended: Option<(u64, Hash)>,
    /// Wall clock before anything of this flush was read.
    began: Time,
}

impl VolumeWorld {
    #[expect(clippy::too_many_arguments, reason = "the parts of one volume, each of its own type")]
    pub fn new(
        root: Arc<SourceRoot>,
        catalog: Arc<Catalog>,
        pending: Arc<Pending>,
        store: Arc<dyn Store>,
        hub: Option<(Arc<Hub>, u32)>,
        era_length: u64,
        epoch: u64,
        volume_id: Id,
    ) -> VolumeWorld {
        let mounts = MountTable::open(root.path()).ok();
        VolumeWorld {
            root,
            catalog,
            pending,
            store,
            hub,
            era_length,
            epoch,
            volume_id,
            placed: HashMap::new(),
            moved: Moved::new(),
            ways: RefCell::default(),
            pool: Pool::new(),
            foreign: BTreeMap::new(),
            mounts,
            foreign_noted: None,
            watch_full: false,
            damaged: None,
            era_ended: None,
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
        let ctime = record.ctime.and_then(|ctime| tick::settled(ctime, self.began));
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

    fn plan_error(error: engine::image::PlanError<WorldError>) -> WorldError {
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
        if let Some((hub, dev)) = &self.hub {
            self.watch_full |= hub.watch(*dev, inodes)? != WatchOutcome::Watching;
        }
        Ok(())
    }

    fn unwatch(&mut self, inodes: &[u64]) -> Result<(), WorldError> {
        if let Some((hub, dev)) = &self.hub {
            hub.unwatch(&self.pending, *dev, inodes)?;
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
        failpoint::hit("names");
        let mut ways = Ways::default();
        for job in jobs {
            // One without a way counts as moved.
            let _ = self.find_way(job.id, &mut ways);
        }
        let root = Arc::clone(&self.root);
        let opener: Opener<OpenFile> = Arc::new(move |job| open(&root, ways.path(job.id).as_ref(), job.inode));
        let images = self.pool.read(jobs, steps, &opener);
        failpoint::hit("read");
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
        crate::repository::era::before(self, seq)
    }

    fn next_attempt(&mut self) -> Result<u32, WorldError> {
        self.look_where_free()?;
        // Before anything is put.
        crate::repository::era::before(self, self.head()?.seq + 1)?;
        Ok(self.catalog.next_attempt()?)
    }

    fn put_pack(&self, at: ObjectRef, bytes: Vec<u8>) -> Result<(), WorldError> {
        let key = engine::flush::commit::key_of(at).to_string();
        match store::create_exact(&*self.store, &key, &Bytes::from(bytes), ATTEMPTS)? {
            store::Settled::Own => {
                failpoint::hit("pack");
                Ok(())
            }
            // The next flush takes another name; whether it is another writer's shows when the commit is made.
            store::Settled::Other(_) => Err(WorldError::ForeignPack { key }),
        }
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
        failpoint::hit("before-intent");
        self.catalog.begin_commit(&intent, &rows)?;
        failpoint::hit("intent");
        Ok(())
    }

    fn intent(&self) -> Result<Option<Intent>, WorldError> {
        let Some(catalog::Intent { seq, commit_id, hash, time, bytes }) = self.catalog.intent()? else {
            return Ok(None);
        };
        let standing = commit::peek(&bytes)
            .map_err(|error| WorldError::Object { key: Key::Commit(seq).to_string(), cause: error.to_string() })?
            .standing;
        Ok(Some(Intent { seq, commit_id, hash, time, standing, bytes }))
    }

    fn create_commit(&mut self, seq: Seq, bytes: &[u8]) -> Result<Created, WorldError> {
        self.look_where_free()?;
        let created = self.store.create(&Key::Commit(seq).to_string(), Bytes::copy_from_slice(bytes));
        failpoint::hit("put");
        match created {
            Ok(store::Created::Yes) => Ok(Created::Yes),
            Ok(store::Created::Exists) => Ok(Created::Exists),
            Err(error) if error.kind == ErrorKind::Unknown => Ok(Created::Unknown),
            Err(error) => Err(error.into()),
        }
    }

    fn read_commit(&mut self, seq: Seq) -> Result<Option<Vec<u8>>, WorldError> {
        match self.store.get(&Key::Commit(seq).to_string()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn commit_damaged(&mut self, seq: Seq, cause: &str) {
        let key = Key::Commit(seq).to_string();
        tracing::warn!(key, cause, "the commit came back damaged, it is asked for again");
        self.damaged = Some(format!("what the store gives as {key} is damaged: {cause}"));
    }

    fn era_closed_by_other(&mut self, seq: Seq) -> Result<bool, WorldError> {
        crate::repository::era::closed_by_other(self, self.volume_id, seq)
    }

    fn settle(&mut self, head: Head, taken: &[u64], kept: &DirtySet) -> Result<(), WorldError> {
        failpoint::hit("before-settle");
        self.pending.settle(head, taken, kept)?;
        failpoint::hit("settle");
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

/// Tries of a pack whose outcome stays unknown.
const ATTEMPTS: u32 = 3;

impl VolumeWorld {
    /// Watches all that the catalog knows.
    pub fn watch_all(&mut self) -> Result<(), WorldError> {
        let Some((hub, dev)) = &self.hub else { return Ok(()) };
        let full = &mut self.watch_full;
        self.catalog.each_inodes(|inodes| {
            *full |= hub.watch(*dev, inodes)? != WatchOutcome::Watching;
            Ok(())
        })
    }

    /// Before anything is put into a store that costs nothing to be asked: that the history is there still.
    fn look_where_free(&self) -> Result<(), WorldError> {
        if self.store.properties().remote { Ok(()) } else { crate::volume::world::presence::look(self) }
    }

    /// Files whose reading thread has not come back.
    pub fn stalled(&self) -> usize {
        self.pool.stalled()
    }
}

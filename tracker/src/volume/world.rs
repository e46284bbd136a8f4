//! `engine::flush::World` over the real thing: directories and files of the source, the catalog, the store, the kernel's
//! watch set. Thin: every decision is the engine's.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use engine::dirty::DirtySet;
use engine::flush::Steps;
use engine::flush::read::FileImage;
use engine::flush::world::{
    Alive, CatalogChange, Created, Entry, FileError, FileOps, Head, Intent, Listed, Missing, NodeKey, ReadJob, Record,
    Stat, World,
};
use engine::format::{EncodeError, Key};
use engine::model::{FileId, InodeId, Meta, ObjectRef, Seq};

use super::hub::{Hub, HubError};
use super::pending::Pending;
use super::pool::{Opener, Pool};
use crate::catalog::{Catalog, CatalogError, FileRow};
use crate::source::{OpenError, OpenFile, SourceError, SourceRoot};
use crate::store::{self, Store, StoreError};

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
    #[error("pack {key} is in the store with other bytes than were made")]
    ForeignPack { key: String },
}

/// One open regular file.
pub struct SourceFile {
    file: OpenFile,
}

impl FileOps for SourceFile {
    fn statx(&mut self) -> Result<Stat, FileError> {
        self.file.stat().map_err(unreadable)
    }

    fn xattrs(&mut self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, FileError> {
        self.file.xattrs().map_err(unreadable)
    }

    fn clean(&mut self) -> Result<(), FileError> {
        self.file.clean().map_err(|error| FileError::WriteBack { cause: error.to_string() })
    }

    fn barrier(&mut self) -> Result<(), FileError> {
        self.file.barrier().map_err(unreadable)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, FileError> {
        self.file.read_at(offset, buffer).map_err(unreadable)
    }

    fn data_ranges(&mut self, start: u64, end: u64) -> Result<Vec<(u64, u64)>, FileError> {
        self.file.data_ranges(start, end).map_err(unreadable)
    }
}

fn unreadable(error: impl std::fmt::Display) -> FileError {
    FileError::Unreadable { cause: error.to_string() }
}

/// Opens by path and makes sure that it is the inode that was meant.
fn open(root: &SourceRoot, path: Option<&PathBuf>, inode: InodeId) -> Result<SourceFile, FileError> {
    let Some(path) = path else { return Err(FileError::Moved) };
    match root.open_file(path, inode) {
        Ok(file) => Ok(SourceFile { file }),
        Err(OpenError::Gone | OpenError::Mismatch { .. }) => Err(FileError::Moved),
        Err(error) => Err(unreadable(error)),
    }
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
    placed: HashMap<FileId, (FileId, Vec<u8>, InodeId)>,
    pool: Pool<SourceFile>,
    /// The watch set was full: every inode of the superblock is recorded now.
    pub watch_full: bool,
}

impl VolumeWorld {
    pub fn new(
        root: Arc<SourceRoot>,
        catalog: Arc<Catalog>,
        pending: Arc<Pending>,
        store: Arc<dyn Store>,
        hub: Option<(Arc<Hub>, u32)>,
        era_length: u64,
        epoch: u64,
    ) -> VolumeWorld {
        VolumeWorld {
            root,
            catalog,
            pending,
            store,
            hub,
            era_length,
            epoch,
            placed: HashMap::new(),
            pool: Pool::new(),
            watch_full: false,
        }
    }

    /// Forgets where new files of the last flush were seen.
    pub fn end_flush(&mut self) {
        self.placed.clear();
        self.pending.clear_fresh();
    }

    /// Path below the source; `None` when no name is known.
    pub fn path(&self, id: FileId) -> Result<Option<PathBuf>, CatalogError> {
        use std::os::unix::ffi::OsStrExt;
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = id;
        while let Some((parent, name, _)) = self.placed.get(&at) {
            names.push(name);
            at = *parent;
        }
        let Some(mut path) = self.catalog.path_of(at)? else { return Ok(None) };
        for name in names.into_iter().rev() {
            path.push(std::ffi::OsStr::from_bytes(name));
        }
        Ok(Some(path))
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
        ctime: row.ctime,
    }
}

impl World for VolumeWorld {
    type Error = WorldError;
    type File = SourceFile;

    fn list(&mut self, dir: FileId) -> Result<Listed, WorldError> {
        let Some(path) = self.path(dir)? else { return Ok(Listed::NotThere) };
        let expect = match self.placed.get(&dir) {
            Some((_, _, inode)) => Some(*inode),
            None => self.catalog.file(dir)?.map(|row| row.inode),
        };
        let Some(expect) = expect else { return Ok(Listed::NotThere) };
        match self.root.list_dir(&path, expect) {
            Ok(entries) => {
                Ok(Listed::Entries(entries.into_iter().map(|(name, stat)| Entry { name, stat }).collect()))
            }
            Err(error) if error.is_gone() => Ok(Listed::NotThere),
            Err(error) => Ok(Listed::Unreadable(error.to_string())),
        }
    }

    fn lookup(&mut self, dir: FileId, name: &[u8]) -> Result<Option<Stat>, WorldError> {
        use std::os::unix::ffi::OsStrExt;
        let Some(path) = self.path(dir)? else { return Ok(None) };
        Ok(self.root.stat(&path.join(std::ffi::OsStr::from_bytes(name)))?)
    }

    fn stat(&mut self, id: FileId) -> Result<Option<Stat>, WorldError> {
        match self.path(id)? {
            Some(path) => Ok(self.root.stat(&path)?),
            None => Ok(None),
        }
    }

    fn alive(&mut self, id: FileId) -> Result<Alive, WorldError> {
        let Some(handle) = self.catalog.file(id)?.and_then(|row| row.handle) else { return Ok(Alive::Unknown) };
        Ok(self.root.alive(&handle))
    }

    fn watch(&mut self, inodes: &[u64]) -> Result<(), WorldError> {
        if inodes.is_empty() {
            return Ok(());
        }
        self.pending.add_fresh(inodes);
        if let Some((hub, dev)) = &self.hub {
            self.watch_full |= hub.watch(*dev, inodes)?.is_full();
        }
        Ok(())
    }

    fn unwatch(&mut self, inodes: &[u64]) -> Result<(), WorldError> {
        if let Some((hub, dev)) = &self.hub {
            hub.unwatch(*dev, inodes)?;
        }
        Ok(())
    }

    fn place(&mut self, id: FileId, parent: FileId, name: &[u8], inode: InodeId) {
        self.placed.insert(id, (parent, name.to_vec(), inode));
    }

    fn meta_of(&mut self, id: FileId, stat: &Stat) -> Result<Meta, FileError> {
        let path = self.path(id).map_err(unreadable)?.ok_or(FileError::Moved)?;
        self.root.meta(&path, stat).map_err(unreadable)
    }

    fn read_files(&mut self, jobs: &[ReadJob], steps: Steps) -> Vec<Result<FileImage, FileError>> {
        let mut paths: HashMap<FileId, PathBuf> = HashMap::new();
        for job in jobs {
            if let Ok(Some(path)) = self.path(job.id) {
                paths.insert(job.id, path);
            }
        }
        let root = Arc::clone(&self.root);
        let opener: Opener<SourceFile> = Arc::new(move |job| open(&root, paths.get(&job.id), job.inode));
        self.pool.read(jobs, steps, &opener)
    }

    fn open(&mut self, job: &ReadJob) -> Result<SourceFile, FileError> {
        let path = self.path(job.id).map_err(unreadable)?;
        open(&self.root, path.as_ref(), job.inode)
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

    fn names_of(&self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>, WorldError> {
        Ok(self.catalog.names_of(id)?)
    }

    fn node(&self, (file, level, index): NodeKey) -> Result<Option<Vec<u8>>, WorldError> {
        Ok(self.catalog.node(file, level, index)?)
    }

    fn signature(&self, id: FileId, group: u64) -> Result<Option<Vec<u8>>, WorldError> {
        Ok(self.catalog.sig(id, group)?)
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
        Ok(head.map_or(Head::default(), |head| Head { seq: head.seq, hash: head.hash, time: head.time }))
    }

    fn next_attempt(&mut self) -> Result<u32, WorldError> {
        Ok(self.catalog.next_attempt()?)
    }

    fn put_pack(&mut self, at: ObjectRef, bytes: Vec<u8>) -> Result<(), WorldError> {
        let key = engine::flush::commit::key_of(at).to_string();
        store::retry(|| match self.store.create(&key, &bytes)? {
            store::Created::Yes => Ok(()),
            // A lost reply of our own try: the same bytes.
            store::Created::Exists if self.store.get(&key)? == bytes => Ok(()),
            store::Created::Exists => Err(WorldError::ForeignPack { key: key.clone() }),
        })
    }

    fn begin_commit(&mut self, intent: &Intent, change: CatalogChange) -> Result<(), WorldError> {
        let handles = self.handles(&change);
        Ok(self.catalog.begin_commit(intent, &change, &handles)?)
    }

    fn intent(&self) -> Result<Option<Intent>, WorldError> {
        Ok(self.catalog.intent()?)
    }

    fn create_commit(&mut self, seq: Seq, bytes: &[u8]) -> Result<Created, WorldError> {
        match self.store.create(&Key::Commit(seq).to_string(), bytes) {
            Ok(store::Created::Yes) => Ok(Created::Yes),
            Ok(store::Created::Exists) => Ok(Created::Exists),
            Err(error) if error.may_have_taken_effect() => Ok(Created::Unknown),
            Err(error) => Err(error.into()),
        }
    }

    fn read_commit(&mut self, seq: Seq) -> Result<Option<Vec<u8>>, WorldError> {
        match self.store.get(&Key::Commit(seq).to_string()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn era_closed_by_other(&mut self, seq: Seq) -> Result<bool, WorldError> {
        super::era::closed_by_other(self, seq)
    }

    fn settle(&mut self, head: Head, taken: &[u64], kept: &DirtySet) -> Result<(), WorldError> {
        Ok(self.pending.settle(head, taken, kept)?)
    }

    fn forget(
        &mut self,
        records: Vec<Record>,
        missing: Vec<Missing>,
        taken: &[u64],
        kept: &DirtySet,
    ) -> Result<(), WorldError> {
        self.catalog.update_records(&records, &missing)?;
        Ok(self.pending.forget(taken, kept)?)
    }
}

impl VolumeWorld {
    /// File handles of files that get a record for the first time; they prove later that an inode is gone.
    fn handles(&self, change: &CatalogChange) -> HashMap<FileId, Vec<u8>> {
        let mut handles = HashMap::new();
        for record in &change.records {
            if !self.placed.contains_key(&record.id) {
                continue;
            }
            if let Ok(Some(path)) = self.path(record.id) {
                if let Some(handle) = self.root.handle(&path, record.inode) {
                    handles.insert(record.id, handle);
                }
            }
        }
        handles
    }
}

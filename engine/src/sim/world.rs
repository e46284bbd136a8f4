//! `World` over the model: every call lets applications move a little, and may be the daemon's last.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::files::{Files, ROOT};
use super::open::{Inner, SimFile};
use super::places::{Opened, is_in_tree};
use super::rival::Rival;
use crate::dirty::{DirtySet, Marks};
use crate::flush::Steps;
use crate::flush::read::{FileImage, read_file};
use crate::flush::world::*;
use crate::format::{EncodeError, Key};
use crate::model::{FileId, InodeId, Kind, Meta, ObjectRef, Seq};

#[derive(Debug, thiserror::Error)]
pub(super) enum SimError {
    #[error("the daemon died")]
    Crash,
    #[error("the store refused")]
    Store,
    #[error("a pack was put twice with different bytes: {0}")]
    Pack(String),
    #[error("{0}")]
    Tree(String),
    #[error("content of {0} was read by another name than it is committed under")]
    Elsewhere(FileId),
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// What the catalog holds: survives the daemon.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    pub(super) records: BTreeMap<FileId, Record>,
    pub(super) names: BTreeMap<(FileId, Vec<u8>), FileId>,
    nodes: BTreeMap<NodeKey, Vec<u8>>,
    signatures: BTreeMap<(FileId, u64), Vec<u8>>,
    pub(super) pending: BTreeMap<u64, Marks>,
    missing: Vec<Missing>,
    intent: Option<Intent>,
    next_id: u64,
    pub(super) head: Head,
    attempts: u32,
}

pub(super) struct SimWorld {
    pub(super) inner: Rc<RefCell<Inner>>,
    pub(super) catalog: Catalog,
    pub(super) store: BTreeMap<String, Vec<u8>>,
    pub(super) packs: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Creations that will take effect some time later, if nothing is there by then.
    delayed: Vec<(String, Vec<u8>)>,
    placed: BTreeMap<FileId, (FileId, Vec<u8>, InodeId)>,
    moved: Moved,
    pub(super) opened: RefCell<Opened>,
    /// The kernel tells the path of a living inode.
    tells_paths: bool,
    pub(super) rival: Option<Rival>,
    /// What is read of the store may come back damaged.
    pub(super) damages: bool,
}

impl SimWorld {
    pub(super) fn new(seed: u64) -> SimWorld {
        let mut files = Files::new(seed);
        files.kernel.watch.insert(ROOT);
        let stat = files.stat(ROOT);
        let mut catalog = Catalog { next_id: 2, ..Catalog::default() };
        if let Some(stat) = stat {
            let meta = meta(&Stat { mode: 0, ..stat.clone() });
            let record = Record {
                id: FileId::ROOT,
                inode: stat.inode,
                meta,
                size: 0,
                root: None,
                hole_bytes: 0,
                signed: false,
                ctime: None,
            };
            catalog.records.insert(FileId::ROOT, record);
            catalog.pending.insert(ROOT, Marks::names());
        }
        let inner = Rc::new(RefCell::new(Inner {
            files,
            dies_in: None,
            dead: false,
            quiet: false,
            unreadable: BTreeSet::new(),
            asked: 0,
        }));
        SimWorld {
            inner,
            catalog,
            store: BTreeMap::new(),
            packs: RefCell::default(),
            delayed: Vec::new(),
            placed: BTreeMap::new(),
            moved: Moved::new(),
            opened: RefCell::default(),
            tells_paths: seed.is_multiple_of(2),
            rival: None,
            damages: seed % 5 == 3,
        }
    }

    pub(super) fn step(&mut self) -> Result<(), SimError> {
        if !self.delayed.is_empty() && self.inner.borrow_mut().files.rng.one_in(6) {
            let (key, bytes) = self.delayed.remove(0);
            self.store.entry(key).or_insert(bytes);
        }
        if self.inner.borrow_mut().step() { Ok(()) } else { Err(SimError::Crash) }
    }

    /// The daemon starts again: what it held in memory is gone.
    pub(super) fn restart(&mut self) {
        let mut inner = self.inner.borrow_mut();
        inner.dead = false;
        inner.dies_in = None;
        drop(inner);
        self.placed.clear();
        self.moved.clear();
    }

    /// Faults and applications end; creations under way arrive.
    pub(super) fn calm(&mut self) {
        self.inner.borrow_mut().quiet = true;
        self.inner.borrow_mut().files.quiesce();
        for (key, bytes) in std::mem::take(&mut self.delayed) {
            self.store.entry(key).or_insert(bytes);
        }
    }

    /// Follows names as a path walk does: through what is there now.
    pub(super) fn resolve(&self, id: FileId) -> Option<u64> {
        self.path_of(id).and_then(|path| self.walk(&path))
    }

    /// Where the flush looks for a file: as it is committed, or as this flush has seen it, from the root downwards.
    fn path_of(&self, id: FileId) -> Option<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let mut at = id;
        while at != FileId::ROOT {
            let seen = self.moved.get(&at).cloned();
            let seen = seen.or_else(|| self.placed.get(&at).map(|(parent, name, _)| (*parent, name.clone())));
            let (parent, name) = match seen {
                Some(place) => place,
                None => self.catalog.names.iter().find(|(_, id)| **id == at).map(|(place, _)| place.clone())?,
            };
            names.push(name);
            at = parent;
            if names.len() > 1000 {
                return None;
            }
        }
        names.reverse();
        Some(names)
    }

    fn walk(&self, path: &[Vec<u8>]) -> Option<u64> {
        let inner = self.inner.borrow();
        let mut ino = ROOT;
        for name in path {
            ino = inner.files.inodes.get(&ino)?.entries.iter().find(|(n, _)| n == name).map(|(_, ino)| *ino)?;
        }
        Some(ino)
    }

    /// The inode of a directory, if it still is what its path leads to.
    fn directory(&self, id: FileId) -> Option<u64> {
        let ino = self.resolve(id)?;
        let record = self.catalog.records.get(&id).map(|record| record.inode);
        let known = record.or(self.placed.get(&id).map(|(_, _, inode)| *inode));
        let stat = self.inner.borrow().files.stat(ino)?;
        (stat.kind == Kind::Dir && Some(stat.inode) == known).then_some(ino)
    }

    fn open_at(&self, id: FileId, inode: InodeId) -> Result<SimFile, FileError> {
        let path = self.path_of(id).ok_or(FileError::Moved)?;
        let ino = self.walk(&path).ok_or(FileError::Moved)?;
        let stat = self.inner.borrow().files.stat(ino).ok_or(FileError::Moved)?;
        if stat.inode != inode {
            return Err(FileError::Moved);
        }
        if self.inner.borrow().unreadable.contains(&ino) {
            return Err(FileError::Unreadable { cause: "it was made so".into() });
        }
        self.opened.borrow_mut().add(id, path);
        Ok(SimFile { inner: Rc::clone(&self.inner), ino })
    }
}

pub(super) fn meta(stat: &Stat) -> Meta {
    Meta {
        kind: stat.kind,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        rdev: stat.rdev,
        target: Vec::new(),
        xattrs: Vec::new(),
        flags: 0,
        project: 0,
    }
}

impl DrainWorld for SimWorld {
    type Error = SimError;

    fn swap(&mut self) -> Result<(), SimError> {
        self.step()?;
        self.opened.take();
        self.inner.borrow_mut().files.kernel.swap();
        Ok(())
    }

    fn grace(&mut self) -> Result<(), SimError> {
        self.step()?;
        self.inner.borrow_mut().files.kernel.grace();
        Ok(())
    }

    fn save_retired(&mut self) -> Result<(), SimError> {
        self.step()?;
        for (ino, marks) in self.inner.borrow().files.kernel.retired() {
            self.catalog.pending.entry(ino).or_default().merge(&marks);
        }
        Ok(())
    }

    fn clear_retired(&mut self) -> Result<(), SimError> {
        self.step()?;
        self.inner.borrow_mut().files.kernel.clear_retired();
        Ok(())
    }
}

impl World for SimWorld {
    type Error = SimError;
    type File = SimFile;

    fn plan_error(error: crate::image::ImageError<SimError>) -> SimError {
        SimError::Tree(error.to_string())
    }

    fn list(&mut self, dir: FileId) -> Result<Listed, SimError> {
        self.step()?;
        let Some(ino) = self.directory(dir) else { return Ok(Listed::NotThere) };
        // Two halves of one pass; names that move across the border between them are missed, or seen twice.
        let half = self.inner.borrow().files.inodes.get(&ino).map_or(0, |inode| inode.entries.len() / 2);
        let mut seen = Vec::new();
        let take = |world: &SimWorld, from: usize, to: usize, seen: &mut Vec<Entry>| {
            let inner = world.inner.borrow();
            let Some(inode) = inner.files.inodes.get(&ino) else { return };
            for (name, child) in inode.entries.iter().take(to).skip(from) {
                if let Some(stat) = inner.files.stat(*child) {
                    seen.push(Entry { name: name.clone(), stat });
                }
            }
        };
        take(self, 0, half, &mut seen);
        self.step()?;
        take(self, half, usize::MAX, &mut seen);
        let mut latest: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        let mut order = Vec::new();
        for entry in seen {
            if latest.insert(entry.name.clone(), entry.clone()).is_none() {
                order.push(entry.name);
            }
        }
        Ok(Listed::Entries(order.iter().filter_map(|name| latest.get(name).cloned()).collect()))
    }

    fn lookup(&mut self, dir: FileId, name: &[u8]) -> Result<Named, SimError> {
        self.step()?;
        let Some(ino) = self.directory(dir) else { return Ok(Named::NoDirectory) };
        let inner = self.inner.borrow();
        let child =
            inner.files.inodes.get(&ino).and_then(|i| i.entries.iter().find(|(n, _)| n == name).map(|(_, c)| *c));
        Ok(child.and_then(|child| inner.files.stat(child)).map_or(Named::Nothing, Named::Entry))
    }

    fn alive(&mut self, id: FileId) -> Result<Alive, SimError> {
        self.step()?;
        let record = self.catalog.records.get(&id).filter(|_| self.has_generations());
        let Some(record) = record else { return Ok(Alive::Unknown) };
        let inner = self.inner.borrow();
        let Some(now) = inner.files.stat(record.inode.ino).filter(|stat| stat.inode == record.inode) else {
            return Ok(Alive::Gone);
        };
        let single = (now.kind == Kind::Dir || now.nlink == 1)
            && self.catalog.names.values().filter(|named| **named == id).count() == 1;
        let inside = self.tells_paths && single && is_in_tree(&inner.files, record.inode.ino);
        Ok(if inside { Alive::Inside } else { Alive::Yes })
    }

    fn watch(&mut self, inodes: &[u64]) -> Result<(), SimError> {
        self.step()?;
        self.inner.borrow_mut().files.kernel.watch.extend(inodes);
        Ok(())
    }

    fn unwatch(&mut self, inodes: &[u64]) -> Result<(), SimError> {
        for ino in inodes {
            self.inner.borrow_mut().files.kernel.watch.remove(ino);
        }
        Ok(())
    }

    fn place(&mut self, id: FileId, parent: FileId, name: &[u8], inode: InodeId) {
        self.placed.insert(id, (parent, name.to_vec(), inode));
    }

    fn moved(&mut self, places: &Moved) {
        self.moved.clone_from(places);
    }

    fn attributes(&mut self, id: FileId, inode: InodeId) -> Result<Attributes, FileError> {
        self.attributes_now(id, inode)
    }

    fn read_files(&mut self, jobs: &[ReadJob], steps: Steps) -> Vec<Result<FileImage, FileError>> {
        jobs.iter()
            .map(|job| self.open_at(job.id, job.inode).and_then(|mut file| read_file(&mut file, job, steps)))
            .collect()
    }

    fn open(&mut self, job: &ReadJob) -> Result<SimFile, FileError> {
        self.open_at(job.id, job.inode)
    }

    fn record(&self, id: FileId) -> Result<Option<Record>, SimError> {
        Ok(self.catalog.records.get(&id).cloned())
    }

    fn by_inode(&self, ino: u64) -> Result<Vec<Record>, SimError> {
        self.inner.borrow_mut().asked += 1;
        Ok(self.catalog.records.values().filter(|record| record.inode.ino == ino).cloned().collect())
    }

    fn children(&self, dir: FileId) -> Result<Vec<(Vec<u8>, FileId)>, SimError> {
        Ok(self.catalog.names.iter().filter(|((p, _), _)| *p == dir).map(|((_, n), id)| (n.clone(), *id)).collect())
    }

    fn names_of(&self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>, SimError> {
        Ok(self.catalog.names.iter().filter(|(_, i)| **i == id).map(|(place, _)| place.clone()).collect())
    }

    fn bind(&mut self, inodes: &[(FileId, InodeId)]) -> Result<(), SimError> {
        self.bind_files(inodes)
    }

    fn node(&self, key: NodeKey) -> Result<Option<Vec<u8>>, SimError> {
        Ok(self.catalog.nodes.get(&key).cloned())
    }

    fn signature(&self, id: FileId, group: u64) -> Result<Option<Vec<u8>>, SimError> {
        Ok(self.catalog.signatures.get(&(id, group)).cloned())
    }

    fn files(&self) -> Result<u64, SimError> {
        Ok(self.catalog.records.values().filter(|record| record.meta.kind != Kind::Dir).count() as u64)
    }

    fn missing(&self) -> Result<Vec<Missing>, SimError> {
        Ok(self.catalog.missing.clone())
    }

    fn next_id(&self) -> Result<u64, SimError> {
        Ok(self.catalog.next_id)
    }

    fn head(&self) -> Result<Head, SimError> {
        Ok(self.catalog.head)
    }

    fn next_attempt(&mut self) -> Result<u32, SimError> {
        self.catalog.attempts += 1;
        Ok(self.catalog.attempts * 16)
    }

    fn put_pack(&self, at: ObjectRef, bytes: Vec<u8>) -> Result<(), SimError> {
        if !self.inner.borrow_mut().step() {
            return Err(SimError::Crash);
        }
        let key = crate::flush::commit::key_of(at).to_string();
        let mut packs = self.packs.borrow_mut();
        match packs.get(&key) {
            Some(there) if *there != bytes => Err(SimError::Pack(key)),
            _ => {
                packs.insert(key, bytes);
                Ok(())
            }
        }
    }

    fn begin_commit(&mut self, intent: &Intent, change: CatalogChange) -> Result<(), SimError> {
        self.step()?;
        let catalog = &mut self.catalog;
        for id in change.replaced.iter().chain(&change.changes.gone) {
            catalog.nodes.retain(|(file, _, _), _| file != id);
            catalog.signatures.retain(|(file, _), _| file != id);
        }
        for (key, blob) in change.nodes {
            match blob {
                Some(blob) => catalog.nodes.insert(key, blob),
                None => catalog.nodes.remove(&key),
            };
        }
        for (key, blob) in change.signatures {
            match blob {
                Some(blob) => catalog.signatures.insert(key, blob),
                None => catalog.signatures.remove(&key),
            };
        }
        for record in change.records {
            catalog.records.insert(record.id, record);
        }
        crate::flush::apply_names(&mut catalog.names, &change.changes.names);
        if let Some(id) = self.opened.borrow().elsewhere(&change.changes, &catalog.names) {
            return Err(SimError::Elsewhere(id));
        }
        for id in &change.changes.gone {
            catalog.records.remove(id);
        }
        catalog.missing = change.missing;
        catalog.next_id = change.next_id;
        catalog.intent = Some(intent.clone());
        self.step()
    }

    fn intent(&self) -> Result<Option<Intent>, SimError> {
        Ok(self.catalog.intent.clone())
    }

    fn create_commit(&mut self, seq: Seq, bytes: &[u8]) -> Result<Created, SimError> {
        self.step()?;
        let key = Key::Commit(seq).to_string();
        self.rival_commits(seq);
        if self.lucky(8) {
            return Err(SimError::Store);
        }
        if self.lucky(5) {
            self.delayed.push((key, bytes.to_vec()));
            return Ok(Created::Unknown);
        }
        if self.lucky(8) {
            return Ok(Created::Unknown);
        }
        if self.store.contains_key(&key) {
            return Ok(Created::Exists);
        }
        self.store.insert(key, bytes.to_vec());
        let lost = self.lucky(5);
        self.step()?;
        Ok(if lost { Created::Unknown } else { Created::Yes })
    }

    fn read_commit(&mut self, seq: Seq) -> Result<Option<Vec<u8>>, SimError> {
        self.step()?;
        Ok(self.read_back(&Key::Commit(seq).to_string()))
    }

    fn era_closed_by_other(&mut self, _: Seq) -> Result<bool, SimError> {
        Ok(false)
    }

    fn settle(&mut self, head: Head, taken: &[u64], kept: &DirtySet) -> Result<(), SimError> {
        self.step()?;
        self.catalog.head = head;
        self.catalog.intent = None;
        self.forget_pending(taken, kept);
        self.step()
    }

    fn forget(
        &mut self,
        records: Vec<Record>,
        missing: Vec<Missing>,
        taken: &[u64],
        kept: &DirtySet,
    ) -> Result<(), SimError> {
        self.step()?;
        for record in records {
            self.catalog.records.insert(record.id, record);
        }
        self.catalog.missing = missing;
        self.forget_pending(taken, kept);
        self.step()
    }
}

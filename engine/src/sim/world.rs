//! The model as the flush sees it: at every call applications do a little, and the daemon may die.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::files::{Files, ROOT};
use super::open::{Inner, SimFile};
use super::places::Opened;
use super::rival::Rival;
use crate::catalog::{Head, Intent, Missing, NodeKey, Record};
use crate::dirty::Marks;
use crate::flush::world::{Fails, Moved};
use crate::format::EncodeError;
use crate::image::ImageError;
use crate::model::{FileId, Ino, InodeId, Kind, Meta, Seq};
use crate::source::{FileError, Stat};

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
    pub(super) nodes: BTreeMap<NodeKey, Vec<u8>>,
    pub(super) signatures: BTreeMap<(FileId, u64), Vec<u8>>,
    pub(super) pending: BTreeMap<Ino, Marks>,
    pub(super) missing: Vec<Missing>,
    pub(super) intent: Option<Intent>,
    pub(super) next_id: FileId,
    pub(super) head: Head,
    pub(super) attempts: u32,
}

pub(super) struct SimWorld {
    pub(super) inner: Rc<RefCell<Inner>>,
    pub(super) catalog: Catalog,
    pub(super) store: BTreeMap<String, Vec<u8>>,
    pub(super) packs: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Creations that will take effect later, if the key is still free then.
    pub(super) delayed: Vec<(String, Vec<u8>)>,
    pub(super) placed: BTreeMap<FileId, (FileId, Vec<u8>, InodeId)>,
    pub(super) moved: Moved,
    pub(super) opened: RefCell<Opened>,
    /// Whether the kernel can tell the path of an existing inode.
    pub(super) tells_paths: bool,
    pub(super) rival: Option<Rival>,
    /// Whether what is read from the store may be damaged.
    pub(super) damages: bool,
    /// The files at the last count of changes.
    pub(super) at_count: Option<Box<Files>>,
    /// What commits that say they are of one instant claim to be.
    pub(super) claims: BTreeMap<Seq, Box<Files>>,
    /// How many of them were what they claimed.
    pub(super) instants: u64,
    /// Whether writers may be paused, and how many commits of one instant have paused them.
    pub(super) pauses: bool,
    pub(super) paused_instants: u64,
}

impl SimWorld {
    pub(super) fn new(seed: u64) -> SimWorld {
        let mut files = Files::new(seed);
        files.kernel.watch.insert(ROOT);
        let stat = files.stat(ROOT);
        let mut catalog = Catalog { next_id: FileId(2), ..Catalog::default() };
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
            calm: 0,
            paused: None,
            unarmed: false,
            cleans_only_mapped: false,
            unseen: false,
            only_unseen: false,
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
            at_count: None,
            claims: BTreeMap::new(),
            instants: 0,
            pauses: false,
            paused_instants: 0,
        }
    }

    pub(super) fn step(&mut self) -> Result<(), SimError> {
        if !self.delayed.is_empty() && self.inner.borrow_mut().files.rng.one_in(6) {
            let (key, bytes) = self.delayed.remove(0);
            self.store.entry(key).or_insert(bytes);
        }
        let committed = self.catalog.records.values().map(|record| (record.inode.ino, record.inode.generation));
        self.inner.borrow_mut().files.set_committed(committed.collect());
        if self.inner.borrow_mut().step() { Ok(()) } else { Err(SimError::Crash) }
    }

    /// Restarts the daemon: what it held in memory is lost.
    pub(super) fn restart(&mut self) {
        let mut inner = self.inner.borrow_mut();
        inner.dead = false;
        inner.dies_in = None;
        // Whoever watches over a pause ends it when the daemon dies.
        inner.paused = None;
        drop(inner);
        self.forget_places();
    }

    /// Forgets what a flush saw, as the daemon does after each.
    pub(super) fn forget_places(&mut self) {
        self.placed.clear();
        self.moved.clear();
    }

    /// Ends faults and applications; creations under way arrive.
    pub(super) fn calm(&mut self) {
        self.inner.borrow_mut().quiet = true;
        self.inner.borrow_mut().files.quiesce();
        for (key, bytes) in std::mem::take(&mut self.delayed) {
            self.store.entry(key).or_insert(bytes);
        }
    }

    /// Follows names as a path walk does, through the present tree.
    pub(super) fn resolve(&self, id: FileId) -> Option<Ino> {
        self.path_of(id).and_then(|path| self.walk(&path))
    }

    /// The path at which the flush looks for a file: as committed, or as this flush has seen it, from the root downwards.
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

    fn walk(&self, path: &[Vec<u8>]) -> Option<Ino> {
        let inner = self.inner.borrow();
        let mut ino = ROOT;
        for name in path {
            ino = inner.files.inodes.get(&ino)?.entries.iter().find(|(n, _)| n == name).map(|(_, ino)| *ino)?;
        }
        Some(ino)
    }

    /// The inode of a directory, if its path still leads to it.
    pub(super) fn directory(&self, id: FileId) -> Option<Ino> {
        let ino = self.resolve(id)?;
        let record = self.catalog.records.get(&id).map(|record| record.inode);
        let known = record.or(self.placed.get(&id).map(|(_, _, inode)| *inode));
        let stat = self.inner.borrow().files.stat(ino)?;
        (stat.kind == Kind::Dir && Some(stat.inode) == known).then_some(ino)
    }

    pub(super) fn open_at(&self, id: FileId, inode: InodeId) -> Result<SimFile, FileError> {
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
        Ok(SimFile { inner: Rc::clone(&self.inner), ino, direct: false })
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

impl Fails for SimWorld {
    type Error = SimError;

    fn plan_error(error: ImageError<SimError>) -> SimError {
        SimError::Tree(error.to_string())
    }
}

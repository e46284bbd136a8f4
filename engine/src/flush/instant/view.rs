//! The tree as one instant had it: what was read of it is kept, and asked for again only where it changed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::overlay::lay_over;
use crate::dirty::{DirtySet, Marks};
use crate::flush::read;
use crate::flush::steps::Steps;
use crate::flush::world::{Count, Live, World};
use crate::model::{FileId, Ino, InodeId};
use crate::source::{Alive, Attributes, Exactly, FileError, FileImage, FileOps, Listed, Named, Part, ReadJob, Stat};
use crate::xattrs::ReadXattrs;

/// Files that are kept open to be read once more. Others are opened each time.
const OPEN_MAX: usize = 256;

/// What was read of one file.
pub(super) struct Held {
    /// The id is that of the last look; its marks are what was read.
    pub(super) job: ReadJob,
    pub(super) image: FileImage,
    /// What changed since, or may have.
    pub(super) stale: Marks,
}

/// A world whose tree is asked once about each thing. Everything is kept by inode: a new file can have another id in each look.
pub(in crate::flush) struct View<'w, W: World> {
    pub(super) world: &'w mut W,
    steps: Steps,
    pub(super) listings: BTreeMap<InodeId, Listed>,
    /// Directories that were not where they were looked for last. Within one look they may be found elsewhere yet.
    pub(super) nowhere: BTreeSet<InodeId>,
    pub(super) named: HashMap<(InodeId, Vec<u8>), Named>,
    pub(super) alive: HashMap<InodeId, Alive>,
    pub(super) attributes: BTreeMap<InodeId, Attributes>,
    held: BTreeMap<InodeId, Held>,
    open: BTreeMap<InodeId, W::File>,
    /// Inodes of files that the catalog does not have yet.
    pub(super) placed: HashMap<FileId, InodeId>,
    /// All that was watched by this flush.
    pub(in crate::flush) watched: BTreeSet<Ino>,
    /// The last look found everything that it looked for.
    pub(super) complete: bool,
    /// Some directory was not where it was looked for, or could not be read.
    pub(super) unsteady: bool,
    /// What is decided counts only if nothing changed meanwhile.
    pub(super) of_one_moment: bool,
    /// .. and something was decided by that.
    pub(super) moment_decided: Cell<bool>,
    /// Nothing is to be asked of the tree any more.
    pub(super) sealed: bool,
    /// .. and something was.
    told: &'w Told,
}

/// What a view tells whoever made it.
#[derive(Debug, Default)]
pub(in crate::flush) struct Told {
    /// Something had to be asked of the tree that was not held.
    pub(in crate::flush) asked: Cell<bool>,
    /// Errors of write-back. The kernel reports each of them once, so reading again finds none.
    pub(in crate::flush) write_back: RefCell<Vec<(FileId, FileError)>>,
}

impl<'w, W: World> View<'w, W> {
    pub(super) fn new(world: &'w mut W, steps: Steps, told: &'w Told) -> View<'w, W> {
        View {
            world,
            steps,
            listings: BTreeMap::new(),
            nowhere: BTreeSet::new(),
            named: HashMap::new(),
            alive: HashMap::new(),
            attributes: BTreeMap::new(),
            held: BTreeMap::new(),
            open: BTreeMap::new(),
            placed: HashMap::new(),
            watched: BTreeSet::new(),
            complete: false,
            unsteady: false,
            of_one_moment: true,
            moment_decided: Cell::new(false),
            sealed: false,
            told,
        }
    }

    /// From now on a flush is to find everything here.
    pub(super) fn seal(&mut self) {
        self.sealed = true;
        self.open.clear();
    }

    /// The tree is asked.
    pub(super) fn ask(&mut self) {
        if self.sealed {
            self.told.asked.set(true);
        }
    }

    /// Whether it was after `seal`.
    pub(super) fn was_asked(&self) -> bool {
        self.told.asked.get()
    }

    /// Keeps what reading a file may tell only once.
    pub(super) fn note<T>(&self, id: FileId, read: Result<T, FileError>) -> Result<T, FileError> {
        if let Err(error @ FileError::WriteBack { .. }) = &read {
            self.told.write_back.borrow_mut().push((id, error.clone()));
        }
        read
    }

    /// The inode that a file has in the catalog, or was placed with.
    pub(super) fn inode_of(&self, id: FileId) -> Result<Option<InodeId>, W::Error> {
        if let Some(inode) = self.placed.get(&id) {
            return Ok(Some(*inode));
        }
        Ok(self.world.record(id)?.map(|record| record.inode))
    }

    /// Bytes that are held.
    pub(super) fn bytes(&self) -> u64 {
        let parts = self.held.values().flat_map(|held| &held.image.parts);
        parts.map(|part| if let Part::Bytes { bytes, .. } = part { bytes.len() as u64 } else { 0 }).sum()
    }

    /// Notes what changed since it was read.
    pub(super) fn outdate(&mut self, live: &Live) {
        if live.marks.iter().any(|(_, waiting)| waiting.marks.names) {
            // Names, and how many a file has, hang together over all directories.
            self.listings.clear();
            self.nowhere.clear();
            self.named.clear();
            self.alive.clear();
        }
        for (ino, waiting) in live.newer.iter() {
            self.attributes.retain(|inode, _| inode.ino != ino);
            for held in of_number(&mut self.held, ino) {
                let before = &held.job.marks;
                // A block that is marked since an earlier look may have been written to again.
                if self.steps.read_again || !covers(before, &waiting.marks) {
                    held.stale.merge(&waiting.marks);
                }
            }
        }
    }

    /// Whether `marks` change nothing but content and attributes of files that are held.
    pub(super) fn holds_all(&self, marks: &DirtySet) -> bool {
        marks.iter().all(|(ino, waiting)| {
            !waiting.marks.names && !waiting.marks.all_content() && number(&self.held, ino).next().is_some()
        })
    }

    /// Reads again what is stale of all files that are held. Ends with `Late` when something has changed since the count `before`.
    pub(super) fn read_stale(&mut self, before: Option<Count>) -> Result<(), FileError> {
        let stale: Vec<InodeId> =
            self.held.iter().filter(|(_, held)| !held.stale.is_empty()).map(|(inode, _)| *inode).collect();
        for inode in stale {
            if self.world.is_late() {
                return Err(FileError::Late);
            }
            self.read_one_again(inode, before)?;
        }
        Ok(())
    }

    fn read_one_again(&mut self, inode: InodeId, before: Option<Count>) -> Result<(), FileError> {
        let Some(id) = self.held.get(&inode).map(|held| held.job.id) else { return Ok(()) };
        let read = self.lay_newer_over(inode, before);
        self.note(id, read)
    }

    fn lay_newer_over(&mut self, inode: InodeId, before: Option<Count>) -> Result<(), FileError> {
        self.ask();
        let Some(held) = self.held.get_mut(&inode) else { return Ok(()) };
        let mut job = ReadJob { marks: held.stale.clone(), committed_size: Some(held.image.size), ..held.job.clone() };
        // What the file has grown by since is read, marked or not: what is committed there may have been cut off before.
        job.marks.from = Some(job.marks.from.unwrap_or(u64::MAX).min(held.image.size));
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&inode) {
            self.open.clear();
        }
        let file = match self.open.entry(inode) {
            std::collections::btree_map::Entry::Occupied(file) => file.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => place.insert(self.world.open(&job)?),
        };
        let stat = file.statx()?;
        let clean = self.steps.clean_mapped && self.world.is_mapped(file);
        let world = &mut *self.world;
        let has_changed = || before.is_some_and(|before| world.count().is_ok_and(|now| now.changes != before.changes));
        let newer = read::read_again(&mut UntilChange { file, has_changed }, &job, stat, clean, self.steps)?;
        if newer.short {
            return Err(FileError::Unsteady { times: 1 });
        }
        held.job.marks.merge(&held.stale);
        held.stale = Marks::default();
        lay_over(&mut held.image, newer);
        Ok(())
    }

    /// What is held of a file, if it answers `job`.
    pub(super) fn answer(&mut self, job: &ReadJob) -> Option<&FileImage> {
        let held = self.held.get_mut(&job.inode)?;
        held.job.id = job.id;
        let enough = held.image.whole || (covers(&held.job.marks, &job.marks) && job.committed_size.is_some());
        let fresh = self.sealed || held.stale.is_empty();
        (enough && fresh).then_some(&held.image)
    }

    /// Whether something of the file is held.
    pub(super) fn is_held(&self, inode: InodeId) -> bool {
        self.held.contains_key(&inode)
    }

    /// Reads again what is stale of one file.
    pub(super) fn refresh(&mut self, job: &ReadJob) -> Result<(), FileError> {
        if let Some(held) = self.held.get_mut(&job.inode) {
            held.job.id = job.id;
            if !held.image.whole && !covers(&held.job.marks, &job.marks) {
                held.stale.merge(&job.marks);
            }
        }
        self.read_one_again(job.inode, None)
    }

    /// Forgets files that are not to be committed any more.
    pub(super) fn keep_only(&mut self, inodes: &BTreeSet<InodeId>) {
        self.held.retain(|inode, _| inodes.contains(inode));
        self.open.retain(|inode, _| inodes.contains(inode));
    }

    /// Keeps what was read for the first time.
    pub(super) fn hold(&mut self, job: &ReadJob, image: &FileImage) {
        let held = Held { job: job.clone(), image: image.clone(), stale: Marks::default() };
        self.held.insert(job.inode, held);
    }
}

/// A file that is read only as long as nothing changes: what is read after that is of no use.
struct UntilChange<'a, F, C> {
    file: &'a mut F,
    has_changed: C,
}

impl<F: FileOps, C: FnMut() -> bool> FileOps for UntilChange<'_, F, C> {
    fn statx(&mut self) -> Result<Stat, FileError> {
        self.file.statx()
    }

    fn xattrs(&mut self) -> Result<ReadXattrs, FileError> {
        self.file.xattrs()
    }

    fn how_marked(&mut self) -> Exactly {
        self.file.how_marked()
    }

    fn clean(&mut self) -> Result<(), FileError> {
        self.file.clean()
    }

    fn barrier(&mut self) -> Result<(), FileError> {
        self.file.barrier()
    }

    fn uncache(&mut self) -> Result<(), FileError> {
        self.file.uncache()
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, FileError> {
        if (self.has_changed)() { Err(FileError::Late) } else { self.file.read(offset, buffer) }
    }

    fn data_ranges(&mut self, start: u64, end: u64) -> Result<Vec<(u64, u64)>, FileError> {
        self.file.data_ranges(start, end)
    }
}

/// Whether everything that `marks` say was read by `read`.
fn covers(read: &Marks, marks: &Marks) -> bool {
    let mut both = read.clone();
    both.merge(marks);
    both.meta = read.meta;
    both.names = read.names;
    both == *read
}

fn number(held: &BTreeMap<InodeId, Held>, ino: Ino) -> impl Iterator<Item = &Held> {
    let all = InodeId { ino, generation: 0 }..=InodeId { ino, generation: u64::MAX };
    held.range(all).map(|(_, held)| held)
}

fn of_number(held: &mut BTreeMap<InodeId, Held>, ino: Ino) -> impl Iterator<Item = &mut Held> {
    let all = InodeId { ino, generation: 0 }..=InodeId { ino, generation: u64::MAX };
    held.range_mut(all).map(|(_, held)| held)
}

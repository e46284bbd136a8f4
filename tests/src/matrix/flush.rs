//! The second oracle: the program under test protects a tree of cells, and each round is followed by a flush and a restore.
//! The copy must equal the source, without more uploaded bytes than changed. Knows only the program as a process, and its
//! store.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::extent_map::Source;
use engine::manifest::Manifest;
use engine::model::{ObjectRef, Seq};
use tracker::capture::BackEnd;
use tracker::repository;
use tracker::repository::Reader;
use tracker::store::local::Local;

use super::bed::{Place, refused};
use super::tree::{self, Tree};
use super::{Cell, Op, Promise};
use crate::capture_rig::back_end;
use crate::compare::{Options, compare};
use crate::daemon::{Daemon, Volume};

const SYNC: Duration = Duration::from_secs(120);
/// Longest start, when an emulated processor verifies the programs.
const READY: Duration = Duration::from_secs(300);
/// What a cell may cost beyond its changes: adjacent blocks.
const SLACK: u64 = 8192;

/// The only operation whose hooked function gives files without ranges, so that each is compared whole: on entry and on
/// return, which two flushes may see.
const EXCHANGED: (&str, u64) = ("move-extents", 2 * 2);

/// A tree of cells, prepared but not protected yet.
#[derive(Debug)]
pub struct Bed {
    tree: PathBuf,
    /// The same tree where new inodes appear: an overlay's upper directory.
    real: PathBuf,
    cells: Vec<(&'static Op, Cell)>,
    /// What could not be prepared although it should.
    wrong: Vec<String>,
}

impl Bed {
    /// Prepares those cells that are tested by flushes.
    #[must_use]
    pub fn new(place: &Place, run: usize, wanted: &[&'static Op]) -> Bed {
        let (tree, real) = (place.root(run).join("tree"), place.real(run).join("tree"));
        let mut bed = Bed { tree, real, cells: Vec::new(), wrong: Vec::new() };
        for op in wanted {
            let promised = op.promise(place.fs, back_end()) == Promise::Captured;
            if !promised || op.marks_only.is_some() {
                continue;
            }
            let made = Cell::new(place.fs, &place.root(run), op.id);
            match made.and_then(|mut cell| (op.setup)(&mut cell).map(|()| cell)) {
                Ok(cell) => bed.cells.push((op, cell)),
                Err(error) => bed.refused(op, &error),
            }
        }
        bed
    }

    fn refused(&mut self, op: &Op, error: &io::Error) {
        match refused(error) {
            Some(reason) => println!("SKIP cell {}: {reason}", op.id),
            None => self.wrong.push(format!("{}: cannot be done: {error}", op.id)),
        }
    }

    /// How many cells take part.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Files that may be compared whole because a hook requests it. More than these would be full re-reads for lost marks,
    /// which would hide a missed change.
    #[must_use]
    pub fn compared(&self) -> u64 {
        let hooked = back_end() != BackEnd::Tracepoint && self.cells.iter().any(|(op, _)| op.id == EXCHANGED.0);
        if hooked { EXCHANGED.1 } else { 0 }
    }

    /// The volume of the tree, for the back end under test.
    #[must_use]
    pub fn volume(&self) -> Volume {
        let mut volume = Volume::new(&self.tree);
        volume.extra.extend(["--capture".into(), back_end().name().into()]);
        volume
    }

    fn trees(&self) -> io::Result<BTreeMap<&'static str, Tree>> {
        // A file that is copied up to an overlay's upper layer is a new one, and is sent whole.
        self.cells.iter().map(|(op, cell)| Ok((op.id, tree::read(&cell.dir, &self.real.join(op.id))?))).collect()
    }

    /// Runs every round, each followed by a flush, a restore and a comparison. Returns what is wrong.
    ///
    /// # Panics
    /// When the program fails, which says nothing about the cells.
    #[track_caller]
    pub fn rounds(&mut self, volume: &Volume) -> Vec<String> {
        let mut wrong = std::mem::take(&mut self.wrong);
        let rounds = self.cells.iter().map(|(op, _)| op.rounds).max().unwrap_or(0);
        for round in 0..rounds {
            let (seq, before) = (reader(volume).head(), self.trees().expect("a look at the source"));
            let mut failed = Vec::new();
            for (at, (op, cell)) in self.cells.iter_mut().enumerate().filter(|(_, (op, _))| round < op.rounds) {
                if let Err(error) = (op.run)(cell, round) {
                    failed.push((at, error));
                }
            }
            for (at, error) in failed.into_iter().rev() {
                let (op, _) = self.cells.remove(at);
                self.refused(op, &error);
            }
            volume.sync(SYNC).expect(0);
            wrong.extend(differences(volume, &format!("copy{round}")));
            let after = self.trees().expect("a look at the source");
            let costs = costs(volume, seq);
            for (id, tree) in &after {
                let dirty = tree::dirty_bytes(&before[id], tree);
                let cost = costs.get(*id).copied().unwrap_or(0);
                if cost > dirty + SLACK {
                    wrong.push(format!("{id}: round {round}: {cost} bytes uploaded for {dirty} that changed"));
                }
            }
            wrong.append(&mut self.wrong);
            if round + 1 < rounds {
                self.let_go(round + 1);
            }
        }
        wrong
    }

    /// Moves cells without a round `next` out of the tree. Few have more than one, and restoring all of them each time
    /// would mostly restore finished ones. The next restore shows that they are gone.
    fn let_go(&mut self, next: usize) {
        let over: Vec<_> = self.cells.extract_if(.., |(op, _)| op.rounds <= next).collect();
        for (op, cell) in over {
            let (dir, aside) = (cell.dir.clone(), cell.outside.with_file_name(format!("{}-over", op.id)));
            // First close and unmap what it keeps open.
            drop(cell);
            // An overlay cannot move a directory that its lower layer has too: those stay, which costs only time.
            match fs::rename(&dir, &aside) {
                Err(error) if error.kind() != io::ErrorKind::CrossesDevices => {
                    self.wrong.push(format!("{}: cannot be moved out of the tree: {error}", op.id));
                }
                _ => {}
            }
        }
    }
}

/// Starts the program on the volume, and waits for its baseline.
#[track_caller]
pub fn protect(volume: &Volume) -> Daemon<'_> {
    let mut daemon = volume.start();
    daemon.wait_ready(READY);
    volume.sync(SYNC).expect(0);
    daemon
}

/// Restores the newest commit, and returns what differs from the source, by path.
///
/// # Panics
/// When there is no copy to compare.
#[track_caller]
pub fn differences(volume: &Volume, name: &str) -> Vec<String> {
    // No-COW files can be restored only to btrfs.
    let btrfs = rustix::fs::statfs(&volume.source).expect("a file system").f_type as u64 == 0x9123_683e;
    let copy = if btrfs { volume.source.with_file_name(name) } else { volume.scratch(name) };
    volume.restore(&copy).expect(0);
    let found = compare(&volume.source, &copy, Options::default()).expect("a comparison");
    fs::remove_dir_all(&copy).expect("a copy to remove");
    found
}

fn reader(volume: &Volume) -> Reader {
    let store = Local::open(&volume.store, tracker::store::Make::Nothing).expect("the store");
    repository::open(Arc::new(store), &volume.name).expect("the volume")
}

/// Bytes in the newest state that came with commits after `since`, by cell.
fn costs(volume: &Volume, since: Seq) -> BTreeMap<String, u64> {
    let reader = reader(volume);
    let manifest = reader.manifest(reader.head()).expect("a manifest");
    let mut out = BTreeMap::new();
    for (id, file) in manifest.files() {
        let fresh = |object: ObjectRef| match object {
            ObjectRef::Commit(seq) | ObjectRef::Pack { seq, .. } => seq > since,
        };
        let brought = |source: Source| matches!(source, Source::Data(at) if fresh(at.object));
        let bytes: u64 =
            file.extent_map.extents().filter(|(_, extent)| brought(extent.source)).map(|(_, extent)| extent.len).sum();
        if let Some(cell) = cell_of(&manifest, id) {
            *out.entry(cell).or_default() += bytes;
        }
    }
    out
}

fn cell_of(manifest: &Manifest, id: engine::model::FileId) -> Option<String> {
    let path = manifest.path_of(id)?;
    let first = path.split(|byte| *byte == b'/').find(|part| !part.is_empty())?;
    Some(String::from_utf8_lossy(first).into_owned())
}

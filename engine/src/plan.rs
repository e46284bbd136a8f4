//! What a restore will do, before it does any of it: what to create, what to read, in which order.
//!
//! A plan is a value: `--dry-run` prints it, and execution makes no further decisions. It holds no bytes of files and reads
//! none. `find` has the other half: which commits exist and which are needed, as functions over callbacks.

mod find;

pub use find::{Needed, commit_at_time, commits_of, find_head, last_not_later, needed};

use crate::extent_map::Source;
use crate::format::limits;
use crate::manifest::Manifest;
use crate::model::{FileId, Kind, Meta, ObjectRef, Root};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use thiserror::Error;

/// How reads are merged.
#[derive(Clone, Copy, Debug)]
pub struct PlanLimits {
    /// Bytes of one ranged read (a single frame is never split).
    pub read: u64,
    /// Largest gap that is read and discarded to avoid another read.
    pub gap: u64,
}

impl Default for PlanLimits {
    fn default() -> Self {
        PlanLimits { read: 8 << 20, gap: limits::FRAME_PLAIN as u64 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    #[error("{} is not in the volume at this time", String::from_utf8_lossy(path))]
    NoSuchPath { path: Vec<u8> },
    #[error("{found} files are more than a plan holds")]
    TooManyFiles { found: u64 },
}

/// A directory to create; parents precede their children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanDir {
    pub path: Vec<u8>,
    pub id: FileId,
    pub meta: Meta,
}

/// Anything but a directory, to create at `paths[0]` and link at the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanFile {
    pub id: FileId,
    /// Relative to the target; at least one, in the order of the walk.
    pub paths: Vec<Vec<u8>>,
    pub meta: Meta,
    pub size: u64,
    /// For regular files.
    pub root: Option<Root>,
    /// (offset, length) of the holes, in order. The reads supply everything else.
    pub holes: Vec<(u64, u64)>,
}

/// Where a part of a frame's bytes is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index in [`RestorePlan::files`].
    pub file: u32,
    /// Offset in the file.
    pub offset: u64,
    /// Offset in the frame's plain bytes.
    pub skip: u32,
    pub len: u64,
}

/// One frame inside a read, and all the places that its bytes are written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanFrame {
    /// Offset in the object (not in the read).
    pub offset: u64,
    pub bytes: u32,
    pub runs: Vec<Run>,
}

/// One ranged read of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanRead {
    pub object: ObjectRef,
    pub offset: u64,
    pub bytes: u64,
    /// By offset.
    pub frames: Vec<PlanFrame>,
}

/// What `--dry-run` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanStats {
    pub dirs: u64,
    pub files: u64,
    pub symlinks: u64,
    /// Devices, fifos, sockets.
    pub special: u64,
    /// Names beyond the first of a file.
    pub hard_links: u64,
    /// Sum of the sizes of regular files, hard links counted once.
    pub bytes: u64,
    pub hole_bytes: u64,
    pub reads: u64,
    pub read_bytes: u64,
    /// Distinct objects that are read.
    pub objects: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestorePlan {
    pub dirs: Vec<PlanDir>,
    pub files: Vec<PlanFile>,
    /// By object and offset.
    pub reads: Vec<PlanRead>,
    pub stats: PlanStats,
}

impl RestorePlan {
    /// Plans all of the manifest, or only `select`: paths relative to the source directory, each with everything below it
    /// and the directories above it.
    pub fn new(
        manifest: &Manifest,
        select: Option<&BTreeSet<Vec<u8>>>,
        limits: PlanLimits,
    ) -> Result<RestorePlan, PlanError> {
        let select = select.map(|paths| Selection::new(manifest, paths)).transpose()?;
        let mut plan = RestorePlan::default();
        let mut index: HashMap<FileId, usize> = HashMap::new();
        for (path, id, file) in manifest.walk() {
            if select.as_ref().is_some_and(|s| !s.has(&path)) {
                continue;
            }
            if file.meta.kind == Kind::Dir {
                plan.stats.dirs += 1;
                plan.dirs.push(PlanDir { path, id, meta: file.meta.clone() });
                continue;
            }
            if let Some(known) = index.get(&id).and_then(|n| plan.files.get_mut(*n)) {
                plan.stats.hard_links += 1;
                known.paths.push(path);
                continue;
            }
            index.insert(id, plan.files.len());
            match file.meta.kind {
                Kind::File => plan.stats.files += 1,
                Kind::Symlink => plan.stats.symlinks += 1,
                _ => plan.stats.special += 1,
            }
            let (meta, size, root) = (file.meta.clone(), file.size(), file.root);
            plan.stats.bytes = plan.stats.bytes.saturating_add(size);
            plan.files.push(PlanFile { id, paths: vec![path], meta, size, root, holes: Vec::new() });
        }
        plan.add_reads(manifest, limits)?;
        Ok(plan)
    }

    fn add_reads(&mut self, manifest: &Manifest, limits: PlanLimits) -> Result<(), PlanError> {
        let mut frames: BTreeMap<(ObjectRef, u64, u32), Vec<Run>> = BTreeMap::new();
        let found = self.files.len() as u64;
        for (n, file) in self.files.iter_mut().enumerate() {
            let n = u32::try_from(n).map_err(|_| PlanError::TooManyFiles { found })?;
            let Some(extent_map) = manifest.get(file.id).map(|f| &f.extent_map) else { continue };
            for (offset, extent) in extent_map.extents() {
                match extent.source {
                    Source::Hole => {
                        self.stats.hole_bytes = self.stats.hole_bytes.saturating_add(extent.len);
                        file.holes.push((offset, extent.len));
                    }
                    Source::Data(at) => {
                        let run = Run { file: n, offset, skip: at.skip, len: extent.len };
                        frames.entry((at.object, at.frame_offset, at.frame_bytes)).or_default().push(run);
                    }
                }
            }
        }
        let mut last_object = None;
        for ((object, offset, bytes), runs) in frames {
            if last_object != Some(object) {
                self.stats.objects += 1;
                last_object = Some(object);
            }
            let frame = PlanFrame { offset, bytes, runs };
            let end = offset.saturating_add(u64::from(bytes));
            match self.reads.last_mut() {
                Some(read) if read.object == object && joins(read, offset, end, limits) => {
                    read.bytes = end.max(read.offset + read.bytes) - read.offset;
                    read.frames.push(frame);
                }
                _ => self.reads.push(PlanRead { object, offset, bytes: u64::from(bytes), frames: vec![frame] }),
            }
        }
        self.stats.reads = self.reads.len() as u64;
        self.stats.read_bytes = self.reads.iter().map(|r| r.bytes).fold(0, u64::saturating_add);
        Ok(())
    }
}

/// Whether a frame at `offset..end` joins the previous read.
fn joins(read: &PlanRead, offset: u64, end: u64, limits: PlanLimits) -> bool {
    let read_end = read.offset.saturating_add(read.bytes);
    offset <= read_end.saturating_add(limits.gap) && end.saturating_sub(read.offset) <= limits.read
}

struct Selection {
    wanted: BTreeSet<Vec<u8>>,
    above: BTreeSet<Vec<u8>>,
}

impl Selection {
    fn new(manifest: &Manifest, paths: &BTreeSet<Vec<u8>>) -> Result<Selection, PlanError> {
        let mut selection = Selection { wanted: BTreeSet::new(), above: BTreeSet::new() };
        for path in paths {
            manifest.resolve(path).ok_or_else(|| PlanError::NoSuchPath { path: path.clone() })?;
            let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
            for n in 0..parts.len() {
                selection.above.insert(parts.get(..n).unwrap_or_default().join(&b'/'));
            }
            selection.wanted.insert(parts.join(&b'/'));
        }
        Ok(selection)
    }

    fn has(&self, path: &[u8]) -> bool {
        if self.above.contains(path) || self.wanted.contains(path) || self.wanted.contains(&b""[..]) {
            return true;
        }
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(n, _)| n);
        slashes.into_iter().any(|n| self.wanted.contains(path.get(..n).unwrap_or_default()))
    }
}

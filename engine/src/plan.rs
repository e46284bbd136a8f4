//! What a restore will do, before it does any of it: what to create, what to read, in which order.
//!
//! A plan is a value that holds no bytes of files and reads none. Its frames are in no order of reading yet: whoever
//! executes it chooses which of them belong together, and [`merge`] alone makes requests of them. `find` has the other
//! half: which commits there are, as functions over callbacks.

mod find;

pub use find::{commit_at_time, find_head, last_not_later};

use crate::extent_map::Source;
use crate::format::limits;
use crate::manifest::Manifest;
use crate::model::{FileId, Kind, Meta, ObjectRef, Root};
use std::collections::{BTreeMap, HashMap};
use thiserror::Error;

/// How frames are merged to reads.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Bytes of one ranged read (a single frame is never split).
    pub read: u64,
    /// Largest gap that is read and discarded to avoid another read.
    pub gap: u64,
}

impl Default for ReadLimits {
    fn default() -> Self {
        ReadLimits { read: 4 << 20, gap: limits::FRAME_PLAIN as u64 }
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

/// Which frame of the store it is; ordered as frames lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameAt {
    pub object: ObjectRef,
    /// Offset in the object.
    pub offset: u64,
    pub bytes: u32,
}

/// Frames to read, each once, and where their bytes go.
pub type Frames = BTreeMap<FrameAt, Vec<Run>>;

/// One frame inside a read, and all the places its bytes go to.
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

/// What there is to make.
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
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestorePlan {
    pub dirs: Vec<PlanDir>,
    pub files: Vec<PlanFile>,
    pub frames: Frames,
    pub stats: PlanStats,
}

impl RestorePlan {
    /// Plans all of the manifest.
    pub fn new(manifest: &Manifest) -> Result<RestorePlan, PlanError> {
        let mut plan = RestorePlan::default();
        let mut index: HashMap<FileId, usize> = HashMap::new();
        for (path, id, file) in manifest.walk() {
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
        plan.add_frames(manifest)?;
        Ok(plan)
    }

    fn add_frames(&mut self, manifest: &Manifest) -> Result<(), PlanError> {
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
                        let frame = FrameAt { object: at.object, offset: at.frame_offset, bytes: at.frame_bytes };
                        self.frames.entry(frame).or_default().push(run);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Frames that lie near each other become one read.
pub fn merge(frames: Frames, limits: ReadLimits) -> Vec<PlanRead> {
    let mut reads: Vec<PlanRead> = Vec::new();
    for (FrameAt { object, offset, bytes }, runs) in frames {
        let frame = PlanFrame { offset, bytes, runs };
        let end = offset.saturating_add(u64::from(bytes));
        match reads.last_mut() {
            Some(read) if read.object == object && joins(read, offset, end, limits) => {
                read.bytes = end.max(read.offset.saturating_add(read.bytes)) - read.offset;
                read.frames.push(frame);
            }
            _ => reads.push(PlanRead { object, offset, bytes: u64::from(bytes), frames: vec![frame] }),
        }
    }
    reads
}

/// Does a frame at `offset..end` go into the read before it?
fn joins(read: &PlanRead, offset: u64, end: u64, limits: ReadLimits) -> bool {
    let read_end = read.offset.saturating_add(read.bytes);
    offset <= read_end.saturating_add(limits.gap) && end.saturating_sub(read.offset) <= limits.read
}

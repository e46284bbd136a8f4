//! Reads the bytes of files from the store: ranged reads, frames checked and decoded. Work is cut into groups of files, so
//! that open files and memory stay bounded whatever the plan's size.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use engine::format::{DecodeError, Key, frame};
use engine::model::{ObjectRef, Root};
use engine::plan::{self, Frames, PlanFile, PlanFrame, PlanRead, ReadLimits, Run};
use engine::tree::{RootHasher, RootKind};

use crate::repository::error::ReadError;
use crate::repository::reader::Reader;
use crate::store::ErrorKind;

/// Files up to this size are assembled in memory and written at once.
pub(crate) const SMALL: u64 = 256 * 1024;
/// Limits of one group: bytes of small files, small files, large files (each uses two descriptors).
const GROUP_BYTES: u64 = 8 << 20;
const GROUP_SMALL: usize = 4096;
const GROUP_LARGE: usize = 16;

/// Takes the bytes of a run.
pub(crate) type Put<'a> = dyn FnMut(&Run, &[u8]) -> Result<(), ReadError> + 'a;

/// Some files of a plan, and the reads that contain all their bytes.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Indexes in the plan's files, ascending.
    pub(crate) files: Vec<u32>,
    pub(crate) reads: Vec<PlanRead>,
}

impl Group {
    /// The index of a file in `files`.
    pub(crate) fn place(&self, file: u32) -> Option<usize> {
        self.files.binary_search(&file).ok()
    }
}

/// Cuts the regular files of a plan, but for `kept`, into groups: in the order in which the frames first meet them, so
/// that few frames are needed by two groups. What these reads are is what a restore does and a dry run shows.
pub(crate) fn groups(files: &[PlanFile], frames: Frames, kept: &HashSet<u32>) -> Vec<Group> {
    let mut cutter = Cutter { files, groups: Vec::new(), of: HashMap::new(), bytes: 0, small: 0, large: 0 };
    let mut of_groups: Vec<Frames> = Vec::new();
    for (frame, runs) in frames {
        for run in runs.into_iter().filter(|run| !kept.contains(&run.file)) {
            let Some(group) = cutter.group(run.file) else { continue };
            if of_groups.len() <= group {
                of_groups.resize_with(group + 1, Frames::new);
            }
            if let Some(frames) = of_groups.get_mut(group) {
                frames.entry(frame).or_default().push(run);
            }
        }
    }
    // What no frame meets: empty files, and those that are all hole.
    for (n, file) in (0u32..).zip(files) {
        if file.root.is_some() && !kept.contains(&n) {
            cutter.group(n);
        }
    }
    let mut groups = cutter.groups;
    for (group, frames) in groups.iter_mut().zip(of_groups) {
        group.reads = plan::merge(frames, ReadLimits::default());
    }
    groups.iter_mut().for_each(|group| group.files.sort_unstable());
    groups
}

struct Cutter<'a> {
    files: &'a [PlanFile],
    groups: Vec<Group>,
    of: HashMap<u32, usize>,
    bytes: u64,
    small: usize,
    large: usize,
}

impl Cutter<'_> {
    /// The group of a file; adds it to the last group if it has none yet.
    fn group(&mut self, file: u32) -> Option<usize> {
        if let Some(group) = self.of.get(&file) {
            return Some(*group);
        }
        let size = self.files.get(file as usize)?.size;
        let (bytes, small, large) = if size <= SMALL { (size, 1, 0) } else { (0, 0, 1) };
        let full =
            self.bytes + bytes > GROUP_BYTES || self.small + small > GROUP_SMALL || self.large + large > GROUP_LARGE;
        if full || self.groups.is_empty() {
            self.groups.push(Group::default());
            (self.bytes, self.small, self.large) = (0, 0, 0);
        }
        (self.bytes, self.small, self.large) = (self.bytes + bytes, self.small + small, self.large + large);
        let last = self.groups.len() - 1;
        self.groups.last_mut()?.files.push(file);
        self.of.insert(file, last);
        Some(last)
    }
}

/// Requests and bytes of groups, as a dry run shows them.
pub(crate) fn cost(groups: &[Group]) -> (u64, u64, u64) {
    let reads = groups.iter().flat_map(|group| &group.reads);
    let objects: HashSet<ObjectRef> = reads.clone().map(|read| read.object).collect();
    let (mut requests, mut bytes) = (0, 0u64);
    for read in reads {
        requests += 1;
        bytes = bytes.saturating_add(read.bytes);
    }
    (objects.len() as u64, requests, bytes)
}

impl Reader {
    /// Makes one read, and passes each run its bytes, or passes to `lost` the frames that cannot be read. Returns errors of
    /// the store or of `put`.
    pub(crate) fn carry_out(
        &self,
        read: &PlanRead,
        put: &mut Put<'_>,
        lost: &mut dyn FnMut(&PlanFrame, ReadError),
    ) -> Result<(), ReadError> {
        let key = Key::from(read.object);
        match self.get_range(key, read.offset, read.bytes) {
            Ok(bytes) => {
                return read.frames.iter().try_for_each(|frame| {
                    let start = usize::try_from(frame.offset.saturating_sub(read.offset)).unwrap_or(usize::MAX);
                    let stored = bytes.get(start..start.saturating_add(frame.bytes as usize)).unwrap_or_default();
                    self.deliver(read.object, frame, stored, put, lost)
                });
            }
            Err(error) if !self.concerns_object(&error) => return Err(error),
            Err(error) => tracing::debug!("reading frame by frame: {error}"),
        }
        // The cause of a failed read of many frames may concern only one of them.
        read.frames.iter().try_for_each(|frame| {
            match self.get_range(key, frame.offset, u64::from(frame.bytes)) {
                Ok(stored) => self.deliver(read.object, frame, &stored, put, lost)?,
                Err(error) if self.concerns_object(&error) => lost(frame, error),
                Err(error) => return Err(error),
            }
            Ok(())
        })
    }

    fn deliver(
        &self,
        object: ObjectRef,
        frame: &PlanFrame,
        stored: &[u8],
        put: &mut Put<'_>,
        lost: &mut dyn FnMut(&PlanFrame, ReadError),
    ) -> Result<(), ReadError> {
        let plain = match self.decode_frame(object, frame.offset, stored) {
            Ok(plain) => plain,
            Err(error) => {
                lost(frame, error);
                return Ok(());
            }
        };
        for run in &frame.runs {
            match self.run(object, &plain, run.skip, run.len) {
                Ok(part) => put(run, part)?,
                Err(error) => {
                    lost(frame, error);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether an error concerns one object, while the store answers otherwise.
    fn concerns_object(&self, error: &ReadError) -> bool {
        error.is_about_object()
            || matches!(error, ReadError::Store(error) if error.kind != ErrorKind::StoreAbsent)
                && self.store.get(&Key::Format.to_string()).is_ok()
    }

    pub(crate) fn decode_frame(&self, object: ObjectRef, offset: u64, stored: &[u8]) -> Result<Vec<u8>, ReadError> {
        frame::decode(&self.format.volume, object, offset, stored)
            .map_err(|source| ReadError::damaged(self.key(Key::from(object)), source))
    }

    /// A part of a frame's plain bytes.
    pub(crate) fn run<'a>(
        &self,
        object: ObjectRef,
        plain: &'a [u8],
        skip: u32,
        len: u64,
    ) -> Result<&'a [u8], ReadError> {
        let end = u64::from(skip).saturating_add(len);
        let part = usize::try_from(end).ok().and_then(|end| plain.get(skip as usize..end));
        part.ok_or_else(|| {
            let source = DecodeError::Short { field: "frame plain bytes", needed: end, left: plain.len() as u64 };
            ReadError::damaged(self.key(Key::from(object)), source)
        })
    }
}

/// The parts of a file that are not holes.
pub(crate) fn data_ranges(size: u64, holes: &[(u64, u64)]) -> Vec<Range<u64>> {
    let mut out = Vec::new();
    let mut at = 0;
    for (offset, len) in holes {
        if *offset > at {
            out.push(at..*offset);
        }
        at = offset.saturating_add(*len);
    }
    if at < size {
        out.push(at..size);
    }
    out
}

/// The root of a file. `read` returns the parts that are not holes, in order.
pub(crate) fn root_of<E>(
    kind: RootKind,
    size: u64,
    data: &[Range<u64>],
    mut read: impl FnMut(Range<u64>, &mut RootHasher) -> Result<(), E>,
) -> Result<Root, E> {
    let mut hasher = RootHasher::new(kind);
    let mut at = 0;
    for range in data {
        hasher.hole(range.start - at);
        read(range.clone(), &mut hasher)?;
        at = range.end;
    }
    hasher.hole(size.saturating_sub(at));
    Ok(hasher.finish())
}

//! The work of one restore: directories, files group by group, specials, and what of it failed.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engine::model::FileId;
use engine::plan::{PlanFile, PlanFrame, PlanRead, RestorePlan, Run};
use parking_lot::Mutex;

use crate::quoting::quote_path;
use crate::repository::error::ReadError;
use crate::repository::fetch::{Group, SMALL, data_ranges, root_of};
use crate::repository::merge::path;
use crate::repository::parallel;
use crate::repository::reader::{Reader, THREADS};
use crate::repository::report::Failure;
use crate::target::{Bounded, Target, TargetError, TargetFile, Unplaced};

/// A group with more reads than this is fetched by all threads together, one group at a time.
const MANY_READS: usize = 8;
/// Bytes read back at a time.
const PIECE: u64 = 256 * 1024;

/// What could not be restored.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// Files whose bytes in the store are wrong or missing.
    damaged: Mutex<BTreeMap<FileId, Failure>>,
    others: Mutex<Bounded<Failure>>,
}

impl Failures {
    pub(crate) fn take_damaged(&self) -> BTreeMap<FileId, Failure> {
        std::mem::take(&mut self.damaged.lock())
    }

    pub(crate) fn take_others(&self) -> Bounded<Failure> {
        std::mem::take(&mut self.others.lock())
    }

    fn other(&self, path: &Path, cause: &TargetError) {
        use std::os::unix::ffi::OsStrExt;
        let path = path.as_os_str().as_bytes().to_vec();
        self.others.lock().push(Failure { path, cause: cause.to_string(), older: None });
    }

    fn damaged(&self, file: &PlanFile, cause: String) {
        let failure = Failure { path: first(file).to_vec(), cause, older: None };
        self.damaged.lock().insert(file.id, failure);
    }
}

pub(crate) struct Job<'a> {
    reader: &'a Reader,
    pub(crate) target: &'a Target,
    pub(crate) plan: &'a RestorePlan,
    pub(crate) failures: &'a Failures,
    stop: Option<&'static AtomicBool>,
    /// Directories that could not be created.
    unmade: Mutex<HashSet<PathBuf>>,
    /// Regular files that are in place.
    done: AtomicU64,
}

/// A file being restored.
struct Entry<'a> {
    file: &'a PlanFile,
    slot: Slot<'a>,
    /// Why its bytes could not be read: the first reason.
    damaged: Mutex<Option<String>>,
    /// Why they could not be written.
    refused: Mutex<Option<TargetError>>,
}

enum Slot<'a> {
    Small(Mutex<Vec<u8>>),
    Large(TargetFile<'a>),
    /// It could not be created.
    None,
}

impl<'a> Job<'a> {
    pub(crate) fn new(
        reader: &'a Reader,
        target: &'a Target,
        plan: &'a RestorePlan,
        failures: &'a Failures,
        stop: Option<&'static AtomicBool>,
    ) -> Job<'a> {
        Job { reader, target, plan, failures, stop, unmade: Mutex::default(), done: AtomicU64::new(0) }
    }

    /// The same job with another plan.
    pub(crate) fn with<'b>(&'b self, plan: &'b RestorePlan) -> Job<'b> {
        Job::new(self.reader, self.target, plan, self.failures, self.stop)
    }

    /// The error that a restore ended early, with how far it got.
    pub(crate) fn stopped(&self, cause: ReadError) -> ReadError {
        let restored = self.done.load(Ordering::Relaxed);
        ReadError::Stopped { restored, files: self.plan.stats.files, cause: Box::new(cause) }
    }

    /// Counts regular files that were in place already.
    pub(crate) fn count_kept(&self, kept: usize) {
        self.done.fetch_add(kept as u64, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), ReadError> {
        match self.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(ReadError::Interrupted),
            _ => Ok(()),
        }
    }

    /// Records that an entry failed; returns errors that end the restore.
    fn other<T>(&self, path: &Path, done: Result<T, TargetError>) -> Result<Option<T>, ReadError> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.is_fatal() => Err(error.into()),
            Err(error) => {
                self.failures.other(path, &error);
                Ok(None)
            }
        }
    }

    fn unplaced(&self, names: Vec<Unplaced>) -> Result<(), ReadError> {
        names.into_iter().try_for_each(|name| self.other::<()>(&name.path, Err(name.cause)).map(|_| ()))
    }

    pub(crate) fn make_dirs(&self) -> Result<(), ReadError> {
        for dir in &self.plan.dirs {
            self.check()?;
            let rel = path(&dir.path);
            if dir.path.is_empty() {
                self.target.prepare(&dir.meta)?;
            } else if self.other(rel, self.target.make_dir(rel, &dir.meta))?.is_none() {
                self.unmade.lock().insert(rel.to_path_buf());
            }
        }
        Ok(())
    }

    /// Removes temporary files of restores by older versions, in directories of the plan. What cannot be listed or removed
    /// stays.
    pub(crate) fn remove_leftovers(&self) -> u64 {
        let named = |path: &[u8]| path.rsplit(|b| *b == b'/').next().is_some_and(|name| name.starts_with(b".tracker-"));
        let all = self.plan.files.iter().flat_map(|file| &file.paths);
        let planned: HashSet<&Path> = all.filter(|path| named(path)).map(|bytes| path(bytes)).collect();
        let mut removed = 0;
        for dir in &self.plan.dirs {
            match self.target.remove_old_temporaries(path(&dir.path), |path| planned.contains(path)) {
                Ok(names) => removed += names.len() as u64,
                Err(error) => tracing::debug!("leftovers are not looked for: {error}"),
            }
        }
        removed
    }

    pub(crate) fn files(&self, groups: &[Group]) -> Result<(), ReadError> {
        let (many, few): (Vec<_>, Vec<_>) = groups.iter().partition(|group| group.reads.len() > MANY_READS);
        parallel::try_each(THREADS, &few, |group| self.group(group, 1))?;
        many.into_iter().try_for_each(|group| self.group(group, THREADS))
    }

    /// Restores everything but directories and regular files.
    pub(crate) fn specials(&self) -> Result<(), ReadError> {
        for file in self.plan.files.iter().filter(|file| file.root.is_none()) {
            self.check()?;
            let names = names(file);
            let made = self.target.make_special(&names, &file.meta);
            match (made, names.as_slice()) {
                (Err(error), [_, more @ ..]) if !error.is_fatal() => {
                    self.failures.other(path(first(file)), &error);
                    more.iter().for_each(|name| self.failures.other(name, &error));
                }
                (made, _) => {
                    let unplaced = self.other(path(first(file)), made)?;
                    self.unplaced(unplaced.unwrap_or_default())?;
                }
            }
        }
        Ok(())
    }

    /// Backwards: parents precede their children in the plan, and creating an entry changes its directory's times. The
    /// target is last.
    pub(crate) fn finish_dirs(&self) -> Result<(), ReadError> {
        self.target.remove_own_areas();
        for dir in self.plan.dirs.iter().rev() {
            let rel = path(&dir.path);
            if !self.unmade.lock().contains(rel) {
                self.other(rel, self.target.finish_dir(rel, &dir.meta))?;
            }
        }
        Ok(())
    }

    fn group(&self, group: &Group, threads: usize) -> Result<(), ReadError> {
        let mut entries = Vec::with_capacity(group.files.len());
        for file in group.files.iter().filter_map(|n| self.plan.files.get(*n as usize)) {
            entries.push(self.begin(file)?);
        }
        parallel::try_each(threads, &group.reads, |read| self.fetch(group, &entries, read))?;
        entries.into_iter().try_for_each(|entry| self.finish(entry))
    }

    fn begin(&self, file: &'a PlanFile) -> Result<Entry<'a>, ReadError> {
        let mut refused = None;
        let slot = if file.size <= SMALL {
            Slot::Small(Mutex::new(vec![0; usize::try_from(file.size).unwrap_or_default()]))
        } else {
            match self.target.create_file(path(first(file)), file.size, &file.meta) {
                Ok(made) => Slot::Large(made),
                Err(error) if error.is_fatal() => return Err(error.into()),
                Err(error) => {
                    refused = Some(error);
                    Slot::None
                }
            }
        };
        Ok(Entry { file, slot, damaged: Mutex::default(), refused: Mutex::new(refused) })
    }

    fn fetch(&self, group: &Group, entries: &[Entry<'_>], read: &PlanRead) -> Result<(), ReadError> {
        self.check()?;
        let entry = |run: &Run| group.place(run.file).and_then(|place| entries.get(place));
        let mut put = |run: &Run, bytes: &[u8]| {
            let Some(entry) = entry(run) else { return Ok(()) };
            match &entry.slot {
                Slot::Small(buffer) => {
                    let start = usize::try_from(run.offset).unwrap_or(usize::MAX);
                    // The extent_map's extents lie inside its size.
                    if let Some(part) = buffer.lock().get_mut(start..start.saturating_add(bytes.len())) {
                        part.copy_from_slice(bytes);
                    }
                    Ok(())
                }
                Slot::Large(file) => match file.write_at(run.offset, bytes) {
                    Err(error) if !error.is_fatal() => {
                        entry.refused.lock().get_or_insert(error);
                        Ok(())
                    }
                    other => Ok(other?),
                },
                Slot::None => Ok(()),
            }
        };
        let mut lost = |frame: &PlanFrame, cause: ReadError| {
            for entry in frame.runs.iter().filter_map(entry) {
                entry.damaged.lock().get_or_insert_with(|| cause.to_string());
            }
        };
        self.reader.carry_out(read, &mut put, &mut lost)
    }

    /// Verifies a file, then sets its attributes and gives it its names.
    fn finish(&self, entry: Entry<'_>) -> Result<(), ReadError> {
        let file = entry.file;
        let Some(expected) = file.root else { return Ok(()) };
        if let Some(cause) = entry.damaged.into_inner() {
            self.failures.damaged(file, cause);
            return Ok(());
        }
        if let Some(error) = entry.refused.into_inner() {
            names(file).iter().for_each(|name| self.failures.other(name, &error));
            return Ok(());
        }
        match self.verified(file, entry.slot, expected) {
            Ok(made) => self.unplaced(made)?,
            Err(ReadError::Root { path, found, expected }) => {
                self.failures.damaged(file, ReadError::Root { path, found, expected }.to_string());
                return Ok(());
            }
            Err(ReadError::Target(error)) if !error.is_fatal() => {
                names(file).iter().for_each(|name| self.failures.other(name, &error));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn verified(
        &self,
        file: &PlanFile,
        slot: Slot<'_>,
        expected: engine::model::Root,
    ) -> Result<Vec<Unplaced>, ReadError> {
        let data = data_ranges(file.size, &file.holes);
        let wrong = |found| Err(ReadError::Root { path: quote_path(first(file)), found, expected });
        match slot {
            Slot::None => Ok(Vec::new()),
            Slot::Small(buffer) => {
                let buffer = buffer.into_inner();
                let part = |range: &std::ops::Range<u64>| {
                    buffer.get(range.start as usize..range.end as usize).unwrap_or_default()
                };
                let found = root_of(expected.kind(), file.size, &data, |range, hasher| {
                    hasher.bytes(part(&range));
                    Ok::<_, ReadError>(())
                })?;
                if found != expected {
                    return wrong(found);
                }
                let made = self.target.create_file(path(first(file)), file.size, &file.meta)?;
                for range in &data {
                    made.write_at(range.start, part(range))?;
                }
                Ok(made.finish(&file.meta, &names(file))?)
            }
            Slot::Large(made) => {
                let mut buffer = vec![0; PIECE as usize];
                let found = root_of(expected.kind(), file.size, &data, |range, hasher| {
                    let mut at = range.start;
                    while at < range.end {
                        let len = (range.end - at).min(PIECE) as usize;
                        let read = made.read_at(at, buffer.get_mut(..len).unwrap_or_default())?;
                        if read == 0 {
                            break;
                        }
                        hasher.bytes(buffer.get(..read).unwrap_or_default());
                        at += read as u64;
                    }
                    Ok::<_, ReadError>(())
                })?;
                if found == expected { Ok(made.finish(&file.meta, &names(file))?) } else { wrong(found) }
            }
        }
    }
}

/// A plan's file has at least one path.
fn first(file: &PlanFile) -> &[u8] {
    file.paths.first().map(Vec::as_slice).unwrap_or_default()
}

fn names(file: &PlanFile) -> Vec<&Path> {
    file.paths.iter().map(|bytes| path(bytes)).collect()
}

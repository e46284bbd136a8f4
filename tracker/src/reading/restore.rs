//! A volume back on a disk: planned, fetched, verified file by file, moved into place.
//!
//! No file has its name before its root was found equal to the commit's, and nothing is written outside the target. A
//! restore that fails leaves whole files only, and directories that only their owner may enter.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use engine::manifest::Manifest;
use engine::model::{Kind, Seq, Time};
use engine::plan::{PlanFile, PlanLimits, PlanRead, PlanStats, RestorePlan, Run};

use super::fetch::{Group, SMALL, cost, data_ranges, groups, root_of};
use super::merge::{path, unchanged};
use super::{ReadError, Reader, THREADS, parallel};
use crate::source::target::{Target, TargetFile, TargetOptions, Warning};

/// A group with more reads than this is fetched by all threads, one group at a time.
const MANY_READS: usize = 8;
/// Bytes read back at a time.
const PIECE: u64 = 256 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Onto what is there: files that are equal already are not fetched, others are replaced. Nothing that the volume
    /// does not name is removed.
    pub merge: bool,
    /// Plan only; nothing is written, not even the target made.
    pub dry_run: bool,
    /// Leave out devices, setuid and setgid bits and file capabilities.
    pub untrusted: bool,
    /// Also a state behind which no complete baseline stands.
    pub partial: bool,
}

/// What was done, or by `dry_run` would be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestoreReport {
    pub seq: Seq,
    /// The wall clock of the commit.
    pub time: Time,
    /// Whether a complete baseline stands behind the commit; `None`: it does not record that.
    pub baseline: Option<bool>,
    pub stats: PlanStats,
    /// Regular files of an existing tree that were equal already.
    pub kept: u64,
    /// Distinct objects read for content, requests for it, and their bytes.
    pub objects: u64,
    pub requests: u64,
    pub fetched_bytes: u64,
    /// What could not be given (the first 1,000), and how many in all. By `untrusted` what was left out is among it.
    pub warnings: (Vec<Warning>, u64),
}

/// Restores the state at `seq` into `target`, which is made if it is absent.
///
/// # Errors
/// `NotEmpty`, `NotADirectory` before anything is done; what reading the volume gives; `Root` where a file's content is
/// not what was committed; `Target` where the disk refuses.
pub fn restore(reader: &Reader, seq: Seq, target: &Path, options: &RestoreOptions) -> Result<RestoreReport, ReadError> {
    let empty = check_target(target, options.merge)?;
    let manifest = reader.manifest(seq).and_then(|manifest| complete(reader, manifest, options.partial));
    let first = manifest.and_then(|m| attempt(reader, &m, target, options, options.merge && !empty));
    match first {
        // An object may have been pruned after the plan was made: there is a newer way to the same state, or none.
        Err(ReadError::Missing { key }) => {
            tracing::info!("{key} is not there: planning again");
            let manifest = reader.manifest(seq)?;
            attempt(reader, &manifest, target, options, true)
        }
        done => done,
    }
}

/// Refuses a state that lacks files of the first copy, unless that is `wanted`. Commits of format version 1 do not record it.
fn complete(reader: &Reader, manifest: Manifest, wanted: bool) -> Result<Manifest, ReadError> {
    let lacks = manifest.position().standing.is_some_and(|standing| !standing.baseline);
    if lacks && !wanted {
        return Err(ReadError::Incomplete { volume: reader.volume().to_owned(), seq: manifest.seq() });
    }
    Ok(manifest)
}

/// Refuses what a restore could destroy; `true` where the target is absent or empty.
///
/// # Errors
/// `NotEmpty` unless `merge`, `NotADirectory`, `Directory`.
pub fn check_target(target: &Path, merge: bool) -> Result<bool, ReadError> {
    let path = || target.to_path_buf();
    match std::fs::read_dir(target) {
        Ok(mut entries) => match entries.next() {
            None => Ok(true),
            Some(_) if merge => Ok(false),
            Some(_) => Err(ReadError::NotEmpty { path: path() }),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => Err(ReadError::NotADirectory { path: path() }),
        Err(source) => Err(ReadError::Directory { step: "look into", path: path(), source }),
    }
}

fn attempt(
    reader: &Reader,
    manifest: &Manifest,
    dir: &Path,
    options: &RestoreOptions,
    existing: bool,
) -> Result<RestoreReport, ReadError> {
    let mut plan = RestorePlan::new(manifest, None, PlanLimits::default())?;
    let target_options = TargetOptions { untrusted: options.untrusted, sync: false };
    let there = existing && dir.exists();
    let mut target = if there { Some(Target::open(dir, target_options)?) } else { None };
    let kept = target.as_ref().map_or_else(HashSet::new, |target| unchanged(target, &plan.files));
    let groups = groups(&plan.files, std::mem::take(&mut plan.reads), &kept);
    let (objects, requests, fetched_bytes) = cost(&groups);
    let at = manifest.position();
    let mut report = RestoreReport {
        seq: at.seq,
        time: at.standing.map_or(at.time, |standing| standing.wall),
        baseline: at.standing.map(|standing| standing.baseline),
        stats: plan.stats,
        kept: kept.len() as u64,
        objects,
        requests,
        fetched_bytes,
        warnings: (Vec::new(), 0),
    };
    if options.dry_run {
        return Ok(report);
    }
    if target.is_none() {
        let failed = |source| ReadError::Directory { step: "make", path: PathBuf::from(dir), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        target = Some(Target::open(dir, target_options)?);
    }
    if let Some(target) = target {
        Job { reader, target: &target, plan: &plan, existing: there }.run(&groups, &kept)?;
        sync(dir)?;
        report.warnings = target.warnings();
    }
    Ok(report)
}

/// All that was written is on the disk before the restore says so.
fn sync(dir: &Path) -> Result<(), ReadError> {
    let failed = |source| ReadError::Directory { step: "sync", path: PathBuf::from(dir), source };
    let opened = std::fs::File::open(dir);
    match opened.and_then(|dir| rustix::fs::syncfs(dir).map_err(Into::into)) {
        // The restored mode may forbid its owner to open it; sync everything then.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            rustix::fs::sync();
            Ok(())
        }
        other => other.map_err(failed),
    }
}

struct Job<'a> {
    reader: &'a Reader,
    target: &'a Target,
    plan: &'a RestorePlan,
    /// The target held something before.
    existing: bool,
}

/// A file on its way.
enum Slot<'a> {
    Small(Mutex<Vec<u8>>),
    Large(TargetFile<'a>),
}

impl<'a> Job<'a> {
    fn run(&self, groups: &[Group], kept: &HashSet<u32>) -> Result<(), ReadError> {
        for dir in self.plan.dirs.iter().filter(|dir| !dir.path.is_empty()) {
            self.clear(path(&dir.path), true)?;
            self.target.make_dir(path(&dir.path))?;
        }
        let (many, few): (Vec<_>, Vec<_>) = groups.iter().partition(|group| group.reads.len() > MANY_READS);
        parallel::try_each(THREADS, &few, |group| self.group(group, 1))?;
        for group in many {
            self.group(group, THREADS)?;
        }
        for (n, file) in (0u32..).zip(&self.plan.files) {
            self.name(file, kept.contains(&n))?;
        }
        // Parents stand before their children; what is made in a directory changes its times.
        for dir in self.plan.dirs.iter().rev() {
            self.target.finish_dir(path(&dir.path), &dir.meta)?;
        }
        Ok(())
    }

    /// Takes away what is there and cannot be replaced by a rename: a directory in the place of anything else, and
    /// anything else (a symlink too) in the place of a directory.
    fn clear(&self, rel: &Path, for_dir: bool) -> Result<(), ReadError> {
        if self.existing
            && let Some(found) = self.target.stat(rel)?
            && (found.stat.kind == Kind::Dir) != for_dir
        {
            self.target.remove(rel)?;
        }
        Ok(())
    }

    fn file(&self, n: u32) -> Option<&'a PlanFile> {
        self.plan.files.get(n as usize)
    }

    fn group(&self, group: &Group, threads: usize) -> Result<(), ReadError> {
        let mut slots = Vec::with_capacity(group.files.len());
        for file in group.files.iter().filter_map(|n| self.file(*n)) {
            slots.push((file, self.begin(file)?));
        }
        parallel::try_each(threads, &group.reads, |read| self.fetch(group, &slots, read))?;
        for (file, slot) in slots {
            self.finish(file, slot)?;
        }
        Ok(())
    }

    fn begin(&self, file: &PlanFile) -> Result<Slot<'a>, ReadError> {
        let rel = path(first(file));
        self.clear(rel, false)?;
        if file.size <= SMALL {
            let len = usize::try_from(file.size).unwrap_or_default();
            return Ok(Slot::Small(Mutex::new(vec![0; len])));
        }
        Ok(Slot::Large(self.target.create_file(rel, file.size)?))
    }

    fn fetch(&self, group: &Group, slots: &[(&PlanFile, Slot<'_>)], read: &PlanRead) -> Result<(), ReadError> {
        self.reader.carry_out(read, |run: &Run, bytes| {
            let Some((_, slot)) = group.place(run.file).and_then(|place| slots.get(place)) else { return Ok(()) };
            match slot {
                Slot::Small(buffer) => {
                    let start = usize::try_from(run.offset).unwrap_or(usize::MAX);
                    let mut buffer = lock(buffer);
                    // The rope's extents lie inside its size.
                    if let Some(part) = buffer.get_mut(start..start.saturating_add(bytes.len())) {
                        part.copy_from_slice(bytes);
                    }
                    Ok(())
                }
                Slot::Large(file) => Ok(file.write_at(run.offset, bytes)?),
            }
        })
    }

    /// Verifies a file, then gives it its attributes and its first name.
    fn finish(&self, file: &PlanFile, slot: Slot<'_>) -> Result<(), ReadError> {
        let Some(expected) = file.root else { return Ok(()) };
        let data = data_ranges(file.size, &file.holes);
        let rel = path(first(file));
        let wrong = |found| {
            let path = String::from_utf8_lossy(first(file)).into_owned();
            Err(ReadError::Root { path, found, expected })
        };
        match slot {
            Slot::Small(buffer) => {
                let buffer = buffer.into_inner().unwrap_or_else(PoisonError::into_inner);
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
                let made = self.target.create_file(rel, file.size)?;
                for range in &data {
                    made.write_at(range.start, part(range))?;
                }
                made.finish(&file.meta)?;
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
                if found != expected {
                    return wrong(found);
                }
                made.finish(&file.meta)?;
            }
        }
        Ok(())
    }

    /// Makes what is no regular file, gives attributes to what was kept, and makes the names beyond the first.
    fn name(&self, file: &PlanFile, kept: bool) -> Result<(), ReadError> {
        let first = path(first(file));
        if kept {
            return Ok(self.target.set_meta(first, &file.meta)?);
        }
        if file.root.is_none() {
            self.clear(first, false)?;
            if !self.target.make_special(first, &file.meta)? {
                return Ok(());
            }
        }
        for other in file.paths.iter().skip(1).map(|other| path(other)) {
            self.clear(other, false)?;
            self.target.hard_link(first, other)?;
        }
        Ok(())
    }
}

/// A plan's file has at least one path.
fn first(file: &PlanFile) -> &[u8] {
    file.paths.first().map(Vec::as_slice).unwrap_or_default()
}

fn lock(buffer: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Restores a volume to a disk: planned, fetched, verified file by file, moved into place.
//!
//! No file gets its name before its root was found equal to the commit's, and nothing is written outside the target. What
//! cannot be read or created is reported, and the rest is restored. Only a full disk, a store that is gone or an interrupt
//! end a restore; then the target stays closed to others and holds only whole files.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use engine::manifest::Manifest;
use engine::model::{FileId, Seq};
use engine::plan::RestorePlan;

use crate::repository::error::ReadError;
use crate::repository::fetch::{cost, groups};
use crate::repository::job::{Failures, Job};
use crate::repository::merge::kept;
use crate::repository::reader::Reader;
use crate::repository::report::{Failure, Older, RestoreReport};
use crate::target::{Bounded, Target, TargetError, TargetOptions};

#[derive(Clone, Copy, Debug, Default)]
pub struct RestoreOptions {
    /// Restore into an existing tree: files that are equal already are not fetched, others are replaced. Nothing that is
    /// not in the volume is removed.
    pub merge: bool,
    /// Only plan; write nothing, not even create the target.
    pub dry_run: bool,
    /// Leave out devices, setuid and setgid bits, file capabilities, the flags immutable and append-only, and projects.
    pub untrusted: bool,
    /// Allow a state whose baseline is not complete.
    pub partial: bool,
    /// Set by another thread to end soon with [`ReadError::Interrupted`].
    pub stop: Option<&'static AtomicBool>,
}

/// Restores the state at `seq` into `target`, which is created if it is absent.
///
/// # Errors
/// `NotEmpty`, `NotADirectory` before anything is done; errors of reading the state at `seq`; `Stopped` with the cause if
/// the disk is full or the store is gone; `Interrupted`.
pub fn restore(reader: &Reader, seq: Seq, target: &Path, options: &RestoreOptions) -> Result<RestoreReport, ReadError> {
    let empty = check_target(target, options.merge)?;
    let manifest = complete(reader, reader.manifest(seq)?, options.partial)?;
    let flags_known = manifest.position().standing.is_some();
    let run = Run { reader, seq, dir: target, options, existing: options.merge && !empty, flags_known };
    let plan = RestorePlan::new(&manifest)?;
    if options.dry_run { run.plan_only(&manifest, plan) } else { run.write(&manifest, plan) }
}

/// Refuses a state without a complete baseline, unless that is `wanted`. Commits of format version 1 do not record it.
fn complete(reader: &Reader, manifest: Manifest, wanted: bool) -> Result<Manifest, ReadError> {
    let lacks = manifest.position().standing.is_some_and(|standing| !standing.baseline);
    if lacks && !wanted {
        return Err(ReadError::Incomplete { volume: reader.volume().to_owned(), seq: manifest.seq() });
    }
    Ok(manifest)
}

/// Refuses a target in which a restore could destroy something; `true` if it is absent or empty.
///
/// # Errors
/// `NotEmpty` unless `merge`, `NotADirectory`, `Target`.
pub fn check_target(target: &Path, merge: bool) -> Result<bool, ReadError> {
    use std::io::ErrorKind;
    let path = || target.to_path_buf();
    match Target::open(target, TargetOptions::default()).and_then(|target| target.is_empty()) {
        Ok(true) => Ok(true),
        Ok(false) if merge => Ok(false),
        Ok(false) => Err(ReadError::NotEmpty { path: path() }),
        Err(TargetError::Root { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(true),
        Err(TargetError::Root { source, .. }) if source.kind() == ErrorKind::NotADirectory => {
            Err(ReadError::NotADirectory { path: path() })
        }
        Err(error) => Err(error.into()),
    }
}

struct Run<'a> {
    reader: &'a Reader,
    seq: Seq,
    dir: &'a Path,
    options: &'a RestoreOptions,
    /// The target is not empty.
    existing: bool,
    /// Whether the state records inode flags; one of format version 1 does not.
    flags_known: bool,
}

impl Run<'_> {
    fn target(&self) -> Result<Target, ReadError> {
        let (untrusted, flags_known) = (self.options.untrusted, self.flags_known);
        let options = TargetOptions { untrusted, flags_known, sync: false, merge: self.existing };
        Ok(Target::open(self.dir, options)?)
    }

    fn report(&self, manifest: &Manifest, plan: &RestorePlan) -> RestoreReport {
        let at = manifest.position();
        RestoreReport {
            seq: self.seq,
            time: at.standing.map_or(at.time, |standing| standing.wall),
            baseline: at.standing.map(|standing| standing.baseline),
            stats: plan.stats,
            ..RestoreReport::default()
        }
    }

    fn plan_only(&self, manifest: &Manifest, mut plan: RestorePlan) -> Result<RestoreReport, ReadError> {
        let mut report = self.report(manifest, &plan);
        let kept = match self.existing {
            true => kept(&self.target()?, &plan.files, false, self.options.stop),
            false => HashSet::new(),
        };
        report.kept = kept.len() as u64;
        let groups = groups(&plan.files, std::mem::take(&mut plan.frames), &kept);
        (report.objects, report.requests, report.fetched_bytes) = cost(&groups);
        Ok(report)
    }

    fn write(&self, manifest: &Manifest, plan: RestorePlan) -> Result<RestoreReport, ReadError> {
        let mut report = self.report(manifest, &plan);
        self.make_target()?;
        let target = self.target()?;
        let failures = Failures::default();
        let job = Job::new(self.reader, &target, &plan, &failures, self.options.stop);
        if let Err(cause) = self.steps(&job, &mut report) {
            return Err(job.stopped(cause));
        }
        sync(self.dir)?;
        report.failed = self.failed(manifest, failures)?;
        (report.warnings, report.left_out) = target.warnings();
        Ok(report)
    }

    /// Creates the target, closed to others from the start.
    fn make_target(&self) -> Result<(), ReadError> {
        let failed = |source| ReadError::Directory { step: "make", path: PathBuf::from(self.dir), source };
        if let Some(above) = self.dir.parent() {
            std::fs::create_dir_all(above).map_err(failed)?;
        }
        match std::fs::DirBuilder::new().mode(0o700).create(self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(error)),
            _ => Ok(()),
        }
    }

    fn steps(&self, job: &Job<'_>, report: &mut RestoreReport) -> Result<(), ReadError> {
        job.make_dirs()?;
        let plan = job.plan;
        if self.existing {
            report.leftovers = job.remove_leftovers();
        }
        let kept = match self.existing {
            true => kept(job.target, &plan.files, true, self.options.stop),
            false => HashSet::new(),
        };
        report.kept = kept.len() as u64;
        job.count_kept(kept.len());
        let first = groups(&plan.files, plan.frames.clone(), &kept);
        (report.objects, report.requests, report.fetched_bytes) = cost(&first);
        job.files(&first)?;
        drop(first);
        let damaged = job.failures.take_damaged();
        if !damaged.is_empty() {
            self.again(job, &damaged.into_keys().collect())?;
        }
        job.specials()?;
        job.finish_dirs()
    }

    /// Tries damaged files once more: bytes may have been damaged in transfer, or an object may have been pruned after the
    /// plan was made, with a newer way to the same state.
    fn again(&self, first: &Job<'_>, damaged: &BTreeSet<FileId>) -> Result<(), ReadError> {
        tracing::info!("{} files are damaged: reading them again", damaged.len());
        let manifest = self.reader.manifest(self.seq)?;
        let mut plan = RestorePlan::new(&manifest)?;
        let others =
            (0u32..).zip(&plan.files).filter(|(_, file)| !damaged.contains(&file.id)).map(|(n, _)| n).collect();
        let groups = groups(&plan.files, std::mem::take(&mut plan.frames), &others);
        first.with(&plan).files(&groups)
    }

    fn failed(&self, manifest: &Manifest, failures: Failures) -> Result<Bounded<Failure>, ReadError> {
        let damaged = failures.take_damaged();
        let older = self.reader.whole_versions(manifest, &damaged)?;
        let mut all = Bounded::default();
        for (id, failure) in damaged {
            all.push(Failure { older: Some(older.get(&id).copied().unwrap_or(Older::NotLooked)), ..failure });
        }
        let others = failures.take_others();
        let more = others.count - others.first.len() as u64;
        others.first.into_iter().for_each(|failure| all.push(failure));
        all.count += more;
        Ok(all)
    }
}

/// Everything written is on disk before the restore reports success.
fn sync(dir: &Path) -> Result<(), ReadError> {
    let failed = |source| ReadError::Directory { step: "sync", path: PathBuf::from(dir), source };
    let opened = std::fs::File::open(dir);
    match opened.and_then(|dir| rustix::fs::syncfs(dir).map_err(Into::into)) {
        // The restored mode may forbid its owner to open it: sync everything then.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            rustix::fs::sync();
            Ok(())
        }
        other => other.map_err(failed),
    }
}

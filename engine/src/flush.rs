//! One pass over a volume, from drain to commit: the order of steps, and nothing else (invariants I2, I3, I5).
//!
//! ```text
//! drain:  SWAP  GRACE  save pending  clear maps
//! flush:  list directories -> reconcile names -> per file STATX CLEAN BARRIER READ -> plan content
//!         put packs -> catalog: intent and new values, one transaction -> create commit -> settle -> forget pending
//! ```
//!
//! Every step is a call on `DrainWorld` or `World`; an error of theirs ends the flush at once, and whatever was taken is
//! still pending in the catalog. A file that cannot be read now is no error of the flush: its marks are kept.

mod attributes;
mod claimed;
pub mod commit;
pub mod content;
mod few_names;
mod leave;
mod limits;
mod mass_delete;
pub mod names;
pub mod read;
pub mod rebind;
mod room;
mod steps;
pub mod world;
pub mod xattrs;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::dirty::{DirtySet, Marks};
use crate::model::{BLOCK_BYTES, FileId, Id, Kind, NameChange, Time};
use commit::{Builder, Settled};
use leave::{keep_left_out, keep_unread, leave_out};
pub use limits::Limits;
pub use mass_delete::MaxDelete;
pub use steps::Steps;
use world::{DrainWorld, FileError, Head, ReadJob, Unknown, World};

/// What is fixed for one flush before it begins.
#[derive(Clone, Debug)]
pub struct FlushFacts {
    pub volume: Id,
    pub writer: Id,
    pub epoch: u64,
    /// Random, new for this flush.
    pub commit_id: Id,
    /// Wall clock from before SWAP.
    pub now: Time,
    /// Counts the drains of this volume; only its order matters.
    pub drain: u64,
    /// Whether files that a listing shows to differ from their record are read whole, marked or not: true while marks
    /// are not trusted (first pass after a start without pins) and for the scan back end.
    pub compare: bool,
    /// The first pass was through before this flush. Else `taken` is all that is pending, and the pass is through if the flush
    /// leaves nothing over.
    pub baseline: bool,
    pub steps: Steps,
    pub limits: Limits,
    pub max_delete: MaxDelete,
}

/// How a flush ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing had to be committed.
    Unchanged,
    Committed(Head),
    /// Another writer holds the sequence: this one must stop.
    Fenced {
        seq: u64,
    },
    /// The store did not tell whether the commit took effect; `flush` asks again before anything else.
    Unsettled,
}

impl Outcome {
    /// Whether every mark that was taken, and is not kept, is in a commit of this writer, or changed nothing.
    pub fn is_settled(&self) -> bool {
        match self {
            Outcome::Unchanged | Outcome::Committed(_) => true,
            Outcome::Fenced { .. } | Outcome::Unsettled => false,
        }
    }
}

/// Whether a flush that ended with `outcome`, and kept marks or not, lets those go who wait for all changes from before its
/// SWAP to be in the store.
pub fn acknowledges(outcome: &Outcome, all_read: bool, steps: Steps) -> bool {
    all_read && (outcome.is_settled() || (!steps.settled_only && *outcome != Outcome::Unsettled))
}

/// What a flush did, for status, metrics and tests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub files_read: u64,
    pub bytes_read: u64,
    pub bytes_marked: u64,
    pub bytes_literal: u64,
    /// Whole-content reads for doubt.
    pub rescans: u64,
    pub errors: Vec<(FileId, FileError)>,
    /// Files whose attributes are not in the commits as they are on the disk: which, and why.
    pub partial: Vec<(FileId, String)>,
    /// Inodes that go on being pending only because of something that lasts (`FileError::is_lasting`).
    pub lasting: BTreeSet<u64>,
    /// New files left out for another reason.
    pub put_off: u64,
    /// Directories that could not be listed.
    pub unlisted: Vec<(FileId, String)>,
    /// By directory, names of which nothing can be learned or that the format does not hold, and why.
    pub unknown: Vec<(FileId, Unknown)>,
    /// Removals that wait for proof.
    pub removals_waiting: u64,
    /// Files whose removal waits for a person (`MaxDelete`).
    pub removals_held: u64,
    /// Removals that had no room in the commit.
    pub removals_left: u64,
    /// Files of the volume before this flush, where they were counted: when many were to be removed.
    pub files_before: u64,
    /// Inodes left pending for want of room in this flush.
    pub carried: u64,
}

impl Report {
    /// A known file could not be read; its marks are kept.
    fn failed(&mut self, id: FileId, ino: u64, error: FileError) {
        if error.is_lasting() {
            self.lasting.insert(ino);
        }
        self.errors.push((id, error));
    }

    /// Whether `kept`, what this flush left pending, is there only because it cannot be read, so that the next flush will do no
    /// better: the rest of the volume is in the commits.
    pub fn only_lasting(&self, kept: &DirtySet) -> bool {
        self.carried == 0
            && self.put_off == 0
            && self.removals_waiting == 0
            && kept.iter().all(|(ino, _)| self.lasting.contains(&ino))
    }
}

/// SWAP, GRACE, save, clear.
pub fn drain<W: DrainWorld>(world: &mut W, steps: Steps) -> Result<(), W::Error> {
    if steps.swap {
        world.swap()?;
    }
    if steps.grace {
        world.grace()?;
    }
    if steps.durable_pending {
        world.save_retired()?;
        world.clear_retired()
    } else {
        world.clear_retired()?;
        world.save_retired()
    }
}

/// Before the first SWAP of a process that found the maps of a former one: that one may have died at any step of a drain,
/// so the retired generation may hold marks, and programs that saw it may still be running.
pub fn take_up<W: DrainWorld>(world: &mut W) -> Result<(), W::Error> {
    world.grace()?;
    world.save_retired()?;
    world.clear_retired()
}

/// Flushes `taken`. What comes back in the second place must go on being pending.
pub fn flush<W: World>(
    world: &mut W,
    taken: &DirtySet,
    facts: &FlushFacts,
    report: &mut Report,
) -> Result<(Outcome, DirtySet), W::Error> {
    match commit::settle_intent(world, facts)? {
        Settled::Clear(_) => {}
        Settled::Fenced { seq } => return Ok((Outcome::Fenced { seq }, taken.clone())),
        Settled::Unknown => return Ok((Outcome::Unsettled, taken.clone())),
    }
    let mut kept = DirtySet::default();
    let mut names = names::gather(world, taken, facts, report, &mut kept)?;
    mass_delete::guard(world, facts, report, &mut names)?;
    few_names::limit_changes(world, facts, report, &mut names)?;
    names.look_where_decided(world)?;
    let mut jobs = plan_jobs(world, taken, &names, facts, report, &mut kept)?;

    let mut builder = Builder::new(world, facts)?;
    let mut excluded: HashSet<FileId> = std::mem::take(&mut jobs.excluded);
    excluded.extend(&names.excluded);
    read_contents(world, &jobs, taken, facts, report, &mut builder, &mut excluded, &mut kept)?;
    leave_out(world, taken, facts, report, &mut names, &mut builder, excluded, &mut kept)?;
    let held = mass_delete::hold(world, facts, &mut names)?;
    room::limit_removals(world, facts, report, &mut names)?;
    builder.keep_only(world, &names)?;
    builder.add_names(world, &names, taken, facts, report, &mut kept)?;
    keep_unread(world, taken, &names, facts, &builder, &mut kept)?;
    keep_left_out(taken, facts, report, &mut builder, &mut kept);
    names.forget_gone(world, &mut kept)?;
    mass_delete::keep_marks(world, taken, &names, report, &mut kept)?;
    report.removals_waiting = (names.plan.missing.len() as u64).saturating_sub(held);
    for missing in &names.plan.missing {
        // A name that waits for proof has its directory listed again after a later swap.
        if let Some(record) = world.record(missing.parent)? {
            let since_ns = taken.get(record.inode.ino).map_or(now_ns(facts), |waiting| waiting.since_ns);
            kept.add(record.inode.ino, &Marks::names(), since_ns);
            if held > 0 && report.removals_waiting == 0 {
                report.lasting.insert(record.inode.ino);
            }
        }
    }
    let mut left = names.left_out_numbers();
    for id in &names.plan.gone {
        left.extend(world.record(*id)?.map(|record| record.inode.ino));
    }
    if builder.lacks_source() {
        // A history begins with the source directory's own attributes; without them no commit of it could be restored.
        report.put_off += 1;
        for (ino, waiting) in taken.iter() {
            kept.add(ino, &waiting.marks, waiting.since_ns);
        }
        return Ok((Outcome::Unchanged, kept));
    }
    // What cannot be read is named, and a first pass is complete without it.
    let complete = facts.baseline || (report.only_lasting(&kept) && report.removals_held == 0);
    let outcome = builder.commit(world, facts, &names, taken, &kept, complete)?;
    if matches!(outcome, Outcome::Committed(_)) {
        stop_watching(world, left)?;
    }
    if !outcome.is_settled() && (facts.steps.settled_only || outcome == Outcome::Unsettled) {
        // Nothing is forgotten before the commit is durable (I3), and nothing of it is in a commit of another writer.
        for (ino, waiting) in taken.iter() {
            kept.add(ino, &waiting.marks, waiting.since_ns);
        }
    }
    Ok((outcome, kept))
}

/// Takes inodes that left the tree out of the watch set, which would fill up otherwise. A number that another file has by
/// now is spared; one that is given to a file not seen yet is watched again when that is seen, before it is read.
fn stop_watching<W: World>(world: &mut W, mut inodes: Vec<u64>) -> Result<(), W::Error> {
    let mut used = Vec::new();
    for ino in &inodes {
        used.push(!world.by_inode(*ino)?.is_empty());
    }
    let mut used = used.into_iter();
    inodes.retain(|_| !used.next().unwrap_or(true));
    if inodes.is_empty() { Ok(()) } else { world.unwatch(&inodes) }
}

/// The files to read.
#[derive(Default)]
struct Jobs {
    reads: Vec<ReadJob>,
    /// New files whose content had no room in this flush.
    excluded: HashSet<FileId>,
    bases: BTreeMap<FileId, FileId>,
    /// Bytes to read of each, as far as known before.
    sizes: BTreeMap<FileId, u64>,
}

/// Where a flush begins in a list of `len`: in about every second flush at its beginning, else anywhere. Drawn from the
/// number of the drain, of which a volume may see every second one only: drains are those of all volumes.
fn first_of(drain: u64, len: usize) -> usize {
    let drawn = drain.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    if drawn.is_multiple_of(2) || len == 0 { 0 } else { (drawn / 2 % len as u64) as usize }
}

#[expect(clippy::too_many_lines, reason = "it is to be cut where it turns a corner")]
fn plan_jobs<W: World>(
    world: &mut W,
    taken: &DirtySet,
    names: &names::Gathered,
    facts: &FlushFacts,
    report: &mut Report,
    kept: &mut DirtySet,
) -> Result<Jobs, W::Error> {
    let mut jobs = Jobs::default();
    let gone: BTreeSet<FileId> = names.plan.gone.iter().copied().collect();
    let (mut files, mut bytes) = (0usize, 0u64);
    let mut waiting: Vec<(u64, &crate::dirty::Waiting)> = taken.iter().collect();
    waiting.sort_by_key(|(ino, waiting)| (waiting.since_ns, *ino));
    // The oldest may be one that cannot be read and takes up the whole flush.
    let first = first_of(facts.drain, waiting.len());
    waiting.rotate_left(first);
    for (ino, waiting) in waiting {
        // Of all files with that number: marks are kept by number, and some of them would never all be read.
        let full = files >= facts.limits.files || bytes >= facts.limits.bytes;
        for record in world.by_inode(ino)? {
            if record.meta.kind != Kind::File || gone.contains(&record.id) || names.held_back.contains(&record.id) {
                continue;
            }
            if full {
                report.carried += 1;
                kept.add(ino, &waiting.marks, waiting.since_ns);
                continue;
            }
            let mut marks = claimed::marks_of(&record, &waiting.marks);
            if marks.from == Some(0) {
                marks.whole = true;
            }
            if marks.rescan {
                report.rescans += 1;
            }
            if !marks.all_content() {
                let room = (facts.limits.marked_bytes_of_a_file / BLOCK_BYTES).max(1);
                if marks.blocks.len() > room {
                    // Another part in each flush: a file that is marked all over, all the time, has its end carried too.
                    let part = facts.drain % marks.blocks.len().div_ceil(room);
                    let now = marks.blocks.iter().skip((part * room) as usize).take(room as usize).collect();
                    let rest = Marks { blocks: &marks.blocks - &now, ..Marks::default() };
                    marks.blocks = now;
                    kept.add(ino, &rest, waiting.since_ns);
                }
            }
            let expected =
                if marks.all_content() { record.size } else { marks.blocks_within(record.size).len() * BLOCK_BYTES };
            if expected > facts.limits.marked_bytes_of_a_file {
                marks.whole = true;
            }
            jobs.sizes.insert(record.id, expected);
            files += 1;
            bytes += expected;
            report.bytes_marked += marks.blocks.len() * BLOCK_BYTES;
            let committed_size = Some(record.size);
            jobs.reads.push(ReadJob { id: record.id, inode: record.inode, marks, committed_size });
        }
    }
    if facts.compare {
        let queued: BTreeMap<FileId, usize> = jobs.reads.iter().enumerate().map(|(at, job)| (job.id, at)).collect();
        for (id, stat) in &names.plan.seen {
            let Some(record) = world.record(*id)? else { continue };
            let same = record.ctime == Some(stat.ctime) && record.size == stat.size && record.meta.mtime == stat.mtime;
            if stat.kind != Kind::File || same {
                continue;
            }
            if let Some(job) = queued.get(id).and_then(|at| jobs.reads.get_mut(*at)) {
                // Its marks are not all that changed: they are not trusted here, or were kept for its attributes.
                job.marks.rescan = true;
                jobs.sizes.insert(*id, stat.size);
                continue;
            }
            if files >= facts.limits.files || bytes >= facts.limits.bytes {
                report.carried += 1;
                kept.add(stat.inode.ino, &Marks::rescan(), now_ns(facts));
                continue;
            }
            files += 1;
            bytes += stat.size;
            jobs.sizes.insert(*id, stat.size);
            report.rescans += 1;
            let (marks, committed_size) = (Marks::rescan(), Some(record.size));
            jobs.reads.push(ReadJob { id: *id, inode: record.inode, marks, committed_size });
        }
    }
    claimed::add_jobs(world, names, facts, report, &mut jobs)?;
    // New files have a share of their own: known ones that cannot be read would keep them out of every flush, and while they
    // wait no further directory is listed, which may be what those others wait for.
    (files, bytes) = (0, 0);
    for new in &names.plan.new {
        if new.stat.kind != Kind::File {
            continue;
        }
        if files >= facts.limits.files || bytes >= facts.limits.bytes {
            report.carried += 1;
            jobs.excluded.insert(new.id);
            continue;
        }
        files += 1;
        bytes += new.stat.size;
        jobs.sizes.insert(new.id, new.stat.size);
        if let Some(base) = new.replaces {
            jobs.bases.insert(new.id, base);
        }
        let marks = Marks::default();
        jobs.reads.push(ReadJob { id: new.id, inode: new.stat.inode, marks, committed_size: None });
    }
    Ok(jobs)
}

#[expect(clippy::too_many_arguments, reason = "the parts of one flush; a struct would only rename them")]
fn read_contents<W: World>(
    world: &mut W,
    jobs: &Jobs,
    taken: &DirtySet,
    facts: &FlushFacts,
    report: &mut Report,
    builder: &mut Builder,
    excluded: &mut HashSet<FileId>,
    kept: &mut DirtySet,
) -> Result<(), W::Error> {
    let (large, small): (Vec<&ReadJob>, Vec<&ReadJob>) =
        jobs.reads.iter().partition(|job| jobs.sizes.get(&job.id).copied().unwrap_or(0) > facts.limits.stream_bytes);
    let mut failed = |job: &ReadJob, error: FileError, report: &mut Report| {
        if job.committed_size.is_some() {
            // Without marks it was found by comparison, and is as much in doubt.
            let (marks, since_ns) = taken
                .get(job.inode.ino)
                .map_or((&job.marks, now_ns(facts)), |waiting| (&waiting.marks, waiting.since_ns));
            kept.add(job.inode.ino, marks, since_ns);
            report.failed(job.id, job.inode.ino, error);
        } else {
            excluded.insert(job.id);
            report.errors.push((job.id, error));
        }
    };
    // In pieces, so that what is held in memory is bounded by the stream size times the piece.
    let small: Vec<ReadJob> = small.into_iter().cloned().collect();
    for piece in small.chunks(SMALL_JOBS_AT_ONCE) {
        let images = world.read_files(piece, facts.steps);
        for (job, image) in piece.iter().zip(images) {
            match image {
                Ok(image) => {
                    let base = jobs.bases.get(&job.id).copied();
                    let short = image.short;
                    match builder.add_image(world, job, image, base, facts, report)? {
                        Ok(()) if short => failed(job, FileError::Unsteady { times: 1 }, report),
                        Ok(()) => {}
                        Err(error) => failed(job, error, report),
                    }
                }
                Err(error) => failed(job, error, report),
            }
        }
    }
    for job in large {
        let base = jobs.bases.get(&job.id).copied();
        if let Err(error) = builder.stream_file(world, job, base, facts, report)? {
            failed(job, error, report);
        }
    }
    Ok(())
}

/// When the flush began, in ns since 1970.
fn now_ns(facts: &FlushFacts) -> u64 {
    u64::try_from(facts.now.sec).unwrap_or(0) * 1_000_000_000 + u64::from(facts.now.nsec)
}

/// Files whose images are held in memory together.
const SMALL_JOBS_AT_ONCE: usize = 32;

/// Applies the name changes of one commit: all removals, then all settings.
pub fn apply_names(names: &mut BTreeMap<(FileId, Vec<u8>), FileId>, changes: &[NameChange]) {
    for change in changes {
        if let NameChange::Unset { parent, name } = change {
            names.remove(&(*parent, name.clone()));
        }
    }
    for change in changes {
        if let NameChange::Set { parent, name, id } = change {
            names.insert((*parent, name.clone()), *id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::first_of;

    /// A volume may see every drain, or every second or third one: whatever stands in front is passed over some time, and
    /// the order is kept often enough that the oldest is not forgotten.
    #[test]
    fn every_place_is_first_some_time_and_the_oldest_often() {
        for step in 1..=4 {
            let drawn: Vec<usize> = (0..200).map(|round| first_of(round * step, 5)).collect();
            assert!((0..5).all(|place| drawn.contains(&place)), "{step}: {drawn:?}");
            assert!(drawn.windows(16).all(|some| some.contains(&0)), "{step}: {drawn:?}");
        }
        assert_eq!(first_of(7, 0), 0);
    }
}

//! Decides which files a flush reads, and how much of each.
//!
//! Files without a lasting identity are fully re-read: an inode number without a generation proves nothing about its file.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::budget::Budget;
use super::gathered::Gathered;
use super::running::Flush;
use super::world::World;
use crate::catalog::Record;
use crate::dirty::{DirtySet, Marks, Waiting};
use crate::identity::Span;
use crate::model::{BLOCK_BYTES, FileId, Ino, Kind};
use crate::source::ReadJob;

/// The files to read.
#[derive(Default)]
pub(super) struct Jobs {
    pub(super) reads: Vec<ReadJob>,
    /// Files whose content does not fit into this flush, so that they keep their committed names.
    pub(super) excluded: HashSet<FileId>,
    /// For a new file, the file whose name it took.
    pub(super) bases: BTreeMap<FileId, FileId>,
    /// Bytes to read of each file, as far as known before reading.
    pub(super) sizes: BTreeMap<FileId, u64>,
}

impl Jobs {
    /// Adds a full re-read of a known file that now has `size` bytes.
    fn rescan(&mut self, record: &Record, size: u64, taken: &DirtySet) {
        self.sizes.insert(record.id, size);
        let remapped = is_remapped(taken, record.inode.ino);
        let (marks, committed_size) = (Marks { remapped, ..Marks::rescan() }, Some(record.size));
        self.reads.push(ReadJob { id: record.id, inode: record.inode, marks, committed_size });
    }
}

/// Whether the pages of an inode in memory may be older than its blocks, however much of it is read.
fn is_remapped(taken: &DirtySet, ino: Ino) -> bool {
    taken.get(ino).is_some_and(|waiting| waiting.marks.remapped)
}

/// Decides which files are read.
pub(super) fn plan<W: World>(flush: &mut Flush<'_, W>, names: &Gathered) -> Result<Jobs, W::Error> {
    let mut jobs = Jobs::default();
    let mut budget = Budget::of(&flush.facts.limits);
    add_marked(flush, names, &mut budget, &mut jobs)?;
    if flush.facts.compare {
        add_differing(flush, names, &mut budget, &mut jobs)?;
    }
    if flush.facts.steps.read_claimed {
        add_claimed(flush, names, &mut jobs)?;
    }
    add_new(flush, names, &mut jobs);
    Ok(jobs)
}

/// Adds known files with marks of content or attributes.
fn add_marked<W: World>(
    flush: &mut Flush<'_, W>,
    names: &Gathered,
    budget: &mut Budget,
    jobs: &mut Jobs,
) -> Result<(), W::Error> {
    let gone: BTreeSet<FileId> = names.plan.gone.iter().copied().collect();
    let mut waiting: Vec<(Ino, &Waiting)> = flush.taken.iter().collect();
    waiting.sort_by_key(|(ino, waiting)| (waiting.since_ns, *ino));
    // Rotate: the oldest file may be unreadable and use up the whole flush.
    let first = flush.facts.first_of(waiting.len());
    waiting.rotate_left(first);
    for (ino, waiting) in waiting {
        // Take all files with that number or none: marks are kept by inode number, and a partial choice might never read
        // all of them.
        let full = budget.is_spent();
        for record in flush.world.by_inode(ino)? {
            if record.meta.kind != Kind::File || gone.contains(&record.id) || names.held_back.contains(&record.id) {
                continue;
            }
            if full {
                flush.report.carried += 1;
                flush.kept.add(ino, &waiting.marks, waiting.since_ns);
                continue;
            }
            let (marks, expected) = marks_to_read(flush, &record, waiting);
            jobs.sizes.insert(record.id, expected);
            budget.spend(expected);
            flush.report.bytes_marked += marks.blocks.len() * BLOCK_BYTES;
            let committed_size = Some(record.size);
            jobs.reads.push(ReadJob { id: record.id, inode: record.inode, marks, committed_size });
        }
    }
    Ok(())
}

/// The marks by which a known file is read in this flush, and about how many bytes that is. If a file has very many marked
/// blocks, only a part is read and the marks of the rest are kept.
fn marks_to_read<W: World>(flush: &mut Flush<'_, W>, record: &Record, waiting: &Waiting) -> (Marks, u64) {
    let limits = &flush.facts.limits;
    let mut marks = match Span::of(record.inode) {
        Span::Always => waiting.marks.clone(),
        // The marked number may belong to another file by now.
        Span::Mount => Marks { rescan: true, ..waiting.marks.clone() },
    };
    if marks.from == Some(0) {
        marks.whole = true;
    }
    if marks.rescan {
        flush.report.rescans += 1;
    }
    let most = (limits.marked_bytes_of_a_file / BLOCK_BYTES).max(1);
    if !marks.all_content() && marks.blocks.len() > most {
        // Take another part in each flush, so that a file that is constantly marked all over gets its end committed too.
        let part = flush.facts.drain % marks.blocks.len().div_ceil(most);
        let now = marks.blocks.iter().skip((part * most) as usize).take(most as usize).collect();
        let rest = Marks { blocks: &marks.blocks - &now, remapped: marks.remapped, ..Marks::default() };
        marks.blocks = now;
        flush.kept.add(record.inode.ino, &rest, waiting.since_ns);
    }
    let expected = if marks.all_content() { record.size } else { marks.blocks_within(record.size).len() * BLOCK_BYTES };
    if expected > limits.marked_bytes_of_a_file {
        marks.whole = true;
    }
    (marks, expected)
}

/// Adds known files whose listing differs from their record.
fn add_differing<W: World>(
    flush: &mut Flush<'_, W>,
    names: &Gathered,
    budget: &mut Budget,
    jobs: &mut Jobs,
) -> Result<(), W::Error> {
    let queued: BTreeMap<FileId, usize> = jobs.reads.iter().enumerate().map(|(at, job)| (job.id, at)).collect();
    for (id, stat) in &names.plan.seen {
        let Some(record) = flush.world.record(*id)? else { continue };
        let same = record.ctime == Some(stat.ctime) && record.size == stat.size && record.meta.mtime == stat.mtime;
        if stat.kind != Kind::File || same {
            continue;
        }
        if let Some(job) = queued.get(id).and_then(|at| jobs.reads.get_mut(*at)) {
            // The marks may not cover all changes: they are not trusted, or were kept only for the file's attributes.
            job.marks.rescan = true;
            jobs.sizes.insert(*id, stat.size);
            continue;
        }
        if budget.is_spent() {
            flush.report.carried += 1;
            flush.kept.add(stat.inode.ino, &Marks::rescan(), flush.facts.now_ns());
            continue;
        }
        budget.spend(stat.size);
        flush.report.rescans += 1;
        jobs.rescan(&record, stat.size, flush.taken);
    }
    Ok(())
}

/// Adds known files that the plan recognised under another name by their inode number alone. They are fully re-read; if
/// there is no room, they keep their committed names.
fn add_claimed<W: World>(flush: &mut Flush<'_, W>, names: &Gathered, jobs: &mut Jobs) -> Result<(), W::Error> {
    let queued: HashSet<FileId> = jobs.reads.iter().map(|job| job.id).collect();
    let mut budget = Budget::of(&flush.facts.limits);
    for id in names.plan.claimed.iter().filter(|id| !queued.contains(id)) {
        let Some(record) = flush.world.record(*id)? else { continue };
        if budget.is_spent() {
            flush.report.carried += 1;
            jobs.excluded.insert(*id);
            continue;
        }
        budget.spend(record.size);
        jobs.rescan(&record, record.size, flush.taken);
    }
    Ok(())
}

/// Adds new files, with a budget of their own. With a shared one, known files that cannot be read would keep new ones out
/// of every flush; and while new files wait no further directory is listed, although those known files may have moved
/// there.
fn add_new<W: World>(flush: &mut Flush<'_, W>, names: &Gathered, jobs: &mut Jobs) {
    let mut budget = Budget::of(&flush.facts.limits);
    for new in names.plan.new.iter().filter(|new| new.stat.kind == Kind::File) {
        if budget.is_spent() {
            flush.report.carried += 1;
            jobs.excluded.insert(new.id);
            if let Some(waiting) = flush.taken.get(new.stat.inode.ino).filter(|waiting| waiting.marks.remapped) {
                // To read it whole later is not enough.
                flush.kept.add(new.stat.inode.ino, &waiting.marks, waiting.since_ns);
            }
            continue;
        }
        budget.spend(new.stat.size);
        jobs.sizes.insert(new.id, new.stat.size);
        if let Some(base) = new.replaces {
            jobs.bases.insert(new.id, base);
        }
        let marks = Marks { remapped: is_remapped(flush.taken, new.stat.inode.ino), ..Marks::default() };
        jobs.reads.push(ReadJob { id: new.id, inode: new.stat.inode, marks, committed_size: None });
    }
}

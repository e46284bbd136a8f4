//! Reading of files that have no lasting identity: what a number without a generation says of them is never believed.

use std::collections::HashSet;

use super::names::Gathered;
use super::world::{ReadJob, Record, World};
use super::{FlushFacts, Jobs, Report};
use crate::dirty::Marks;
use crate::identity::Span;
use crate::model::FileId;

/// The marks of a known file by which it is read: all of it where the marked number may have been given to another file.
pub(super) fn marks_of(record: &Record, marks: &Marks) -> Marks {
    match Span::of(record.inode) {
        Span::Always => marks.clone(),
        Span::Mount => Marks { rescan: true, ..marks.clone() },
    }
}

/// Files that the plan takes for known ones under another name: they are read whole, or excluded where there is no room.
pub(super) fn add_jobs<W: World>(
    world: &W,
    names: &Gathered,
    facts: &FlushFacts,
    report: &mut Report,
    jobs: &mut Jobs,
) -> Result<(), W::Error> {
    if !facts.steps.read_claimed {
        return Ok(());
    }
    let queued: HashSet<FileId> = jobs.reads.iter().map(|job| job.id).collect();
    let (mut files, mut bytes) = (0usize, 0u64);
    for id in names.plan.claimed.iter().filter(|id| !queued.contains(id)) {
        let Some(record) = world.record(*id)? else { continue };
        if files >= facts.limits.files || bytes >= facts.limits.bytes {
            report.carried += 1;
            jobs.excluded.insert(*id);
            continue;
        }
        files += 1;
        bytes += record.size;
        jobs.sizes.insert(*id, record.size);
        let (marks, committed_size) = (Marks::rescan(), Some(record.size));
        jobs.reads.push(ReadJob { id: *id, inode: record.inode, marks, committed_size });
    }
    Ok(())
}

//! What a flush leaves for the next one: new files that could not be read, and marks of what was not.

use std::collections::HashSet;

use super::commit::Builder;
use super::world::World;
use super::xattrs::Told;
use super::{FlushFacts, Report, mass_delete, names, now_ns};
use crate::dirty::{DirtySet, Marks};
use crate::model::{FileId, Kind};

/// Every mark that was taken was read, or is kept, or its file is gone: what an earlier decision skipped (a file that
/// seemed gone and was then found after all) is kept here.
pub(super) fn keep_unread<W: World>(
    world: &mut W,
    taken: &DirtySet,
    names: &names::Gathered,
    facts: &FlushFacts,
    builder: &Builder,
    kept: &mut DirtySet,
) -> Result<(), W::Error> {
    for (ino, waiting) in taken.iter() {
        for record in world.by_inode(ino)? {
            if names.plan.gone.contains(&record.id) || kept.get(ino).is_some() {
                continue;
            }
            let done = match record.meta.kind {
                Kind::Dir => !waiting.marks.names || names.was_listed(record.id),
                Kind::File => builder.has(record.id),
                _ => true,
            };
            if !done {
                kept.add(ino, &waiting.marks, waiting.since_ns);
            }
        }
    }
    for new in names.plan.new.iter().filter(|new| names.plan.unused.contains(&new.id)) {
        kept.add(new.stat.inode.ino, &Marks::names(), now_ns(facts));
    }
    Ok(())
}

/// Takes new files back out of the plan that could not be read, or that only deciding again brought to light (nothing of
/// them was armed or read), until the plan holds none. Their directories are listed again in the next flush.
#[expect(clippy::too_many_arguments, reason = "the parts of one flush; a struct would only rename them")]
pub(super) fn leave_out<W: World>(
    world: &mut W,
    taken: &DirtySet,
    facts: &FlushFacts,
    report: &mut Report,
    names: &mut names::Gathered,
    builder: &mut Builder,
    mut excluded: HashSet<FileId>,
    kept: &mut DirtySet,
) -> Result<(), W::Error> {
    loop {
        let elsewhere =
            if facts.steps.content_of_names { builder.drop_read_elsewhere(world, names)? } else { Vec::new() };
        for ino in elsewhere {
            // Without marks it was found by comparison, or is new: then its directory is listed again too.
            let doubt = (Marks::rescan(), now_ns(facts));
            let (marks, since_ns) = taken.get(ino).map_or(doubt, |waiting| (waiting.marks.clone(), waiting.since_ns));
            kept.add(ino, &marks, since_ns);
        }
        for new in &names.plan.new {
            if new.stat.kind != Kind::File
                && names.is_armed(new.id)
                && !builder.has(new.id)
                && !excluded.contains(&new.id)
                && let Err(error) = builder.read_other(world, new)
            {
                if !facts.steps.whole_entries {
                    builder.take_plain(new);
                }
                report.errors.push((new.id, error));
            }
            if !names.is_armed(new.id) || !builder.has(new.id) {
                excluded.insert(new.id);
            }
        }
        if facts.steps.read_claimed {
            excluded.extend(names.plan.claimed.iter().filter(|id| !builder.has(**id)));
        }
        let taken_over = mass_delete::replaced(world, names)?;
        excluded.extend(&taken_over);
        let waits = |id: &FileId| excluded.contains(id);
        if taken_over.is_empty()
            && !names.plan.new.iter().any(|new| waits(&new.id))
            && !names.plan.claimed.iter().any(waits)
        {
            break;
        }
        names.exclude(world, facts, &excluded)?;
    }
    let lasting: HashSet<FileId> =
        report.errors.iter().filter(|(_, error)| error.is_lasting()).map(|(id, _)| *id).collect();
    report.put_off = excluded.iter().filter(|id| !lasting.contains(id) && !names.held_back.contains(id)).count() as u64;
    for dir in &names.plan.held {
        let ino = names.inode_of(world, *dir)?;
        // What is put off is counted, so this directory alone decides nothing.
        report.lasting.insert(ino);
        kept.add(ino, &Marks::names(), taken.get(ino).map_or(now_ns(facts), |waiting| waiting.since_ns));
    }
    Ok(())
}

/// What is not in the commits of a file's attributes is looked at again in the next flush, and told until then.
pub(super) fn keep_left_out(
    taken: &DirtySet,
    facts: &FlushFacts,
    report: &mut Report,
    builder: &mut Builder,
    kept: &mut DirtySet,
) {
    for (id, (ino, left_out)) in std::mem::take(&mut builder.left_out) {
        if !builder.has(id) && report.errors.iter().any(|(failed, _)| *failed == id) {
            continue;
        }
        kept.add(ino, &Marks::meta(), taken.get(ino).map_or(now_ns(facts), |waiting| waiting.since_ns));
        report.lasting.insert(ino);
        report.partial.push((id, Told(&left_out).to_string()));
    }
}

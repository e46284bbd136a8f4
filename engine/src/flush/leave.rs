//! What a flush leaves for the next one: new files that could not be read, and marks of files that were not read.

use std::collections::HashSet;

use super::attributes::{read_other, take_plain};
use super::builder::Builder;
use super::gathered::Gathered;
use super::mass_delete;
use super::running::Flush;
use super::world::{CommittedState, World};
use crate::dirty::Marks;
use crate::model::{FileId, Kind};
use crate::xattrs::Told;

/// Keeps every taken mark whose file was neither read nor removed. An earlier decision may have skipped such a file, for
/// instance when it seemed gone and was found afterwards.
pub(super) fn keep_unread<W: CommittedState>(
    flush: &mut Flush<'_, W>,
    names: &Gathered,
    builder: &Builder,
) -> Result<(), W::Error> {
    for (ino, waiting) in flush.taken.iter() {
        for record in flush.world.by_inode(ino)? {
            if names.plan.gone.contains(&record.id) {
                continue;
            }
            let done = match record.meta.kind {
                Kind::Dir => !waiting.marks.names || names.was_listed(record.id),
                Kind::File => builder.has(record.id),
                _ => true,
            };
            if !done {
                flush.kept.add(ino, &waiting.marks, waiting.since_ns);
            }
        }
    }
    for new in names.plan.new.iter().filter(|new| names.plan.unused.contains(&new.id)) {
        flush.kept.add(new.stat.inode.ino, &Marks::names(), flush.facts.now_ns());
    }
    Ok(())
}

/// Takes new files out of the plan that were not read: their read failed, or a later decision added them and they were
/// never watched. Repeats until the plan holds none. The next flush lists their directories again.
pub(super) fn leave_out<W: World>(
    flush: &mut Flush<'_, W>,
    names: &mut Gathered,
    builder: &mut Builder,
    mut excluded: HashSet<FileId>,
) -> Result<(), W::Error> {
    let steps = flush.facts.steps;
    loop {
        let elsewhere =
            if steps.content_of_names { builder.drop_read_elsewhere(&*flush.world, names)? } else { Vec::new() };
        for ino in elsewhere {
            // A file without taken marks was found by comparison, or is new; if new, its directory is listed again too.
            flush.keep_taken_or(ino, &Marks::rescan());
        }
        read_others(flush, names, builder, &mut excluded);
        if steps.read_claimed {
            excluded.extend(names.plan.claimed.iter().filter(|id| !builder.has(**id)));
        }
        let taken_over = mass_delete::replaced(&*flush.world, names)?;
        excluded.extend(&taken_over);
        let waits = |id: &FileId| excluded.contains(id);
        if taken_over.is_empty()
            && !names.plan.new.iter().any(|new| waits(&new.id))
            && !names.plan.claimed.iter().any(waits)
        {
            break;
        }
        names.decide_without(flush.world, flush.facts, &excluded)?;
    }
    let report = &mut *flush.report;
    let lasting: HashSet<FileId> =
        report.errors.iter().filter(|(_, error)| error.is_lasting()).map(|(id, _)| *id).collect();
    report.put_off = excluded.iter().filter(|id| !lasting.contains(id) && !names.held_back.contains(id)).count() as u64;
    for dir in &names.plan.held {
        let ino = names.inode_of(&*flush.world, *dir)?;
        // `put_off` already counts these files, so this directory's mark alone must not count as unfinished.
        flush.report.lasting.insert(ino);
        flush.keep(ino, &Marks::names());
    }
    Ok(())
}

/// Reads the attributes of new files that are not regular files. Excludes all new files of which nothing was read.
fn read_others<W: World>(
    flush: &mut Flush<'_, W>,
    names: &Gathered,
    builder: &mut Builder,
    excluded: &mut HashSet<FileId>,
) {
    for new in &names.plan.new {
        if new.stat.kind != Kind::File
            && names.is_armed(new.id)
            && !builder.has(new.id)
            && !excluded.contains(&new.id)
            && let Err(error) = read_other(builder, flush.world, new)
        {
            if !flush.facts.steps.whole_entries {
                take_plain(builder, new);
            }
            flush.report.errors.push((new.id, error));
        }
        if !names.is_armed(new.id) || !builder.has(new.id) {
            excluded.insert(new.id);
        }
    }
}

/// Keeps marks of files whose attributes are not committed as they are on disk, so that the next flush reads and reports
/// them again.
pub(super) fn keep_left_out<W>(flush: &mut Flush<'_, W>, builder: &mut Builder) {
    let ids: Vec<FileId> = builder.files.keys().copied().collect();
    for id in ids {
        let has = builder.has(id);
        let Some((ino, left_out)) = builder.files.get_mut(&id).and_then(|file| file.left_out.take()) else { continue };
        if !has && flush.report.errors.iter().any(|(failed, _)| *failed == id) {
            continue;
        }
        flush.keep(ino, &Marks::meta());
        flush.report.lasting.insert(ino);
        flush.report.partial.push((id, Told(&left_out).to_string()));
    }
}

#[cfg(test)]
mod tests;

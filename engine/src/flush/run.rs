//! One flush from start to end: the order of its steps.

use std::collections::HashSet;

use super::builder::Builder;
use super::commit::commit;
use super::contents::read_all;
use super::facts::FlushFacts;
use super::gather::gather;
use super::gathered::Gathered;
use super::leave::{keep_left_out, keep_unread, leave_out};
use super::report::{Outcome, Report};
use super::running::Flush;
use super::settle::{Settled, settle_intent};
use super::world::{CommittedState, WatchSet, World};
use super::{attributes, few_names, few_removals, instant, jobs, mass_delete};
use crate::dirty::{DirtySet, Marks};
use crate::model::{Consistency, Ino, NotInstant};

/// Flushes `taken`. Returns how the flush ended, and the marks that stay pending.
pub fn flush<W: World>(
    world: &mut W,
    taken: &DirtySet,
    facts: &FlushFacts,
    report: &mut Report,
) -> Result<(Outcome, DirtySet), W::Error> {
    match settle_intent(world, facts)? {
        Settled::Clear(_) => {}
        Settled::Fenced { seq } => return Ok((Outcome::Fenced { seq }, taken.clone())),
        Settled::Unknown => return Ok((Outcome::Unsettled, taken.clone())),
    }
    match facts.instant {
        None => {}
        Some(Err(why)) => report.consistency = Some(Consistency::Live(why)),
        Some(Ok(())) => {
            let told = instant::Told::default();
            let ended = commit_instant(world, taken, facts, report, &told)?;
            let errors = told.write_back.take();
            if let Some(ended) = ended {
                report.errors.extend(errors);
                return Ok(ended);
            }
            let consistency = report.consistency.map(|said| said.or_live(NotInstant::LeftOver));
            *report = Report { consistency, errors, ..Report::default() };
        }
    }
    let mut flush = Flush { world, taken, facts, report, kept: DirtySet::default() };
    let (names, builder) = read_tree(&mut flush)?;
    let outcome = end(&mut flush, builder, &names)?;
    Ok((outcome, flush.kept))
}

/// Commits what the search for one instant holds: the tree of that instant, or else what it has read before. `None`: that is not
/// all, so everything is to be read again, and the commit is of no instant.
fn commit_instant<W: World>(
    world: &mut W,
    taken: &DirtySet,
    facts: &FlushFacts,
    report: &mut Report,
    told: &instant::Told,
) -> Result<Option<(Outcome, DirtySet)>, W::Error> {
    let found = instant::find(world, taken, facts, told)?;
    report.consistency = Some(found.consistency);
    let Some(mut view) = found.view else { return Ok(None) };
    let kept = DirtySet::default();
    let mut flush = Flush { world: &mut view, taken: &found.marks, facts, report, kept };
    let (names, builder) = read_tree(&mut flush)?;
    // Of names that are not of the instant, or were asked for after it, what is held may be the content of other names.
    if told.asked.get() || (found.consistency.is_instant() && flush.leaves_over(&names)) {
        return Ok(None);
    }
    let outcome = end(&mut flush, builder, &names)?;
    let kept = flush.kept;
    if matches!(outcome, Outcome::Committed(_)) {
        let watched = view.watched.iter().copied().collect();
        stop_watching(&mut view, watched)?;
    }
    Ok(Some((outcome, kept)))
}

/// Lists, decides and reads: everything of a flush but the commit.
fn read_tree<W: World>(flush: &mut Flush<'_, W>) -> Result<(Gathered, Builder), W::Error> {
    let facts = flush.facts;
    let mut names = gather(flush)?;
    mass_delete::guard(flush, &mut names)?;
    few_names::limit_changes(flush, &mut names)?;
    names.look_where_decided(flush.world)?;
    let mut jobs = jobs::plan(flush, &names)?;

    let mut builder = Builder::new(flush.world, facts)?;
    let mut excluded: HashSet<_> = std::mem::take(&mut jobs.excluded);
    excluded.extend(&names.excluded);
    read_all(flush, &jobs, &mut builder, &mut excluded)?;
    leave_out(flush, &mut names, &mut builder, excluded)?;
    let held = mass_delete::hold(flush, &mut names)?;
    few_removals::limit_removals(flush, &mut names)?;
    builder.keep_only(&*flush.world, &names)?;
    attributes::add_others(flush, &mut builder, &names)?;
    keep_unread(flush, &names, &builder)?;
    keep_left_out(flush, &mut builder);
    names.keep_not_there(&mut flush.kept);
    names.forget_gone(&*flush.world, &mut flush.kept)?;
    mass_delete::keep_marks(flush, &names)?;
    keep_missing(flush, &names, held)?;
    Ok((names, builder))
}

/// Keeps the marks of directories with a name whose removal waits for proof, so that they are listed again after a later
/// swap. `held`: how many of these names wait for a person.
fn keep_missing<W: World>(flush: &mut Flush<'_, W>, names: &Gathered, held: u64) -> Result<(), W::Error> {
    flush.report.removals_waiting = (names.plan.missing.len() as u64).saturating_sub(held);
    for missing in &names.plan.missing {
        if let Some(record) = flush.world.record(missing.parent)? {
            flush.keep(record.inode.ino, &Marks::names());
            if held > 0 && flush.report.removals_waiting == 0 {
                flush.report.lasting.insert(record.inode.ino);
            }
        }
    }
    Ok(())
}

/// Commits what was read, and stops watching inodes that left the tree.
fn end<W: World>(flush: &mut Flush<'_, W>, builder: Builder, names: &Gathered) -> Result<Outcome, W::Error> {
    let mut left = names.left_out_numbers();
    for id in &names.plan.gone {
        left.extend(flush.world.record(*id)?.map(|record| record.inode.ino));
    }
    if builder.lacks_source() {
        // A history begins with the source directory's own attributes: without them no commit could be restored.
        flush.report.put_off += 1;
        flush.keep_all_taken();
        return Ok(Outcome::Unchanged);
    }
    // Files that cannot be read are reported, and do not keep a first pass from being complete.
    let facts = flush.facts;
    let complete = facts.baseline || (flush.report.only_lasting(&flush.kept) && flush.report.removals_held == 0);
    let outcome = commit(flush, builder, names, complete)?;
    if matches!(outcome, Outcome::Committed(_)) {
        stop_watching(flush.world, left)?;
    }
    if !outcome.is_settled() && (facts.steps.settled_only || outcome == Outcome::Unsettled) {
        // No mark is forgotten before the commit is durable (I3). If another writer's commit was found, it holds none of
        // these changes.
        flush.keep_all_taken();
    }
    Ok(outcome)
}

/// Removes inodes that left the tree from the watch set, which would fill up otherwise. Keeps numbers that another file has
/// by now. If a number is reused by a file not seen yet, that file is watched when it is seen, before it is read.
fn stop_watching<W: CommittedState + WatchSet>(world: &mut W, mut inodes: Vec<Ino>) -> Result<(), W::Error> {
    let mut used = Vec::new();
    for ino in &inodes {
        used.push(!world.by_inode(*ino)?.is_empty());
    }
    let mut used = used.into_iter();
    inodes.retain(|_| !used.next().unwrap_or(true));
    if inodes.is_empty() { Ok(()) } else { world.unwatch(&inodes) }
}

//! A commit of one instant: a gap between changes is looked for, and what changed since the drain is read in it. Where none comes by
//! itself, writers are paused for a moment, if that is allowed.
//!
//! ```text
//! first look: list, decide, read, as any flush does               (the tree changes meanwhile)
//! each look:  COUNT  MARKS since the drain  list and read again what they say  COUNT
//! ```
//!
//! Where both counts are the same, nothing changed between them, and what is held is the tree as it was then. Why that holds:
//! - Every change marks, then counts. So the marks that are read after the first count have every change that it counts, and
//!   every other change raises the second one.
//! - A write to a page that is dirty already marks no block. Its change time tells of it, once after each `statx`, or on older
//!   kernels a hook that every write passes. So what is marked is looked at before it is read, and what an earlier look has read of
//!   such pages is read again. Only where each write marks what it writes is that told apart: then a look reads again what was marked
//!   again since the look before (`Live::newer`).
//! - Both come before the bytes are there, under the inode lock: the reader waits for the lock.
//! - A page that is mapped and dirty is stored to without any event: a file that can be stored to through a mapping is cleaned in
//!   the window. A direct write that is under way fails the look.
//! - What is watched for the first time may have changed since it was listed: that look is followed by another.
//!
//! A pause only makes a gap likelier. Nobody waits until the writers have stopped: they stop when they leave the kernel, and what they
//! have begun goes on. So the two counts are the proof, as without a pause.
//!
//! The marks stay with the kernel: the next drain brings them, and what was read of dirty pages here is cleaned and read then.

mod overlay;
mod view;
mod world;

use std::collections::BTreeSet;

use super::facts::FlushFacts;
use super::gather::gather;
use super::report::Report;
use super::running::Flush;
use super::world::{CommittedState, Count, Paused, SourceTree, WatchSet, World};
use super::{few_names, jobs, mass_delete};
use crate::dirty::DirtySet;
use crate::identity::Span;
use crate::model::{Consistency, FileId, Kind, NotInstant};
pub(super) use view::{Told, View};

/// Bytes of files that are held for one commit. More is committed as it is read.
const HELD_BYTES_MAX: u64 = 64 << 20;
/// Files that are held for one commit.
const HELD_FILES_MAX: usize = 2048;
/// Files that are read at once.
const READ_AT_ONCE: usize = 32;

/// What was found.
pub(super) struct Found<'w, W: World> {
    /// What is held; `None`: too much, or names moved all the time, so that the flush had better read everything itself.
    pub(super) view: Option<View<'w, W>>,
    /// What `view` answers for.
    pub(super) marks: DirtySet,
    pub(super) consistency: Consistency,
}

/// Looks at what `taken` says until it is of one instant, or the time is over.
pub(super) fn find<'w, W: World>(
    world: &'w mut W,
    taken: &DirtySet,
    facts: &FlushFacts,
    told: &'w Told,
) -> Result<Found<'w, W>, W::Error> {
    let mut view = View::new(world, facts.steps, told);
    let first = look(&mut view, taken, facts)?;
    if let Err(why) = first
        && is_final(why)
    {
        return Ok(Found { view: None, marks: taken.clone(), consistency: Consistency::Live(why) });
    }
    // What moved meanwhile is where the next look finds it.
    let mut search = Search { taken, facts, decided_again: first.is_err() };
    let (mut seen, mut pause_us) = (search.look_until(&mut view, facts.steps.count_again)?, 0);
    if seen.as_ref().is_err_and(|why| comes_of_writers(*why)) {
        (seen, pause_us) = search.pause(&mut view, seen)?;
    }
    Ok(match seen {
        Ok((marks, window_us)) => {
            view.seal();
            Found { view: Some(view), marks, consistency: Consistency::Instant { window_us, pause_us } }
        }
        Err(why) => {
            // Each file is as it was at some moment since the drain, and was read by the name that was decided then.
            view.of_one_moment = false;
            view.seal();
            let decided_again = search.decided_again || view.moment_decided.get();
            let steady = !decided_again && !view.unsteady && !is_final(why);
            Found { view: steady.then_some(view), marks: taken.clone(), consistency: Consistency::Live(why) }
        }
    })
}

/// What the view answers for now, and for how many microseconds nothing changed; or why it is of no instant.
type Looked = Result<(DirtySet, u32), NotInstant>;

/// The looks of one flush.
struct Search<'a> {
    taken: &'a DirtySet,
    facts: &'a FlushFacts,
    /// Names were decided about more than once.
    decided_again: bool,
}

impl Search<'_> {
    /// Looks until nothing changes in between, or the time is over. `count_again`: the second count is compared.
    fn look_until<W: World>(&mut self, view: &mut View<'_, W>, count_again: bool) -> Result<Looked, W::Error> {
        let mut tries = 0;
        loop {
            view.world.hurry(true);
            let seen = try_once(view, self.taken, self.facts, count_again);
            view.world.hurry(false);
            let seen = seen?;
            self.decided_again |= seen.decided_again;
            tries += 1;
            match seen.result {
                Err(why) if !is_final(why) && view.world.try_again(tries)? => {}
                result => return Ok(result),
            }
        }
    }

    /// Looks once more while the writers are paused, and for how many microseconds they were. `seen` stays where they are not.
    fn pause<W: World>(&mut self, view: &mut View<'_, W>, seen: Looked) -> Result<(Looked, u32), W::Error> {
        match view.world.freeze()? {
            Paused::No => Ok((seen, 0)),
            Paused::Cannot => Ok((Err(NotInstant::CannotFreeze), 0)),
            Paused::Yes => {
                let looked = self.look_until(view, self.facts.steps.count_paused);
                // Whatever became of the looks.
                let pause_us = view.world.thaw()?;
                Ok((looked?, pause_us))
            }
        }
    }
}

/// Whether a pause of the writers may help.
fn comes_of_writers(why: NotInstant) -> bool {
    matches!(why, NotInstant::NeverQuiet | NotInstant::DirectIo)
}

/// Whether another look would end the same way.
fn is_final(why: NotInstant) -> bool {
    matches!(why, NotInstant::TooMuch | NotInstant::FileSystem)
}

/// What one look has seen.
struct Seen {
    /// Names were decided about once more.
    decided_again: bool,
    result: Looked,
}

/// One look between two counts. `count_again`: the second one must be the same.
fn try_once<W: World>(
    view: &mut View<'_, W>,
    taken: &DirtySet,
    facts: &FlushFacts,
    count_again: bool,
) -> Result<Seen, W::Error> {
    let steps = facts.steps;
    let (before, live) = if steps.count_first {
        let before = view.count()?;
        (before, view.live()?)
    } else {
        let live = view.live()?;
        (view.count()?, live)
    };
    let known = view.complete && view.holds_all(&live.marks);
    // Whatever becomes of this look: the next one is not told of it again.
    view.outdate(&live);
    let seen = |result| Ok(Seen { decided_again: !known, result });
    if live.direct && steps.none_in_flight {
        return seen(Err(NotInstant::DirectIo));
    }
    let mut marks = taken.clone();
    marks.add_all(&live.marks);
    let watched = view.watched.len();
    if !known && let Err(why) = look(view, &marks, facts)? {
        return seen(Err(moved_or(view, before, why)?));
    }
    if view.read_stale(count_again.then_some(before)).is_err() {
        if view.world.is_late() {
            return seen(Err(NotInstant::NeverQuiet));
        }
        return seen(Err(moved_or(view, before, NotInstant::LeftOver)?));
    }
    if view.watched.len() > watched && steps.watch_first {
        return seen(Err(NotInstant::NeverQuiet));
    }
    let after = view.count()?;
    if after.changes != before.changes && count_again {
        return seen(Err(NotInstant::NeverQuiet));
    }
    if !view.is_sure()? {
        return seen(Err(NotInstant::Uncertain));
    }
    let window_us = u32::try_from(after.at_us.saturating_sub(before.at_us)).unwrap_or(u32::MAX);
    seen(Ok((marks, window_us)))
}

/// What could not be read because it moved is no reason by itself: it moves because the tree is not quiet.
fn moved_or<W: World>(view: &mut View<'_, W>, before: Count, why: NotInstant) -> Result<NotInstant, W::Error> {
    let moved = why == NotInstant::LeftOver && view.count()?.changes != before.changes;
    Ok(if moved { NotInstant::NeverQuiet } else { why })
}

/// Lists and reads what a flush of `marks` would, where the view does not hold it already.
fn look<W: World>(
    view: &mut View<'_, W>,
    marks: &DirtySet,
    facts: &FlushFacts,
) -> Result<Result<(), NotInstant>, W::Error> {
    view.complete = false;
    let looked = look_at_all(view, marks, facts)?;
    view.complete = looked.is_ok();
    Ok(looked)
}

fn look_at_all<W: World>(
    view: &mut View<'_, W>,
    marks: &DirtySet,
    facts: &FlushFacts,
) -> Result<Result<(), NotInstant>, W::Error> {
    let mut report = Report::default();
    let mut flush = Flush { world: view, taken: marks, facts, report: &mut report, kept: DirtySet::default() };
    let mut names = gather(&mut flush)?;
    mass_delete::guard(&mut flush, &mut names)?;
    few_names::limit_changes(&mut flush, &mut names)?;
    names.look_where_decided(flush.world)?;
    let jobs = jobs::plan(&mut flush, &names)?;
    names.keep_not_there(&mut flush.kept);
    names.forget_gone(&*flush.world, &mut flush.kept)?;
    if !flush.kept.is_empty() || !names.plan.missing.is_empty() {
        return Ok(Err(NotInstant::LeftOver));
    }
    let large = jobs.sizes.values().any(|size| *size > facts.limits.stream_bytes);
    let bytes: u64 = jobs.sizes.values().sum();
    if large || bytes > HELD_BYTES_MAX || jobs.reads.len() > HELD_FILES_MAX {
        return Ok(Err(NotInstant::TooMuch));
    }
    // What is read is held by inode: where a number alone stands for a file, a later file with it would not be told apart.
    if jobs.reads.iter().any(|job| Span::of(job.inode) == Span::Mount) {
        return Ok(Err(NotInstant::FileSystem));
    }
    flush.world.keep_only(&jobs.reads.iter().map(|job| job.inode).collect());
    for piece in jobs.reads.chunks(READ_AT_ONCE) {
        if flush.world.is_late() {
            return Ok(Err(NotInstant::NeverQuiet));
        }
        let images = flush.world.read_files(piece, facts.steps);
        if images.iter().any(|image| image.as_ref().is_ok_and(|image| image.short) || image.is_err()) {
            return Ok(Err(NotInstant::LeftOver));
        }
    }
    if flush.world.bytes() > HELD_BYTES_MAX {
        return Ok(Err(NotInstant::TooMuch));
    }
    for new in names.plan.new.iter().filter(|new| new.stat.kind != Kind::File) {
        if flush.world.attributes(new.id, new.stat.inode).is_err() {
            return Ok(Err(NotInstant::LeftOver));
        }
    }
    let gone: BTreeSet<FileId> = names.plan.gone.iter().copied().collect();
    for (ino, _) in marks.iter() {
        for record in flush.world.by_inode(ino)? {
            let other = record.meta.kind != Kind::File && !gone.contains(&record.id);
            if other && flush.world.attributes(record.id, record.inode).is_err() {
                return Ok(Err(NotInstant::LeftOver));
            }
        }
    }
    Ok(Ok(()))
}

//! The end of a flush: packs, intent, commit, settlement (invariants I3, I5).

use super::builder::{Builder, Entry};
use super::gathered::Gathered;
use super::report::Outcome;
use super::running::Flush;
use super::settle::{Settled, create};
use super::world::World;
use crate::catalog::{CatalogChange, Intent};
use crate::dirty::DirtySet;
use crate::format::commit::{self, Header};
use crate::format::seal::Span;
use crate::model::{ChangeSet, Consistency, Ino, Seq, Standing, Time};

/// Puts the packs, writes the intent, creates the commit and settles it. `complete`: with this commit, every file that
/// existed before the first pass is committed.
pub(super) fn commit<W: World>(
    flush: &mut Flush<'_, W>,
    builder: Builder,
    names: &Gathered,
    complete: bool,
) -> Result<Outcome, W::Error> {
    let (seq, head, epoch) = (builder.seq, builder.head, builder.epoch);
    let mut change = CatalogChange { missing: Some(names.plan.missing.clone()), ..CatalogChange::default() };
    let mut changes: ChangeSet<Span> = ChangeSet::default();
    for (id, file) in builder.files {
        let Some(Entry { record, change: of_file, nodes, signatures }) = file.entry else { continue };
        change.records.push(record);
        changes.files.extend(of_file);
        change.nodes.extend(nodes.into_iter().map(|((level, index), blob)| ((id, level, index), blob)));
        change.signatures.extend(signatures.into_iter().map(|(group, blob)| ((id, group), blob)));
    }
    changes.names = names.plan.changes.clone();
    changes.gone = names.plan.gone.clone();
    let inodes: Vec<Ino> = flush.taken.iter().map(|(ino, _)| ino).collect();
    // Even if nothing changed, one commit records that the baseline is complete.
    let before = head.standing.is_some_and(|head| head.baseline);
    let says_so = complete && !before && head.seq > Seq::NONE;
    let proves = flush.facts.prove_instant && flush.report.consistency.is_some_and(Consistency::is_instant);
    let proves = proves && head.seq > Seq::NONE;
    if changes.is_empty() && !says_so && !proves {
        flush.world.forget(change.records, names.plan.missing.clone(), &inodes, &flush.kept)?;
        return Ok(Outcome::Unchanged);
    }
    let sealed = builder.writer.finish()?;
    for (object, bytes) in sealed.last {
        flush.world.put_pack(object, bytes)?;
    }
    let changes = sealed.places.place(changes);
    let facts = flush.facts;
    let header = Header {
        volume: facts.volume,
        seq,
        commit: facts.commit_id,
        writer: facts.writer,
        epoch,
        time: Time::later_than(head.time, facts.now),
        standing: Some(Standing::after(head.standing, head.time, seq, facts.now, before || complete)),
        parent: head.hash,
        era: flush.world.era_before(seq)?,
        consistency: flush.report.consistency,
    };
    let bytes = commit::encode(&header, &sealed.packs, &changes, &sealed.inline)?;
    change.names = changes.names;
    change.gone = changes.gone;
    change.next_id = Some(names.assigned.next_id);
    let hash = commit::hash(&bytes);
    let intent = Intent { seq, commit_id: header.commit, hash, time: header.time, standing: header.standing, bytes };
    put(flush, &intent, change, &inodes)
}

/// Creates the commit. Its packs are already in the store.
fn put<W: World>(
    flush: &mut Flush<'_, W>,
    intent: &Intent,
    change: CatalogChange,
    inodes: &[Ino],
) -> Result<Outcome, W::Error> {
    if !flush.facts.steps.commit_before_forget {
        flush.world.forget(Vec::new(), Vec::new(), inodes, &flush.kept)?;
    }
    // This commit may leave open what was not in `taken`, for instance a new directory whose file could not be read. Make
    // that pending before the commit can take effect: whoever settles the intent after a crash knows only what is pending.
    let opened = opened(flush.taken, &flush.kept);
    if !opened.is_empty() {
        flush.world.forget(Vec::new(), flush.world.missing()?, &[], &opened)?;
    }
    flush.world.begin_commit(intent, change)?;
    Ok(match create(flush.world, flush.facts, intent, inodes, &flush.kept)? {
        Settled::Clear(head) => Outcome::Committed(head),
        Settled::Fenced { seq } => Outcome::Fenced { seq },
        Settled::Unknown => Outcome::Unsettled,
    })
}

/// Marks in `kept` that `taken` lacks, with the taken marks of the same inodes.
fn opened(taken: &DirtySet, kept: &DirtySet) -> DirtySet {
    let mut opened = DirtySet::default();
    for (ino, waiting) in kept.iter() {
        let before = taken.get(ino);
        let mut marks = before.map(|before| before.marks.clone()).unwrap_or_default();
        marks.merge(&waiting.marks);
        if before.is_none_or(|before| before.marks != marks) {
            opened.add(ino, &marks, before.map_or(waiting.since_ns, |before| before.since_ns));
        }
    }
    opened
}

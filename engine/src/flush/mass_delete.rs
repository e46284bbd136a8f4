//! The guard against losing many files at once: a source that was emptied, or whose data now lies elsewhere, looks as if
//! most of its files had been removed. Such removals wait until a person confirms them or the files are back.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::gathered::Gathered;
use super::running::Flush;
use super::world::{CommittedState, World};
use crate::catalog::Missing;
use crate::model::{FileId, Ino, Kind, NameChange};
use crate::source::Alive;

/// A file or directory that is gone by the names decided so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub id: FileId,
    pub is_dir: bool,
    pub names: Vec<(FileId, Vec<u8>)>,
}

/// The weight of the removals of a flush.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Weighed {
    /// Number of files that are gone and whose paths are now empty. A file that was replaced by another is not lost.
    pub lost: u64,
    /// Files that are gone because others took their names: their removal cannot wait.
    pub through: HashSet<FileId>,
    /// Directories whose names others took: the removal and the new name wait together or not at all.
    pub replaced: BTreeSet<FileId>,
}

/// Weighs what is gone. `now` returns the file that has a name after this flush, in a directory that stays.
pub(super) fn weigh<E>(
    gone: &[Gone],
    mut now: impl FnMut(FileId, &[u8]) -> Result<Option<FileId>, E>,
) -> Result<Weighed, E> {
    let by_id: HashMap<FileId, &Gone> = gone.iter().map(|gone| (gone.id, gone)).collect();
    // For each directory that is gone, what is at its path now.
    let mut in_place: HashMap<FileId, Option<FileId>> = HashMap::new();
    let mut weighed = Weighed::default();
    for file in gone {
        let (mut stands, mut all_taken) = (false, !file.names.is_empty());
        for (parent, name) in &file.names {
            // From this directory up to the topmost one that is gone.
            let (mut chain, mut at) = (Vec::new(), *parent);
            while let Some(dir) = by_id.get(&at).filter(|_| !in_place.contains_key(&at)) {
                chain.push(*dir);
                in_place.insert(at, None);
                let Some(first) = dir.names.first() else { break };
                at = first.0;
            }
            for dir in chain.into_iter().rev() {
                let Some((above, name)) = dir.names.first() else { continue };
                let above =
                    if by_id.contains_key(above) { in_place.get(above).copied().flatten() } else { Some(*above) };
                let found = above.map(|above| now(above, name)).transpose()?.flatten();
                in_place.insert(dir.id, found.filter(|found| *found != dir.id));
            }
            let lives = !by_id.contains_key(parent);
            let dir = if lives { Some(*parent) } else { in_place.get(parent).copied().flatten() };
            let taken = dir.map(|dir| now(dir, name)).transpose()?.flatten().is_some_and(|id| id != file.id);
            stands |= taken;
            all_taken &= taken && lives;
            if taken && lives && file.is_dir {
                weighed.replaced.insert(file.id);
            }
        }
        weighed.lost += u64::from(!file.is_dir && !stands);
        if all_taken && !file.is_dir {
            weighed.through.insert(file.id);
        }
    }
    Ok(weighed)
}

fn weigh_plan<W: CommittedState>(world: &W, names: &Gathered) -> Result<Weighed, W::Error> {
    let mut gone = Vec::with_capacity(names.plan.gone.len());
    for id in &names.plan.gone {
        let is_dir = world.record(*id)?.is_some_and(|record| record.meta.kind == Kind::Dir);
        gone.push(Gone { id: *id, is_dir, names: world.names_of(*id)? });
    }
    let (mut set, mut unset) = (HashMap::new(), HashSet::new());
    for change in &names.plan.changes {
        match change {
            NameChange::Set { parent, name, id } => _ = set.insert((*parent, name.as_slice()), *id),
            NameChange::Unset { parent, name } => _ = unset.insert((*parent, name.as_slice())),
        }
    }
    // Only directories that stay and replaced one that is gone are asked for their committed entries.
    let mut had: HashMap<FileId, HashMap<Vec<u8>, FileId>> = HashMap::new();
    weigh(&gone, |dir, name| {
        if let Some(id) = set.get(&(dir, name)) {
            return Ok(Some(*id));
        }
        if unset.contains(&(dir, name)) {
            return Ok(None);
        }
        if let std::collections::hash_map::Entry::Vacant(place) = had.entry(dir) {
            place.insert(world.children(dir)?.into_iter().collect());
        }
        Ok(had.get(&dir).and_then(|children| children.get(name)).copied())
    })
}

/// Decides once per flush, before anything is read, whether its removals wait. If they do, directories whose names were
/// taken by others are excluded from the plan, and all waiting files are recorded in `names.held_back`.
pub(super) fn guard<W: World>(flush: &mut Flush<'_, W>, names: &mut Gathered) -> Result<(), W::Error> {
    let limit = flush.facts.max_delete;
    if !limit.may_hold(names.plan.gone.len()) {
        return Ok(());
    }
    let weighed = weigh_plan(&*flush.world, names)?;
    flush.report.files_before = flush.world.files()?;
    if !limit.holds(weighed.lost, flush.report.files_before) {
        return Ok(());
    }
    flush.report.removals_held = weighed.lost;
    let stays = names.plan.gone.iter().filter(|id| !weighed.through.contains(id));
    names.held_back = stays.copied().collect();
    if !weighed.replaced.is_empty() {
        let replaced: HashSet<FileId> = weighed.replaced.into_iter().collect();
        names.decide_without(flush.world, flush.facts, &replaced)?;
        names.excluded = replaced;
    }
    Ok(())
}

/// While removals wait: directories that others replaced, by the current plan.
pub(super) fn replaced<W: CommittedState>(world: &W, names: &Gathered) -> Result<BTreeSet<FileId>, W::Error> {
    if names.held_back.is_empty() { Ok(BTreeSet::new()) } else { Ok(weigh_plan(world, names)?.replaced) }
}

/// Takes the waiting removals out of the plan and keeps their topmost names for the next flush. Returns how many topmost
/// names there are.
pub(super) fn hold<W: World>(flush: &mut Flush<'_, W>, names: &mut Gathered) -> Result<u64, W::Error> {
    let world = &*flush.world;
    if names.held_back.is_empty() {
        return Ok(0);
    }
    let through = weigh_plan(world, names)?.through;
    let held: HashSet<FileId> = names.plan.gone.iter().copied().filter(|id| !through.contains(id)).collect();
    let mut places: HashSet<(FileId, Vec<u8>)> = HashSet::new();
    for id in &held {
        places.extend(world.names_of(*id)?);
    }
    let stay = names.excluded.intersection(&names.held_back).copied();
    let mut waiting = waited(&names.missing, stay, |id| world.names_of(id))?;
    let plan = &mut names.plan;
    plan.changes.retain(|change| match change {
        NameChange::Unset { parent, name } if places.contains(&(*parent, name.clone())) => {
            if !held.contains(parent) {
                waiting.push(Missing { parent: *parent, name: name.clone(), drain: flush.facts.drain });
            }
            false
        }
        _ => true,
    });
    plan.gone.retain(|id| !held.contains(id));
    names.held_back.extend(held);
    let topmost = waiting.len() as u64;
    plan.missing.extend(waiting);
    plan.missing.sort();
    plan.missing.dedup();
    flush.list_if_back(plan, |dir| names.held_back.contains(dir))?;
    Ok(topmost)
}

/// Which of the names that waited before are those of `stay`, directories that stay because others have these names now. They go on
/// waiting: a name that began to wait again would hide from every second flush that something is held.
fn waited<E>(
    missing: &[Missing],
    stay: impl Iterator<Item = FileId>,
    names_of: impl Fn(FileId) -> Result<Vec<(FileId, Vec<u8>)>, E>,
) -> Result<Vec<Missing>, E> {
    let mut waiting = Vec::new();
    for id in stay {
        let places = names_of(id)?;
        let of_it = |m: &&Missing| places.iter().any(|(parent, name)| m.parent == *parent && m.name == *name);
        waiting.extend(missing.iter().filter(of_it).cloned());
    }
    Ok(waiting)
}

/// Keeps the marks of files whose removal waits, since the files may come back. Drops marks of an inode that is gone for
/// good, which every flush would otherwise carry.
pub(super) fn keep_marks<W: World>(flush: &mut Flush<'_, W>, names: &Gathered) -> Result<(), W::Error> {
    if names.held_back.is_empty() {
        return Ok(());
    }
    let again = names.new_numbers();
    let pending: BTreeSet<Ino> = flush.taken.iter().chain(flush.kept.iter()).map(|(ino, _)| ino).collect();
    for ino in pending {
        let records = flush.world.by_inode(ino)?;
        if records.is_empty() || !records.iter().all(|record| names.held_back.contains(&record.id)) {
            continue;
        }
        flush.report.lasting.insert(ino);
        let mut all_gone = !again.contains(&ino);
        for record in &records {
            all_gone = all_gone && flush.world.alive(record.id)? == Alive::Gone;
        }
        if all_gone {
            flush.kept.remove(ino);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! The guard against the loss of many files at once: a source that was emptied, or whose data lies elsewhere now, looks like
//! the removal of most of its files. Such removals wait until a person confirms them or the files are back.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::world::{Alive, Missing, World};
use super::{FlushFacts, Report, names};
use crate::dirty::DirtySet;
use crate::model::{FileId, Kind, NameChange};

/// When the removals of one flush are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxDelete {
    /// More than this share of the files is held back; `None`: nothing ever is.
    pub percent: Option<u8>,
    /// So many files may always go: a person who removes a directory by hand is not asked.
    pub floor: u64,
    /// As many a person has confirmed.
    pub confirmed: u64,
    /// Files that the volume had a little while ago. A tree that is removed over several flushes is measured by what it was, or
    /// the last of these flushes would seem to remove everything.
    pub before: u64,
}

impl MaxDelete {
    /// Half of the files, as a source has to lose its greater part to look emptied; a thousand, since smaller trees are put back
    /// from their history at once, and what people and tools remove all day (a checkout, a temporary directory) is mostly below.
    pub const DEFAULT: MaxDelete = MaxDelete { percent: Some(50), floor: 1000, confirmed: 0, before: 0 };
    pub const OFF: MaxDelete = MaxDelete { percent: None, floor: 0, confirmed: 0, before: 0 };

    /// Whether `lost` of `files` may not be removed.
    pub fn holds(&self, lost: u64, files: u64) -> bool {
        let Some(percent) = self.percent else { return false };
        let of = u128::from(files.max(self.before));
        lost > self.floor && lost > self.confirmed && u128::from(lost) * 100 > of * u128::from(percent)
    }

    /// Whether it can hold at all where at most `lost` are lost.
    fn may_hold(&self, lost: usize) -> bool {
        self.percent.is_some() && lost as u64 > self.floor
    }
}

/// A file or directory that the names as they were decided do not have any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub id: FileId,
    pub is_dir: bool,
    pub names: Vec<(FileId, Vec<u8>)>,
}

/// What removals amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Weighed {
    /// Files at whose paths nothing lies now. One that another file took the place of is no loss.
    pub lost: u64,
    /// Files that are gone since others took their names: nothing of them can wait.
    pub through: HashSet<FileId>,
    /// Directories whose names were taken by others: both wait, or neither does.
    pub replaced: BTreeSet<FileId>,
}

/// Weighs what is gone. `now` says which file has a name after this flush, in a directory that stays.
pub(super) fn weigh<E>(
    gone: &[Gone],
    mut now: impl FnMut(FileId, &[u8]) -> Result<Option<FileId>, E>,
) -> Result<Weighed, E> {
    let by_id: HashMap<FileId, &Gone> = gone.iter().map(|gone| (gone.id, gone)).collect();
    // What lies at the path of each directory that is gone.
    let mut in_place: HashMap<FileId, Option<FileId>> = HashMap::new();
    let mut weighed = Weighed::default();
    for file in gone {
        let (mut stands, mut all_taken) = (false, !file.names.is_empty());
        for (parent, name) in &file.names {
            // From the topmost directory that is gone down to this one.
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

fn weigh_plan<W: World>(world: &W, names: &names::Gathered) -> Result<Weighed, W::Error> {
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
    // Only directories that stay and took the place of one that is gone are asked for what they had.
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

/// Decides, once in a flush and before anything is read, whether its removals wait. What has to stay as it is for that is
/// excluded from the plan, and all that waits is noted in `names`.
pub(super) fn guard<W: World>(
    world: &mut W,
    facts: &FlushFacts,
    report: &mut Report,
    names: &mut names::Gathered,
) -> Result<(), W::Error> {
    if !facts.max_delete.may_hold(names.plan.gone.len()) {
        return Ok(());
    }
    let weighed = weigh_plan(world, names)?;
    report.files_before = world.files()?;
    if !facts.max_delete.holds(weighed.lost, report.files_before) {
        return Ok(());
    }
    report.removals_held = weighed.lost;
    let stays = names.plan.gone.iter().filter(|id| !weighed.through.contains(id));
    names.held_back = stays.copied().collect();
    if !weighed.replaced.is_empty() {
        let replaced: HashSet<FileId> = weighed.replaced.into_iter().collect();
        names.exclude(world, facts, &replaced)?;
        names.excluded = replaced;
    }
    Ok(())
}

/// Where removals wait: directories that others took the place of, by the plan as it is now.
pub(super) fn replaced<W: World>(world: &W, names: &names::Gathered) -> Result<BTreeSet<FileId>, W::Error> {
    if names.held_back.is_empty() { Ok(BTreeSet::new()) } else { Ok(weigh_plan(world, names)?.replaced) }
}

/// Takes the removals that wait out of the plan; their topmost names are looked at again by the next flush. How many such
/// names there are.
pub(super) fn hold<W: World>(world: &W, facts: &FlushFacts, names: &mut names::Gathered) -> Result<u64, W::Error> {
    if names.held_back.is_empty() {
        return Ok(0);
    }
    let through = weigh_plan(world, names)?.through;
    let held: HashSet<FileId> = names.plan.gone.iter().copied().filter(|id| !through.contains(id)).collect();
    let mut places: HashSet<(FileId, Vec<u8>)> = HashSet::new();
    for id in &held {
        places.extend(world.names_of(*id)?);
    }
    let plan = &mut names.plan;
    let mut waiting = Vec::new();
    plan.changes.retain(|change| match change {
        NameChange::Unset { parent, name } if places.contains(&(*parent, name.clone())) => {
            if !held.contains(parent) {
                waiting.push(Missing { parent: *parent, name: name.clone(), drain: facts.drain });
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
    Ok(topmost)
}

/// Marks of files that wait to be removed stay, for the files may be back; but not those of an inode that is gone for good, or
/// every flush would carry them.
pub(super) fn keep_marks<W: World>(
    world: &mut W,
    taken: &DirtySet,
    names: &names::Gathered,
    report: &mut Report,
    kept: &mut DirtySet,
) -> Result<(), W::Error> {
    if names.held_back.is_empty() {
        return Ok(());
    }
    let again = names.new_numbers();
    let pending: BTreeSet<u64> = taken.iter().chain(kept.iter()).map(|(ino, _)| ino).collect();
    for ino in pending {
        let records = world.by_inode(ino)?;
        if records.is_empty() || !records.iter().all(|record| names.held_back.contains(&record.id)) {
            continue;
        }
        report.lasting.insert(ino);
        let mut all_gone = !again.contains(&ino);
        for record in &records {
            all_gone = all_gone && world.alive(record.id)? == Alive::Gone;
        }
        if all_gone {
            kept.remove(ino);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

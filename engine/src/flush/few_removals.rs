//! Splits removals that do not fit into one commit, for instance when a directory with millions of files is moved out of
//! the tree.

use std::collections::{BTreeSet, HashSet};

use super::gathered::Gathered;
use super::running::Flush;
use super::world::{CommittedState, World};
use crate::catalog::Missing;
use crate::model::{FileId, Kind, NameChange};
use crate::reconcile::NamePlan;

/// Keeps in the plan as many removals as `Limits::removals` allows, files before their directories. The other files stay
/// committed for now, and their topmost names wait for the next flush.
pub(super) fn limit_removals<W: World>(flush: &mut Flush<'_, W>, names: &mut Gathered) -> Result<(), W::Error> {
    let (world, limit) = (&*flush.world, flush.facts.limits.removals.max(1));
    let plan = &mut names.plan;
    if plan.gone.len() <= limit {
        return Ok(());
    }
    let gone: HashSet<FileId> = plan.gone.iter().copied().collect();
    let chosen = choose(world, plan, &gone, limit)?;
    let mut later: HashSet<(FileId, Vec<u8>)> = HashSet::new();
    for id in plan.gone.iter().filter(|id| !chosen.contains(id)) {
        later.extend(world.names_of(*id)?);
    }
    let mut waiting = Vec::new();
    plan.changes.retain(|change| match change {
        NameChange::Unset { parent, name } if later.contains(&(*parent, name.clone())) => {
            if !gone.contains(parent) {
                waiting.push(Missing { parent: *parent, name: name.clone(), drain: flush.facts.drain });
            }
            false
        }
        _ => true,
    });
    flush.report.removals_left = (plan.gone.len() - chosen.len()) as u64;
    flush.report.carried += flush.report.removals_left;
    plan.gone.retain(|id| chosen.contains(id));
    plan.missing.extend(waiting);
    plan.missing.sort();
    plan.missing.dedup();
    flush.list_if_back(plan, |dir| gone.contains(dir) && !chosen.contains(dir))
}

/// Chooses the files of `gone` that this commit removes.
fn choose<W: CommittedState>(
    world: &W,
    plan: &NamePlan,
    gone: &HashSet<FileId>,
    limit: usize,
) -> Result<BTreeSet<FileId>, W::Error> {
    // If a new file takes the name of a removed one, this commit must remove the old file with everything below it.
    let mut chosen: BTreeSet<FileId> = BTreeSet::new();
    let mut replaced = Vec::new();
    for change in &plan.changes {
        if let NameChange::Set { parent, name, .. } = change {
            let old = world.children(*parent)?.into_iter().find(|(other, _)| other == name).map(|(_, id)| id);
            replaced.extend(old.filter(|old| gone.contains(old)));
        }
    }
    while let Some(id) = replaced.pop() {
        if gone.contains(&id) && chosen.insert(id) {
            replaced.extend(world.children(id)?.into_iter().map(|(_, child)| child));
        }
    }
    let (mut dirs, mut names) = (Vec::new(), chosen.len());
    for id in &plan.gone {
        let is_dir = world.record(*id)?.is_some_and(|record| record.meta.kind == Kind::Dir);
        if is_dir {
            dirs.push(*id);
        } else if names < limit {
            // Removing a file removes all of its names.
            names += world.names_of(*id)?.len();
            chosen.insert(*id);
        }
    }
    for dir in dirs {
        if chosen.len() >= limit {
            break;
        }
        if world.children(dir)?.iter().all(|(_, child)| chosen.contains(child)) {
            chosen.insert(dir);
        }
    }
    Ok(chosen)
}

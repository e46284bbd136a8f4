//! Splits renames that do not fit into one commit, for instance when a million files were renamed while the daemon was down.
//!
//! Some renames depend on others. A file that takes the name of another file waits until that one has its new name; a file that
//! moved into a directory waits for that directory's own rename, since it is read below it; a removed directory waits until
//! everything that was moved out of it is committed elsewhere. So the files form a graph with an edge from each file to what it
//! waits for. Files that wait for each other are committed together.

use std::collections::{BTreeMap, HashMap, HashSet};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::facts::first_of;
use super::gathered::Gathered;
use super::running::Flush;
use super::world::{CommittedState, World};
use crate::model::{FileId, Kind, NameChange};

/// Keeps in the plan the changed names of as many files as `Limits::changes` allows. The others keep their committed names, and the
/// next flush lists the directories again in which they are now. Removals and new regular files have limits of their own.
pub(super) fn limit_changes<W: World>(flush: &mut Flush<'_, W>, names: &mut Gathered) -> Result<(), W::Error> {
    loop {
        let waiting = without_room(flush, names)?;
        let before = names.excluded.len();
        names.excluded.extend(waiting);
        let more = names.excluded.len() - before;
        if more == 0 {
            return Ok(());
        }
        flush.report.carried += more as u64;
        let excluded = names.excluded.clone();
        names.decide_without(flush.world, flush.facts, &excluded)?;
    }
}

/// Files whose changed names do not fit, and directories that cannot move because of them.
fn without_room<W: World>(flush: &mut Flush<'_, W>, names: &Gathered) -> Result<Vec<FileId>, W::Error> {
    let limits = &flush.facts.limits;
    if names.plan.changes.len() <= limits.changes {
        return Ok(Vec::new());
    }
    let waits = Waits::of(&*flush.world, flush.facts.drain, names)?;
    for (id, changes) in waits.graph.node_weights().filter(|(_, changes)| *changes > limits.names_of_a_file) {
        let limit = limits.names_of_a_file;
        flush.report.partial.push((*id, format!("{changes} of its names changed, one commit takes {limit} of a file")));
    }
    Ok(waits.left(limits.changes, limits.names_of_a_file))
}

/// For each directory, the nearest one at or above it that is moved.
#[derive(Default)]
struct Above(HashMap<FileId, Option<FileId>>);

impl Above {
    /// `dir`, or the nearest one above it, that is `moved`.
    fn nearest<W: CommittedState>(
        &mut self,
        world: &W,
        dir: FileId,
        moved: impl Fn(&FileId) -> bool,
    ) -> Result<Option<FileId>, W::Error> {
        let (mut at, mut passed) = (dir, Vec::new());
        let found = loop {
            if let Some(known) = self.0.get(&at) {
                break *known;
            }
            if moved(&at) || at == FileId::ROOT {
                break Some(at).filter(&moved);
            }
            passed.push(at);
            at = world.names_of(at)?.first().map_or(FileId::ROOT, |name| name.0);
        };
        self.0.extend(passed.into_iter().map(|dir| (dir, found)));
        Ok(found)
    }
}

/// Which file has to wait for which.
#[derive(Default)]
struct Waits {
    /// Files, and how many of their names change.
    graph: DiGraph<(FileId, usize), ()>,
    nodes: HashMap<FileId, NodeIndex>,
}

impl Waits {
    fn of<W: CommittedState>(world: &W, drain: u64, names: &Gathered) -> Result<Waits, W::Error> {
        let plan = &names.plan;
        let gone: HashSet<FileId> = plan.gone.iter().copied().collect();
        let mut set: HashMap<FileId, Vec<(FileId, &[u8])>> = HashMap::new();
        let mut unset: HashSet<(FileId, &[u8])> = HashSet::new();
        let mut changed: BTreeMap<FileId, usize> = plan.fewer_names.iter().map(|id| (*id, 0)).collect();
        let regular = plan.new.iter().filter(|new| new.stat.kind == Kind::File).map(|new| new.id);
        let regular: HashSet<FileId> = regular.collect();
        for change in &plan.changes {
            match change {
                NameChange::Set { id, .. } if regular.contains(id) => {}
                NameChange::Set { parent, name, id } => {
                    set.entry(*id).or_default().push((*parent, name));
                    *changed.entry(*id).or_default() += 1;
                }
                NameChange::Unset { parent, name } => _ = unset.insert((*parent, name)),
            }
        }
        for (id, changes) in &mut changed {
            // The entries of a removed directory go with it; `Limits::removals` limits them.
            let lost = world.names_of(*id)?.into_iter().filter(|(dir, name)| unset.contains(&(*dir, name.as_slice())));
            *changes += lost.filter(|(dir, _)| !gone.contains(dir)).count();
        }
        changed.retain(|_, changes| *changes > 0);
        let mut waits = Waits::default();
        let mut files: Vec<(FileId, usize)> = changed.into_iter().collect();
        // Rotate: the files at the front may be unable to commit for another reason.
        let first = first_of(drain, files.len());
        files.rotate_left(first);
        for (id, changes) in &files {
            let node = waits.graph.add_node((*id, *changes));
            waits.nodes.insert(*id, node);
        }
        let (holders, mut above) = (names.committed(), Above::default());
        for (id, _) in &files {
            for (parent, name) in set.get(id).into_iter().flatten() {
                if let Some(above) = above.nearest(world, *parent, |dir| set.contains_key(dir))? {
                    waits.edge(*id, above);
                }
                if let Some(holder) = holders.get(&(*parent, *name)).filter(|holder| *holder != id) {
                    waits.edge(*id, *holder);
                }
            }
            if !set.contains_key(id) {
                continue;
            }
            for (mut dir, _) in world.names_of(*id)? {
                let mut inside = *id;
                while gone.contains(&dir) {
                    waits.edge(dir, inside);
                    inside = dir;
                    dir = world.names_of(dir)?.first().map_or(FileId::ROOT, |name| name.0);
                }
            }
        }
        Ok(waits)
    }

    /// Returns the files that do not fit into `limit` changes. A group that can never fit is committed alone if none of its
    /// files has more than `most` changes, the format's limit.
    fn left(&self, limit: usize, most: usize) -> Vec<FileId> {
        let (mut room, mut stays, mut left) = (limit, vec![false; self.graph.node_count()], Vec::new());
        // Kosaraju yields each group after all groups that it waits for.
        for group in kosaraju_scc(&self.graph) {
            let changes: usize = group.iter().map(|node| self.graph[*node].1).sum();
            let blocked = group.iter().any(|node| self.graph.neighbors(*node).any(|other| stays[other.index()]));
            let alone = room == limit && group.iter().all(|node| self.graph[*node].1 <= most);
            if !blocked && (changes <= room || alone) {
                room = room.saturating_sub(changes);
                continue;
            }
            for node in group {
                stays[node.index()] = true;
                left.push(self.graph[node].0);
            }
        }
        left
    }

    fn node(&mut self, id: FileId) -> NodeIndex {
        *self.nodes.entry(id).or_insert_with(|| self.graph.add_node((id, 0)))
    }

    fn edge(&mut self, waits: FileId, other: FileId) {
        let (waits, other) = (self.node(waits), self.node(other));
        self.graph.add_edge(waits, other, ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `files` with one changed name each; `edges`: who waits for whom.
    fn waits(files: &[u64], edges: &[(u64, u64)]) -> Waits {
        let mut waits = Waits::default();
        for id in files {
            let node = waits.graph.add_node((FileId(*id), 1));
            waits.nodes.insert(FileId(*id), node);
        }
        for (one, other) in edges {
            waits.edge(FileId(*one), FileId(*other));
        }
        waits
    }

    fn left(waits: &Waits, limit: usize) -> Vec<u64> {
        let mut left: Vec<u64> = waits.left(limit, 10).into_iter().map(|id| id.0).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn files_that_wait_for_nobody_go_as_far_as_there_is_room() {
        let free = waits(&[1, 2, 3], &[]);
        assert_eq!((left(&free, 2).len(), left(&free, 3).len()), (1, 0));
    }

    /// Each takes the name of the next one, so the last has to go first.
    #[test]
    fn a_chain_goes_from_its_free_end() {
        let chain = waits(&[1, 2, 3, 4], &[(1, 2), (2, 3), (3, 4)]);
        assert_eq!(left(&chain, 2), [1, 2]);
        let long: Vec<u64> = (0..200_000).collect();
        let edges: Vec<(u64, u64)> = long.windows(2).map(|two| (two[0], two[1])).collect();
        assert_eq!(left(&waits(&long, &edges), 150_000).len(), 50_000);
    }

    #[test]
    fn what_exchanges_names_goes_together_or_not_at_all() {
        let circle = [(1, 2), (2, 3), (3, 1)];
        assert_eq!(left(&waits(&[1, 2, 3], &circle), 3), [0; 0]);
        assert_eq!(left(&waits(&[1, 2, 3], &circle), 2), [0; 0], "it would wait for ever");
        assert_eq!(left(&waits(&[9, 1, 2, 3], &[(1, 2), (2, 3), (3, 1), (1, 9)]), 2), [1, 2, 3]);
    }

    #[test]
    fn a_directory_that_is_gone_stays_until_all_is_out_of_it() {
        // The directory is not one of the files and changes no name that counts.
        let mut moved = waits(&[1, 2], &[(7, 1), (7, 2)]);
        moved.graph[moved.nodes[&FileId(7)]].1 = 0;
        assert!(left(&moved, 1).contains(&7) && left(&moved, 2).is_empty());
    }

    #[test]
    fn a_file_with_more_names_than_a_commit_takes_stays_and_holds_nobody_up() {
        let mut names = waits(&[1, 2], &[]);
        names.graph[names.nodes[&FileId(1)]].1 = 11;
        assert_eq!(left(&names, 5), [1]);
    }
}

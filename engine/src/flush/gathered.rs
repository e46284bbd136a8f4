//! The names that a flush has decided, and the listings behind them.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::asked::{Answers, Asked};
use super::facts::FlushFacts;
use super::world::{CommittedState, Moved, SourceTree};
use crate::catalog::Missing;
use crate::dirty::{DirtySet, Marks};
use crate::model::{FileId, Ino, InodeId, NameChange};
use crate::reconcile::{Assigned, Listing, NamePlan, reconcile};

/// The listings of this flush and the plan made from them.
pub(super) struct Gathered {
    pub(super) plan: NamePlan,
    pub(super) asked: Asked,
    pub(super) assigned: Assigned,
    pub(super) listings: Vec<Listing>,
    pub(super) missing: Vec<Missing>,
    /// The paths under which files were looked for, from the names as decided at that time.
    pub(super) looked_at: Moved,
    pub(super) new_inodes: HashMap<FileId, InodeId>,
    /// Files whose removal waits for confirmation by a person.
    pub(super) held_back: HashSet<FileId>,
    /// Files that keep their committed names: files whose new names have no room in this commit, and directories whose
    /// names were taken by others.
    pub(super) excluded: HashSet<FileId>,
    /// Directories that were to be listed and were not where they were looked for: number, and since when the mark has been
    /// waiting.
    pub(super) not_there: Vec<(FileId, Ino, u64)>,
}

impl Gathered {
    /// Nothing is listed yet.
    pub(super) fn begin<W: CommittedState>(world: &W) -> Result<Gathered, W::Error> {
        Ok(Gathered {
            plan: NamePlan::default(),
            asked: Asked::default(),
            assigned: Assigned::new(world.next_id()?),
            listings: Vec::new(),
            missing: world.missing()?,
            looked_at: Moved::new(),
            new_inodes: HashMap::new(),
            held_back: HashSet::new(),
            excluded: HashSet::new(),
            not_there: Vec::new(),
        })
    }

    pub(super) fn was_listed(&self, dir: FileId) -> bool {
        !self.plan.unused.contains(&dir) && self.listings.iter().any(|listing| listing.dir == dir)
    }

    /// Whether a new file was watched, and a new directory listed, in this flush.
    pub(super) fn is_armed(&self, id: FileId) -> bool {
        self.new_inodes.contains_key(&id)
    }

    /// Inode numbers under which new files were seen.
    pub(super) fn new_numbers(&self) -> HashSet<Ino> {
        self.new_inodes.values().map(|inode| inode.ino).collect()
    }

    /// Inode numbers of new files that were watched but are no longer in the plan. They are watched again when they are
    /// seen again.
    pub(super) fn left_out_numbers(&self) -> Vec<Ino> {
        let planned: HashSet<FileId> = self.plan.new.iter().map(|new| new.id).collect();
        let left_out = self.new_inodes.iter().filter(|(id, _)| !planned.contains(id));
        left_out.map(|(_, inode)| inode.ino).collect()
    }

    /// Inode number of a directory, known or new in this flush; none when it is neither.
    pub(super) fn inode_of<W: CommittedState>(&self, world: &W, id: FileId) -> Result<Ino, W::Error> {
        if let Some(inode) = self.new_inodes.get(&id) {
            return Ok(inode.ino);
        }
        Ok(world.record(id)?.map_or(Ino::NONE, |record| record.inode.ino))
    }

    /// Keeps the marks of directories that were not found, unless they are gone: another one may have the number by now, and was
    /// listed for itself.
    pub(super) fn keep_not_there(&self, kept: &mut DirtySet) {
        let gone: HashSet<FileId> = self.plan.gone.iter().copied().collect();
        for (_, ino, since_ns) in self.not_there.iter().filter(|(dir, ..)| !gone.contains(dir)) {
            kept.add(*ino, &Marks::names(), *since_ns);
        }
    }

    /// Drops kept marks of files that are gone, which would stay pending forever. Marks belong to inode numbers, so a mark
    /// stays if another file has the number by now.
    pub(super) fn forget_gone<W: CommittedState>(&self, world: &W, kept: &mut DirtySet) -> Result<(), W::Error> {
        let again = self.new_numbers();
        for id in &self.plan.gone {
            let Some(record) = world.record(*id)? else { continue };
            let ino = record.inode.ino;
            let others = world.by_inode(ino)?.iter().any(|other| !self.plan.gone.contains(&other.id));
            if !others && !again.contains(&ino) {
                kept.remove(ino);
            }
        }
        Ok(())
    }

    /// The paths under which to open files whose place the plan changes: new files, and known ones that lost their first
    /// name. A file that keeps a committed name is opened by that name.
    pub(super) fn moved<W: CommittedState>(&self, world: &W) -> Result<Moved, W::Error> {
        let changes = self.plan.changes.iter().map(|change| match change {
            NameChange::Set { parent, name, .. } | NameChange::Unset { parent, name } => (*parent, name.as_slice()),
        });
        let changed: HashSet<(FileId, &[u8])> = changes.collect();
        let is_changed = |place: &(FileId, Vec<u8>)| changed.contains(&(place.0, place.1.as_slice()));
        let new: BTreeSet<FileId> = self.plan.new.iter().map(|new| new.id).collect();
        let mut moved = Moved::new();
        for change in &self.plan.changes {
            if let NameChange::Set { parent, name, id } = change {
                moved.insert(*id, (*parent, name.clone()));
            }
        }
        let known: BTreeSet<FileId> = moved.keys().chain(&self.plan.fewer_names).copied().collect();
        // A file recognised as a known one by inode number alone is read where it was seen, or not at all.
        let claimed = |id: &FileId| self.plan.claimed.contains(id) && moved.contains_key(id);
        let known: Vec<FileId> = known.difference(&new).copied().filter(|id| !claimed(id)).collect();
        for id in &known {
            let names = world.names_of(*id)?;
            if names.first().is_some_and(|first| !is_changed(first)) {
                moved.remove(id);
            } else if let Some(stays) = names.into_iter().find(|name| !is_changed(name)) {
                moved.insert(*id, stays);
            }
        }
        Ok(moved)
    }

    /// The committed file at each listed name that differs from the catalog.
    pub(super) fn committed(&self) -> HashMap<(FileId, &[u8]), FileId> {
        let names = self
            .listings
            .iter()
            .flat_map(|listing| listing.committed.iter().map(|(name, id)| ((listing.dir, name.as_slice()), *id)));
        names.collect()
    }

    /// Tells the source tree where the plan now places the files. Returns whether that changed.
    pub(super) fn look_where_decided<W>(&mut self, world: &mut W) -> Result<bool, W::Error>
    where
        W: SourceTree + CommittedState,
    {
        let moved = self.moved(world)?;
        for new in &self.plan.new {
            let place = moved.get(&new.id);
            if let Some((parent, name)) = place.filter(|place| self.looked_at.get(&new.id) != Some(place)) {
                world.place(new.id, *parent, name, new.stat.inode);
            }
        }
        if moved == self.looked_at {
            return Ok(false);
        }
        let new: HashSet<FileId> = self.plan.new.iter().map(|new| new.id).collect();
        let known = moved.iter().filter(|(id, _)| !new.contains(id));
        world.moved(&known.map(|(id, place)| (*id, place.clone())).collect());
        self.looked_at = moved;
        Ok(true)
    }

    /// Decides the names from all listings so far; `excluded` files keep their committed names.
    pub(super) fn decide_without<W>(
        &mut self,
        world: &mut W,
        facts: &FlushFacts,
        excluded: &HashSet<FileId>,
    ) -> Result<(), W::Error>
    where
        W: SourceTree + CommittedState,
    {
        let mut lookup = Answers { world, asked: &mut self.asked };
        let (listings, missing) = (&self.listings, &self.missing);
        self.plan = reconcile(listings, missing, facts.drain, &mut self.assigned, excluded, &mut lookup)?;
        Ok(())
    }
}

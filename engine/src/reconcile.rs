//! From listings of changed directories to names: what is new, what moved, what is gone.
//!
//! A listing proves presence, never absence (invariant I10): while names move, one pass over a directory can miss an entry
//! that was always there, or show it twice. So a vanished name is removed only with proof, and waits otherwise. Pure: it
//! sees listings and the catalog's view, and reads nothing itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::catalog::{Missing, Record};
use crate::identity::{NewKey, Span, may_be_claimed, may_be_links};
use crate::model::{FileId, InodeId, Kind, NameChange};
use crate::source::{Alive, Entry, Named, Stat};

/// One listed directory: what the catalog has in it, and what was seen.
#[derive(Clone, Debug)]
pub struct Listing {
    pub dir: FileId,
    pub committed: Vec<(Vec<u8>, FileId)>,
    pub seen: Vec<Entry>,
    /// Names that exist but could not be looked up: their committed files stay.
    pub unknown: Vec<Vec<u8>>,
}

/// Questions to the catalog and the file system.
pub trait Lookup {
    type Error;
    /// The file the catalog knows under this inode.
    fn by_inode(&mut self, inode: InodeId, kind: Kind) -> Result<Option<FileId>, Self::Error>;
    /// All of them, if several files may have had the number.
    fn all_by_inode(&mut self, inode: InodeId, kind: Kind) -> Result<Vec<FileId>, Self::Error> {
        Ok(self.by_inode(inode, kind)?.into_iter().collect())
    }
    fn record(&mut self, id: FileId) -> Result<Option<Record>, Self::Error>;
    fn names_of(&mut self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>, Self::Error>;
    fn children(&mut self, dir: FileId) -> Result<Vec<(Vec<u8>, FileId)>, Self::Error>;
    /// Asks the file system for one name, directly.
    fn direct(&mut self, dir: FileId, name: &[u8]) -> Result<Named, Self::Error>;
    fn alive(&mut self, id: FileId) -> Result<Alive, Self::Error>;
    /// Whether all listings and answers are of one moment: a name that is in none of them is nowhere. Asked only where it decides.
    fn is_of_one_moment(&self) -> bool;
}

/// A file that the catalog does not have yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    pub id: FileId,
    pub stat: Stat,
    pub parent: FileId,
    pub name: Vec<u8>,
    /// The regular file whose name it took; its content is the base of the delta.
    pub replaces: Option<FileId>,
}

/// The result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamePlan {
    pub changes: Vec<NameChange>,
    pub new: Vec<NewFile>,
    pub gone: Vec<FileId>,
    /// Known files that were recognised under another name by their number alone: they must be read there, or keep their
    /// committed names.
    pub claimed: BTreeSet<FileId>,
    /// Files that lost a name and have others left.
    pub fewer_names: BTreeSet<FileId>,
    /// Names that wait for proof of their removal; their directories must be listed again after a later swap.
    pub missing: Vec<Missing>,
    /// Attributes from the listing, of known files whose record differs (directories and special files rely on it).
    pub seen: Vec<(FileId, Stat)>,
    /// Directories in which an excluded file has a name: the next flush lists all its links again.
    pub held: BTreeSet<FileId>,
    /// New directories that cannot have their name yet, because another directory holds it. They are listed too, since
    /// their entries may show where that other one went.
    pub behind: Vec<NewFile>,
    /// Listed directories whose listing was not used; those that turn out to be in the tree are listed again.
    pub unused: BTreeSet<FileId>,
    /// Directories that a moved file came from and that were not listed.
    pub also_list: BTreeSet<FileId>,
}

type Place = (FileId, Vec<u8>);

/// Decides the names. `missing`: names that waited before. `drain`: the number of this drain. `assigned`: ids given to new
/// inodes in this flush, extended here. `excluded` files keep their committed names: new ones that could not be read, and
/// directories for which no consistent place was seen.
pub fn reconcile<L: Lookup>(
    listings: &[Listing],
    missing: &[Missing],
    drain: u64,
    assigned: &mut Assigned,
    excluded: &HashSet<FileId>,
    lookup: &mut L,
) -> Result<NamePlan, L::Error> {
    let mut names = Names::default();
    for listing in listings {
        names.listed.insert(listing.dir);
        for (name, id) in &listing.committed {
            names.committed.insert((listing.dir, name.clone()), *id);
        }
        names.held.extend(listing.unknown.iter().map(|name| (listing.dir, name.clone())));
    }
    for listing in listings {
        for entry in &listing.seen {
            names.see(listing.dir, entry, assigned, excluded, lookup)?;
        }
    }
    names.drop_earlier_sightings();
    names.vanish(missing, drain, assigned, excluded, lookup)?;
    // Direct lookups are sightings too, and later ones.
    names.drop_earlier_sightings();
    if let Some(dir) = names.inside_itself(lookup)? {
        let mut excluded = excluded.clone();
        excluded.insert(dir);
        return reconcile(listings, missing, drain, assigned, &excluded, lookup);
    }
    if let Some((id, (parent, name))) = names.taken_over_inside(missing, drain, lookup)? {
        let mut excluded = excluded.clone();
        excluded.insert(id);
        let mut plan = reconcile(listings, missing, drain, assigned, &excluded, lookup)?;
        plan.missing.push(Missing { parent, name, drain });
        plan.missing.sort();
        plan.missing.dedup();
        return Ok(plan);
    }
    let mut nowhere = names.unseen_directories(listings, lookup)?;
    let plan = names.finish(missing, lookup)?;
    nowhere.extend(plan.gone.iter().copied().filter(|id| listings.iter().any(|listing| listing.dir == *id)));
    if nowhere.is_empty() {
        return Ok(plan);
    }
    // The listing of a directory that turned out to be outside the tree proves nothing about the tree.
    let rest: Vec<Listing> = listings.iter().filter(|listing| !nowhere.contains(&listing.dir)).cloned().collect();
    let mut plan = reconcile(&rest, missing, drain, assigned, excluded, lookup)?;
    plan.unused.extend(nowhere);
    Ok(plan)
}

/// Ids given to inodes in the current flush.
#[derive(Clone, Debug, Default)]
pub struct Assigned {
    pub next_id: FileId,
    ids: HashMap<NewKey, FileId>,
}

impl Assigned {
    pub fn new(next_id: FileId) -> Assigned {
        Assigned { next_id, ids: HashMap::new() }
    }

    fn get_or_give(&mut self, stat: &Stat, (dir, name): &Place) -> FileId {
        let next = &mut self.next_id;
        *self.ids.entry(NewKey::of(stat, *dir, name)).or_insert_with(|| {
            let id = *next;
            next.0 += 1;
            id
        })
    }
}

#[derive(Default)]
struct Names {
    listed: HashSet<FileId>,
    committed: BTreeMap<Place, FileId>,
    /// The tree as seen, where it was listed.
    present: BTreeMap<Place, FileId>,
    /// Names that must not change in this flush, because their file is excluded.
    held: HashSet<Place>,
    places: HashMap<FileId, Vec<Place>>,
    stats: HashMap<FileId, Stat>,
    known: HashMap<FileId, bool>,
    first: Vec<FileId>,
    unset: BTreeSet<Place>,
    waiting: Vec<Missing>,
    behind: Vec<NewFile>,
}

impl Names {
    fn see<L: Lookup>(
        &mut self,
        dir: FileId,
        entry: &Entry,
        assigned: &mut Assigned,
        excluded: &HashSet<FileId>,
        lookup: &mut L,
    ) -> Result<(), L::Error> {
        let place = (dir, entry.name.clone());
        let known = match Span::of(entry.stat.inode) {
            Span::Always => lookup.by_inode(entry.stat.inode, entry.stat.kind)?,
            Span::Mount => self.known_by_name(&place, &entry.stat, lookup)?,
        };
        let id = match known {
            Some(id) => id,
            None => assigned.get_or_give(&entry.stat, &place),
        };
        if excluded.contains(&id) || self.committed.get(&place).is_some_and(|old| excluded.contains(old)) {
            if known.is_none() && entry.stat.kind == Kind::Dir && !excluded.contains(&id) {
                let (parent, name) = place.clone();
                self.behind.push(NewFile { id, stat: entry.stat.clone(), parent, name, replaces: None });
            }
            self.held.insert(place);
            return Ok(());
        }
        if !self.stats.contains_key(&id) {
            self.first.push(id);
        }
        self.known.insert(id, known.is_some());
        self.stats.insert(id, entry.stat.clone());
        self.places.entry(id).or_default().push(place.clone());
        self.present.insert(place, id);
        Ok(())
    }

    /// The known file at `place`, where an inode number alone proves nothing: the file that is committed under this name,
    /// or a file with that number whose own names no longer lead to it or are links to the same inode.
    fn known_by_name<L: Lookup>(&self, place: &Place, seen: &Stat, lookup: &mut L) -> Result<Option<FileId>, L::Error> {
        let here = self.committed.get(place).copied();
        let mut candidates = Vec::new();
        if let Some(record) = here.map(|id| lookup.record(id)).transpose()?.flatten() {
            candidates.extend((record.inode == seen.inode && record.meta.kind == seen.kind).then_some(record.id));
        }
        if may_be_claimed(seen) {
            candidates.extend(lookup.all_by_inode(seen.inode, seen.kind)?);
        }
        'candidates: for id in candidates {
            let committed = here == Some(id);
            let elsewhere = self.places.get(&id).is_some_and(|places| places.iter().any(|other| other != place));
            if elsewhere && self.stats.get(&id).is_none_or(|other| !may_be_links(seen, other, committed)) {
                continue;
            }
            for name in lookup.names_of(id)? {
                if name == *place || self.present.get(&name) == Some(&id) {
                    continue;
                }
                match lookup.direct(name.0, &name.1)? {
                    Named::Entry(other) if other.inode == seen.inode && !may_be_links(seen, &other, committed) => {
                        continue 'candidates;
                    }
                    _ => {}
                }
            }
            return Ok(Some(id));
        }
        Ok(None)
    }

    /// Finds a directory that the plan would put below itself: two directories swapped places during the listings, which
    /// show different moments. It keeps its committed place until everything is listed again.
    fn inside_itself<L: Lookup>(&self, lookup: &mut L) -> Result<Option<FileId>, L::Error> {
        let is_dir = |id: &FileId| self.stats.get(id).is_some_and(|stat| stat.kind == Kind::Dir);
        let changed: Vec<(&Place, FileId)> = self
            .present
            .iter()
            .filter(|(place, id)| is_dir(id) && self.committed.get(*place) != Some(*id))
            .map(|(place, id)| (place, *id))
            .collect();
        // A committed place that does not change leads to the root, unless a directory above it moves.
        let committed_holds = !changed.iter().any(|(_, id)| self.known.get(id) == Some(&true));
        // Directories whose way up was followed to the end: a long chain is followed once, not once per directory.
        let mut ended: HashSet<FileId> = HashSet::new();
        for (place, id) in changed {
            let (mut at, mut passed) = (place.0, HashSet::new());
            let circle = loop {
                if at == FileId::ROOT || ended.contains(&at) {
                    break false;
                }
                if !passed.insert(at) {
                    break true;
                }
                if at == id {
                    return Ok(Some(id));
                }
                let seen = self.places.get(&at).and_then(|places| places.last()).map(|place| place.0);
                let parent = match seen {
                    Some(parent) => Some(parent),
                    None if committed_holds => None,
                    None => lookup.names_of(at)?.first().map(|place| place.0),
                };
                match parent {
                    Some(parent) => at = parent,
                    None => break false,
                }
            };
            if !circle {
                ended.extend(passed);
            }
        }
        Ok(None)
    }

    /// Finds a file whose only name now leads to another file, although it is still in the tree: it moved to a place that
    /// no listing of this flush showed. Both wait for a later SWAP; otherwise it would be committed as removed. They wait
    /// only once: its new place may be below a directory that waits here, and is listed only when that has its place.
    fn taken_over_inside<L: Lookup>(
        &self,
        missing: &[Missing],
        drain: u64,
        lookup: &mut L,
    ) -> Result<Option<(FileId, Place)>, L::Error> {
        for (place, now) in &self.present {
            let Some(old) = self.committed.get(place).filter(|old| *old != now) else { continue };
            let seen = self.places.get(old).is_some_and(|places| !places.is_empty());
            let waited = missing.iter().any(|m| m.parent == place.0 && m.name == place.1 && m.drain < drain);
            if seen || waited || lookup.names_of(*old)?.len() > 1 {
                continue;
            }
            if lookup.alive(*old)? == Alive::Inside {
                return Ok(Some((*old, place.clone())));
            }
        }
        Ok(None)
    }

    /// Listed directories that the catalog does not have and that no listing shows any more.
    fn unseen_directories<L: Lookup>(&self, listings: &[Listing], lookup: &mut L) -> Result<HashSet<FileId>, L::Error> {
        let mut unseen = HashSet::new();
        for listing in listings {
            let placed = self.places.get(&listing.dir).is_some_and(|places| !places.is_empty());
            if !placed && lookup.record(listing.dir)?.is_none() {
                unseen.insert(listing.dir);
            }
        }
        Ok(unseen)
    }

    /// A file with one link that was seen twice was moved between the two sightings: the later one counts.
    fn drop_earlier_sightings(&mut self) {
        for (id, places) in &mut self.places {
            let single = self.stats.get(id).is_some_and(|stat| stat.nlink <= 1 || stat.kind == Kind::Dir);
            if single && places.len() > 1 {
                for place in places.drain(..places.len() - 1) {
                    if self.present.get(&place) == Some(id) {
                        self.present.remove(&place);
                    }
                }
            }
        }
    }

    fn vanish<L: Lookup>(
        &mut self,
        missing: &[Missing],
        drain: u64,
        assigned: &mut Assigned,
        excluded: &HashSet<FileId>,
        lookup: &mut L,
    ) -> Result<(), L::Error> {
        let waited: HashSet<(FileId, &[u8])> =
            missing.iter().filter(|m| m.drain < drain).map(|m| (m.parent, m.name.as_slice())).collect();
        let vanished: Vec<(Place, FileId)> = self
            .committed
            .iter()
            .filter(|(place, _)| !self.present.contains_key(place) && !self.held.contains(place))
            .map(|(place, id)| (place.clone(), *id))
            .collect();
        for (place, id) in vanished {
            if excluded.contains(&id) {
                self.held.insert(place);
                continue;
            }
            let single = self.stats.get(&id).is_some_and(|stat| stat.nlink <= 1 || stat.kind == Kind::Dir);
            if single && self.places.get(&id).is_some_and(|places| !places.is_empty()) {
                self.unset.insert(place);
                continue;
            }
            let direct = lookup.direct(place.0, &place.1)?;
            if let Named::Entry(stat) = direct {
                // The listing missed it, or another file has the name by now.
                let entry = Entry { name: place.1.clone(), stat };
                self.see(place.0, &entry, assigned, excluded, lookup)?;
                continue;
            }
            let alive = lookup.alive(id)?;
            let proven = alive == Alive::Gone && lookup.children(id)?.is_empty();
            let enough = || waited.contains(&(place.0, place.1.as_slice())) || lookup.is_of_one_moment();
            if proven || (direct == Named::Nothing && alive != Alive::Inside && enough()) {
                self.unset.insert(place);
            } else {
                // Each process counts drains from one: a name that waited in an earlier process waits since now.
                let known = missing.iter().find(|m| m.parent == place.0 && m.name == place.1);
                let since = known.map_or(drain, |m| m.drain.min(drain));
                self.waiting.push(Missing { parent: place.0, name: place.1, drain: since });
            }
        }
        Ok(())
    }

    fn finish<L: Lookup>(mut self, missing: &[Missing], lookup: &mut L) -> Result<NamePlan, L::Error> {
        let mut plan = NamePlan { held: self.held.iter().map(|place| place.0).collect(), ..NamePlan::default() };
        let mut sets: BTreeMap<Place, FileId> = BTreeMap::new();
        for (place, id) in &self.present {
            if self.committed.get(place) != Some(id) {
                sets.insert(place.clone(), *id);
            }
        }
        // Files that lost a name here, by removal or because another file took it.
        let taken_over = sets.keys().filter_map(|place| self.committed.get(place));
        let removed = self.unset.iter().filter_map(|place| self.committed.get(place));
        let losers: BTreeSet<FileId> = taken_over.chain(removed).copied().collect();
        for id in sets.values() {
            if self.is_known(*id) && self.stats.get(id).is_some_and(|stat| Span::of(stat.inode) == Span::Mount) {
                plan.claimed.insert(*id);
            }
        }
        self.leave_former_names(&sets, &mut plan, lookup)?;
        let gone = self.gone(losers, &mut plan, lookup)?;
        // Names that waited in a directory that was not listed now keep waiting.
        for m in missing {
            if !self.listed.contains(&m.parent) && !gone.contains(&m.parent) {
                self.waiting.push(m.clone());
            }
        }
        for id in &self.first {
            let Some(stat) = self.stats.remove(id) else { continue };
            let place = self.places.get(id).and_then(|places| places.last());
            if self.is_known(*id) {
                plan.seen.push((*id, stat));
            } else if let Some((parent, name)) = place {
                let replaces = self.committed.get(&(*parent, name.clone())).copied();
                plan.new.push(NewFile { id: *id, stat, parent: *parent, name: name.clone(), replaces });
            }
        }
        // A name that is set again needs no removal first: setting it replaces the old file.
        let unset = self.unset.into_iter().filter(|place| !sets.contains_key(place));
        plan.changes.extend(unset.map(|(parent, name)| NameChange::Unset { parent, name }));
        plan.changes.extend(sets.into_iter().map(|((parent, name), id)| NameChange::Set { parent, name, id }));
        plan.gone.extend(gone);
        plan.behind = self.behind;
        self.waiting.sort();
        self.waiting.dedup();
        plan.missing = self.waiting;
        Ok(plan)
    }

    /// Whether a file that was seen is in the catalog.
    fn is_known(&self, id: FileId) -> bool {
        self.known.get(&id).copied().unwrap_or(false)
    }

    /// A moved file with one link has left its former name, wherever that was.
    fn leave_former_names<L: Lookup>(
        &mut self,
        sets: &BTreeMap<Place, FileId>,
        plan: &mut NamePlan,
        lookup: &mut L,
    ) -> Result<(), L::Error> {
        for id in sets.values().copied().collect::<BTreeSet<_>>() {
            let single = self.stats.get(&id).is_some_and(|stat| stat.nlink <= 1 || stat.kind == Kind::Dir);
            if !single || !self.is_known(id) {
                continue;
            }
            for place in lookup.names_of(id)? {
                if self.present.get(&place) != Some(&id) && !self.unset.contains(&place) {
                    if !self.listed.contains(&place.0) {
                        plan.also_list.insert(place.0);
                    }
                    if !self.present.contains_key(&place) {
                        self.unset.insert(place);
                    }
                }
            }
        }
        Ok(())
    }

    /// Which of `losers` have no name left, with everything below them.
    fn gone<L: Lookup>(
        &mut self,
        losers: BTreeSet<FileId>,
        plan: &mut NamePlan,
        lookup: &mut L,
    ) -> Result<BTreeSet<FileId>, L::Error> {
        let mut gone: BTreeSet<FileId> = BTreeSet::new();
        let mut queue: Vec<FileId> = losers.into_iter().collect();
        while let Some(id) = queue.pop() {
            let named = self.places.get(&id).is_some_and(|places| !places.is_empty())
                || lookup.names_of(id)?.iter().any(|place| match self.present.get(place) {
                    Some(now) => *now == id,
                    None => !self.unset.contains(place),
                });
            if named {
                plan.fewer_names.insert(id);
                continue;
            }
            if !gone.insert(id) {
                continue;
            }
            for (name, child) in lookup.children(id)? {
                // The directory is gone, so every name in it is gone. A child that was seen elsewhere stays.
                let place = (id, name);
                if !self.present.contains_key(&place) {
                    self.unset.insert(place);
                    queue.push(child);
                }
            }
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests;

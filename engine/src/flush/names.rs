//! The names part of a flush: lists changed directories, and the new ones they lead to, until nothing is unlisted.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use super::world::{Alive, Entry, Known, Listed, Missing, Moved, Named, Record, Unknown, World};
use super::{FlushFacts, Report};
use crate::dirty::{DirtySet, Marks};
use crate::format::limits;
use crate::model::{FileId, InodeId, Kind, NameChange};
use crate::reconcile::{Assigned, Listing, Lookup, NamePlan, reconcile};

/// Listings of this flush and what follows from them.
pub struct Gathered {
    pub plan: NamePlan,
    asked: Asked,
    pub assigned: Assigned,
    listings: Vec<Listing>,
    missing: Vec<Missing>,
    /// Where files were looked for, by the names as they were decided then.
    pub looked_at: Moved,
    new_inodes: HashMap<FileId, InodeId>,
    /// Files whose removal waits for a person.
    pub held_back: HashSet<FileId>,
    /// Files that keep the names they have: directories among those whose names others took, and files whose new names have no
    /// room in this commit.
    pub excluded: HashSet<FileId>,
}

impl Gathered {
    pub fn was_listed(&self, dir: FileId) -> bool {
        !self.plan.unused.contains(&dir) && self.listings.iter().any(|listing| listing.dir == dir)
    }

    /// Whether a new file was watched, and a new directory listed, in this flush.
    pub fn is_armed(&self, id: FileId) -> bool {
        self.new_inodes.contains_key(&id)
    }

    /// Inode numbers under which new files were seen.
    pub fn new_numbers(&self) -> HashSet<u64> {
        self.new_inodes.values().map(|inode| inode.ino).collect()
    }

    /// Numbers of new files that were watched and are not in the plan: what is seen of them again is watched again.
    pub fn left_out_numbers(&self) -> Vec<u64> {
        let planned: HashSet<FileId> = self.plan.new.iter().map(|new| new.id).collect();
        let left_out = self.new_inodes.iter().filter(|(id, _)| !planned.contains(id));
        left_out.map(|(_, inode)| inode.ino).collect()
    }

    /// Inode number of a directory, known or new in this flush; 0 when it is neither.
    pub fn inode_of<W: World>(&self, world: &W, id: FileId) -> Result<u64, W::Error> {
        if let Some(inode) = self.new_inodes.get(&id) {
            return Ok(inode.ino);
        }
        Ok(world.record(id)?.map_or(0, |record| record.inode.ino))
    }

    /// What is gone must not stay pending for ever; but marks are kept by inode number, and a number may be in use again.
    pub fn forget_gone<W: World>(&self, world: &W, kept: &mut DirtySet) -> Result<(), W::Error> {
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

    /// Where the plan has new files, and known ones that lost the name by which they are looked for, their first: by a
    /// committed name that stays, if there is one.
    pub fn moved<W: World>(&self, world: &W) -> Result<Moved, W::Error> {
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
        // One that was taken for a known file by its number is read where it was seen, or not at all.
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

    /// Of names that were listed and are not as the catalog has them, the files that it has there.
    pub fn committed(&self) -> HashMap<(FileId, &[u8]), FileId> {
        let names = self
            .listings
            .iter()
            .flat_map(|listing| listing.committed.iter().map(|(name, id)| ((listing.dir, name.as_slice()), *id)));
        names.collect()
    }

    /// Has files looked for where the plan has them now, and tells whether that is elsewhere than before.
    pub fn look_where_decided<W: World>(&mut self, world: &mut W) -> Result<bool, W::Error> {
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

    /// Decides again without the files that could not be read.
    pub fn exclude<W: World>(
        &mut self,
        world: &mut W,
        facts: &FlushFacts,
        excluded: &HashSet<FileId>,
    ) -> Result<(), W::Error> {
        let mut lookup = Answers { world, asked: &mut self.asked };
        let (listings, missing) = (&self.listings, &self.missing);
        self.plan = reconcile(listings, missing, facts.drain, &mut self.assigned, excluded, &mut lookup)?;
        Ok(())
    }
}

/// Times that directories are looked for anew in one flush.
const ROUNDS_MAX: u32 = 8;

/// Lists and reconciles until every new directory was listed or there is no more room.
#[expect(clippy::too_many_lines, reason = "it is to be cut where it turns a corner")]
pub fn gather<W: World>(
    world: &mut W,
    taken: &DirtySet,
    facts: &FlushFacts,
    report: &mut Report,
    kept: &mut DirtySet,
) -> Result<Gathered, W::Error> {
    let mut gathered = Gathered {
        plan: NamePlan::default(),
        asked: Asked::default(),
        assigned: Assigned::new(world.next_id()?),
        listings: Vec::new(),
        missing: world.missing()?,
        looked_at: Moved::new(),
        new_inodes: HashMap::new(),
        held_back: HashSet::new(),
        excluded: HashSet::new(),
    };
    world.moved(&Moved::new());
    let mut queue: VecDeque<(FileId, u64, u64)> = VecDeque::new();
    let mut queued: BTreeSet<FileId> = BTreeSet::new();
    for (ino, waiting) in taken.iter().filter(|(_, waiting)| waiting.marks.names) {
        for record in world.by_inode(ino)?.into_iter().filter(|record| record.meta.kind == Kind::Dir) {
            if queued.insert(record.id) {
                queue.push_back((record.id, ino, waiting.since_ns));
            }
        }
    }
    // New files of one directory that cannot be read would keep the others unlisted.
    let first = super::first_of(facts.drain, queue.len());
    queue.rotate_left(first);
    let (mut new_files, mut new_bytes) = (0usize, 0u64);
    let (mut rounds, mut levels) = (0, 0);
    // Directories that were not where they were looked for: each is looked for again where a listing shows it to be.
    let mut not_there: BTreeMap<FileId, (u64, u64)> = BTreeMap::new();
    while !queue.is_empty() {
        while let Some((dir, ino, since)) = queue.pop_front() {
            let full = new_files >= facts.limits.files || new_bytes >= facts.limits.bytes;
            if full || levels >= facts.limits.levels {
                not_there.remove(&dir);
                report.carried += 1;
                kept.add(ino, &Marks::names(), since);
                continue;
            }
            let listed = match world.list(dir)? {
                Listed::Entries(seen) => Ok(Some((seen, Vec::new()))),
                Listed::Partly(seen, unknown) => Ok(Some((seen, unknown))),
                Listed::NotThere => Ok(None),
                Listed::Unreadable(cause) => Err(cause),
            };
            match listed {
                Ok(Some((mut seen, mut unknown))) => {
                    take_long_names(&mut seen, &mut unknown);
                    let mut listing = differing(world, dir, seen, facts.compare)?;
                    listing.unknown = unknown.iter().map(|(name, _)| name.clone()).collect();
                    if !unknown.is_empty() {
                        report.unknown.push((dir, unknown));
                        report.lasting.insert(ino);
                        kept.add(ino, &Marks::names(), since);
                    }
                    // Nor may those in front keep out the ones behind them.
                    // Drawn anew: by the draw of the queue a directory would begin at the same places whenever it is its turn.
                    let drawn = facts.drain ^ (dir.0 + 1).wrapping_mul(0xd1b5_4a32_d192_ed03);
                    let first = super::first_of(drawn, listing.seen.len());
                    listing.seen.rotate_left(first);
                    let whole = listing.seen.len();
                    let mut seen = Vec::new();
                    for entry in listing.seen {
                        let records = world.by_inode(entry.stat.inode.ino)?;
                        if records.iter().all(|record| record.inode != entry.stat.inode) {
                            // What is new has no other name in the commits, so it can wait as if it was not seen. But not
                            // where it took the name of another file: that name would be committed as gone.
                            let name_is_free =
                                listing.committed.binary_search_by(|(name, _)| name.cmp(&entry.name)).is_err();
                            let full = new_files >= facts.limits.files || new_bytes >= facts.limits.bytes;
                            if full && name_is_free {
                                continue;
                            }
                            new_files += 1;
                            new_bytes += entry.stat.size;
                        }
                        seen.push(entry);
                    }
                    if seen.len() < whole {
                        report.carried += 1;
                        kept.add(ino, &Marks::names(), since);
                    }
                    listing.seen = seen;
                    gathered.listings.push(listing);
                    not_there.remove(&dir);
                }
                Ok(None) => {
                    not_there.insert(dir, (ino, since));
                }
                Err(cause) => {
                    not_there.remove(&dir);
                    report.unlisted.push((dir, cause));
                    report.lasting.insert(ino);
                    kept.add(ino, &Marks::names(), since);
                }
            }
        }
        levels += 1;
        let (listings, missing, assigned) = (&gathered.listings, &gathered.missing, &mut gathered.assigned);
        let nothing = HashSet::new();
        let mut answers = Answers { world, asked: &mut gathered.asked };
        gathered.plan = reconcile(listings, missing, facts.drain, assigned, &nothing, &mut answers)?;
        // ARM before anything is read of a new file: what it holds now is read, what comes later is marked.
        let seen = gathered.plan.new.iter().chain(&gathered.plan.behind);
        let fresh: Vec<_> = seen.filter(|new| !gathered.new_inodes.contains_key(&new.id)).cloned().collect();
        let inodes: Vec<u64> = fresh.iter().map(|new| new.stat.inode.ino).collect();
        world.watch(&inodes)?;
        let elsewhere = gathered.look_where_decided(world)?;
        for new in fresh {
            if !gathered.looked_at.contains_key(&new.id) {
                world.place(new.id, new.parent, &new.name, new.stat.inode);
            }
            gathered.new_inodes.insert(new.id, new.stat.inode);
            if new.stat.kind == Kind::Dir && queued.insert(new.id) {
                queue.push_back((new.id, new.stat.inode.ino, super::now_ns(facts)));
            }
        }
        for dir in gathered.plan.also_list.clone() {
            if queued.insert(dir) {
                let ino = gathered.inode_of(world, dir)?;
                queue.push_back((dir, ino, super::now_ns(facts)));
            }
        }
        if elsewhere {
            rounds += 1;
            if rounds <= ROUNDS_MAX {
                let gone: BTreeSet<FileId> = gathered.plan.gone.iter().copied().collect();
                let again = not_there.iter().filter(|(dir, _)| !gone.contains(dir));
                queue.extend(again.map(|(dir, (ino, since))| (*dir, *ino, *since)));
            }
        }
    }
    for (ino, since) in not_there.values() {
        kept.add(*ino, &Marks::names(), *since);
    }
    Ok(gathered)
}

/// Names that the format does not hold (some file systems have longer ones than 255 bytes).
fn take_long_names(seen: &mut Vec<Entry>, unknown: &mut Unknown) {
    seen.retain(|entry| {
        let holds = crate::format::is_entry_name(&entry.name);
        if !holds {
            let cause = format!("its name has {} bytes, the format holds {}", entry.name.len(), limits::NAME);
            unknown.push((entry.name.clone(), cause));
        }
        holds
    });
}

/// A listing without the names that are as the catalog has them: one name that changed among a million is decided about
/// alone. With `compare` a file is left out only if its attributes are those of the catalog too.
fn differing<W: World>(world: &W, dir: FileId, mut seen: Vec<Entry>, compare: bool) -> Result<Listing, W::Error> {
    let known = if compare { world.known_in(dir)? } else { world.others_in(dir, &mut seen)? };
    // Whether each name was seen as it is known; `None` before it was seen.
    let mut known: HashMap<Vec<u8>, (Known, Option<bool>)> =
        known.into_iter().map(|(name, known)| (name, (known, None))).collect();
    seen.retain(|entry| {
        let Some((known, as_known)) = known.get_mut(&entry.name) else { return true };
        let stat = &entry.stat;
        let (inode, times) = (known.inode == stat.inode, known.ctime == Some(stat.ctime) && known.mtime == stat.mtime);
        let content = known.kind == Kind::File && times && known.size == stat.size;
        let same = inode && known.kind == stat.kind && (!compare || content);
        // A name can be listed twice, and one of the times lead to another file: then it is decided about.
        let decide = !same || *as_known == Some(false);
        *as_known = Some(!decide);
        decide
    });
    let differ = known.into_iter().filter(|(_, (_, as_known))| *as_known != Some(true));
    let mut committed: Vec<(Vec<u8>, FileId)> = differ.map(|(name, (known, _))| (name, known.id)).collect();
    committed.sort_unstable();
    Ok(Listing { dir, committed, seen, unknown: Vec::new() })
}

/// Answers of the file system in this flush. They are asked for once: the plan is decided several times, and each time
/// from the same facts, though the tree moves on.
#[derive(Default)]
struct Asked {
    direct: HashMap<(FileId, Vec<u8>), Named>,
    alive: HashMap<FileId, Alive>,
    /// Which committed file an inode is; the commits stay as they are while a flush gathers.
    known: HashMap<(InodeId, Kind), Option<FileId>>,
}

struct Answers<'a, W> {
    world: &'a mut W,
    asked: &'a mut Asked,
}

impl<W: World> Lookup for Answers<'_, W> {
    type Error = W::Error;

    fn by_inode(&mut self, inode: InodeId, kind: Kind) -> Result<Option<FileId>, W::Error> {
        if let Some(answer) = self.asked.known.get(&(inode, kind)) {
            return Ok(*answer);
        }
        let mut records = self.world.by_inode(inode.ino)?.into_iter();
        let found = records.find(|record| record.inode == inode && record.meta.kind == kind).map(|record| record.id);
        self.asked.known.insert((inode, kind), found);
        Ok(found)
    }

    fn all_by_inode(&mut self, inode: InodeId, kind: Kind) -> Result<Vec<FileId>, W::Error> {
        let records = self.world.by_inode(inode.ino)?.into_iter();
        Ok(records.filter(|record| record.inode == inode && record.meta.kind == kind).map(|record| record.id).collect())
    }

    fn record(&mut self, id: FileId) -> Result<Option<Record>, W::Error> {
        self.world.record(id)
    }

    fn names_of(&mut self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>, W::Error> {
        self.world.names_of(id)
    }

    fn children(&mut self, dir: FileId) -> Result<Vec<(Vec<u8>, FileId)>, W::Error> {
        self.world.children(dir)
    }

    fn direct(&mut self, dir: FileId, name: &[u8]) -> Result<Named, W::Error> {
        if let Some(answer) = self.asked.direct.get(&(dir, name.to_vec())) {
            return Ok(answer.clone());
        }
        let answer = self.world.lookup(dir, name)?;
        self.asked.direct.insert((dir, name.to_vec()), answer.clone());
        Ok(answer)
    }

    fn alive(&mut self, id: FileId) -> Result<Alive, W::Error> {
        if let Some(answer) = self.asked.alive.get(&id) {
            return Ok(*answer);
        }
        let answer = self.world.alive(id)?;
        self.asked.alive.insert(id, answer);
        Ok(answer)
    }
}

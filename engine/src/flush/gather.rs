//! The names part of a flush: lists changed directories and the new directories found in them, until all are listed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use super::budget::Budget;
use super::facts::first_of;
use super::gathered::Gathered;
use super::running::Flush;
use super::world::{CommittedState, Moved, World};
use crate::catalog::Known;
use crate::dirty::Marks;
use crate::format::{is_entry_name, limits};
use crate::model::{FileId, Ino, Kind};
use crate::reconcile::Listing;
use crate::source::{Entry, Listed, Unknown};

/// How often one flush looks for moved directories again.
const ROUNDS_MAX: u32 = 8;

/// Lists and reconciles until every new directory is listed or a limit is reached.
pub(super) fn gather<W: World>(flush: &mut Flush<'_, W>) -> Result<Gathered, W::Error> {
    let mut gathered = Gathered::begin(flush.world)?;
    flush.world.moved(&Moved::new());
    let mut search = Search::begin(flush)?;
    while !search.queue.is_empty() {
        while let Some(due) = search.queue.pop_front() {
            search.list(flush, &mut gathered, due)?;
        }
        search.levels += 1;
        gathered.decide_without(flush.world, flush.facts, &HashSet::new())?;
        search.follow(flush, &mut gathered)?;
    }
    gathered.not_there = search.not_there.values().map(|due| (due.dir, due.ino, due.since_ns)).collect();
    Ok(gathered)
}

/// A directory that is to be listed.
#[derive(Clone, Copy)]
struct Due {
    dir: FileId,
    ino: Ino,
    /// Since when the directory's mark has been waiting.
    since_ns: u64,
}

/// Which directories are still to be listed.
struct Search {
    queue: VecDeque<Due>,
    /// All directories that were ever queued.
    queued: BTreeSet<FileId>,
    /// Directories that were not at their expected path. They are looked for again at the place where a later listing shows
    /// them.
    not_there: BTreeMap<FileId, Due>,
    /// Counts the new files that were seen.
    budget: Budget,
    /// How often moved directories were looked for again.
    rounds: u32,
    /// How many levels of new directories were listed.
    levels: usize,
}

impl Search {
    /// Queues the directories with marks.
    fn begin<W: World>(flush: &Flush<'_, W>) -> Result<Search, W::Error> {
        let mut queue = VecDeque::new();
        let mut queued = BTreeSet::new();
        for (ino, waiting) in flush.taken.iter().filter(|(_, waiting)| waiting.marks.names) {
            for record in flush.world.by_inode(ino)?.into_iter().filter(|record| record.meta.kind == Kind::Dir) {
                if queued.insert(record.id) {
                    queue.push_back(Due { dir: record.id, ino, since_ns: waiting.since_ns });
                }
            }
        }
        // Rotate: otherwise new files of one directory that cannot be read would keep the others unlisted.
        queue.rotate_left(flush.facts.first_of(queue.len()));
        let budget = Budget::of(&flush.facts.limits);
        Ok(Search { queue, queued, not_there: BTreeMap::new(), budget, rounds: 0, levels: 0 })
    }

    /// Lists one directory, or keeps its mark if it cannot be listed now.
    fn list<W: World>(&mut self, flush: &mut Flush<'_, W>, gathered: &mut Gathered, due: Due) -> Result<(), W::Error> {
        if self.budget.is_spent() || self.levels >= flush.facts.limits.levels {
            self.not_there.remove(&due.dir);
            flush.report.carried += 1;
            flush.kept.add(due.ino, &Marks::names(), due.since_ns);
            return Ok(());
        }
        let (seen, unknown) = match flush.world.list(due.dir)? {
            Listed::Entries(seen) => (seen, Vec::new()),
            Listed::Partly(seen, unknown) => (seen, unknown),
            Listed::NotThere => {
                self.not_there.insert(due.dir, due);
                return Ok(());
            }
            Listed::Unreadable(cause) => {
                self.not_there.remove(&due.dir);
                flush.report.unlisted.push((due.dir, cause));
                flush.report.lasting.insert(due.ino);
                flush.kept.add(due.ino, &Marks::names(), due.since_ns);
                return Ok(());
            }
        };
        let listing = self.take(flush, due, seen, unknown)?;
        gathered.listings.push(listing);
        self.not_there.remove(&due.dir);
        Ok(())
    }

    /// Reduces a listing to what is to be decided: names that differ from the committed ones, and new files within the
    /// budget.
    fn take<W: World>(
        &mut self,
        flush: &mut Flush<'_, W>,
        due: Due,
        mut seen: Vec<Entry>,
        mut unknown: Unknown,
    ) -> Result<Listing, W::Error> {
        take_long_names(&mut seen, &mut unknown);
        let mut listing = differing(&*flush.world, due.dir, seen, flush.facts.compare)?;
        listing.unknown = unknown.iter().map(|(name, _)| name.clone()).collect();
        if !unknown.is_empty() {
            flush.report.unknown.push((due.dir, unknown));
            flush.report.lasting.insert(due.ino);
            flush.kept.add(due.ino, &Marks::names(), due.since_ns);
        }
        // Start at a pseudo-random entry so that unreadable files at the front cannot starve later ones. The directory id is mixed
        // in; otherwise a directory would start at the same entry each time.
        let drawn = flush.facts.drain ^ (due.dir.0 + 1).wrapping_mul(0xd1b5_4a32_d192_ed03);
        let whole = listing.seen.len();
        listing.seen.rotate_left(first_of(drawn, whole));
        let mut seen = Vec::new();
        for entry in std::mem::take(&mut listing.seen) {
            let records = flush.world.by_inode(entry.stat.inode.ino)?;
            if records.iter().all(|record| record.inode != entry.stat.inode) {
                // A new file has no other committed name, so it can wait as if it had not been seen. It cannot wait if it
                // took the name of another file: that name would be committed as removed.
                let name_is_free = listing.committed.binary_search_by(|(name, _)| name.cmp(&entry.name)).is_err();
                if self.budget.is_spent() && name_is_free {
                    continue;
                }
                self.budget.spend(entry.stat.size);
            }
            seen.push(entry);
        }
        if seen.len() < whole {
            flush.report.carried += 1;
            flush.kept.add(due.ino, &Marks::names(), due.since_ns);
        }
        listing.seen = seen;
        Ok(listing)
    }

    /// Watches the new files of the plan, and queues the new directories.
    fn follow<W: World>(&mut self, flush: &mut Flush<'_, W>, gathered: &mut Gathered) -> Result<(), W::Error> {
        // ARM before reading anything of a new file: its present content is read, and later changes are marked.
        let seen = gathered.plan.new.iter().chain(&gathered.plan.behind);
        let fresh: Vec<_> = seen.filter(|new| !gathered.new_inodes.contains_key(&new.id)).cloned().collect();
        let inodes: Vec<Ino> = fresh.iter().map(|new| new.stat.inode.ino).collect();
        flush.world.watch(&inodes)?;
        let elsewhere = gathered.look_where_decided(flush.world)?;
        let since_ns = flush.facts.now_ns();
        for new in fresh {
            if !gathered.looked_at.contains_key(&new.id) {
                flush.world.place(new.id, new.parent, &new.name, new.stat.inode);
            }
            gathered.new_inodes.insert(new.id, new.stat.inode);
            if new.stat.kind == Kind::Dir && self.queued.insert(new.id) {
                self.queue.push_back(Due { dir: new.id, ino: new.stat.inode.ino, since_ns });
            }
        }
        for dir in gathered.plan.also_list.clone() {
            if self.queued.insert(dir) {
                let ino = gathered.inode_of(flush.world, dir)?;
                self.queue.push_back(Due { dir, ino, since_ns });
            }
        }
        if elsewhere {
            self.rounds += 1;
            if self.rounds <= ROUNDS_MAX {
                let gone: BTreeSet<FileId> = gathered.plan.gone.iter().copied().collect();
                self.queue.extend(self.not_there.values().filter(|due| !gone.contains(&due.dir)));
            }
        }
        Ok(())
    }
}

/// Moves names that the format cannot hold to `unknown` (some file systems allow more than 255 bytes).
fn take_long_names(seen: &mut Vec<Entry>, unknown: &mut Unknown) {
    seen.retain(|entry| {
        let holds = is_entry_name(&entry.name);
        if !holds {
            let cause = format!("its name has {} bytes, the format holds {}", entry.name.len(), limits::NAME);
            unknown.push((entry.name.clone(), cause));
        }
        holds
    });
}

/// Drops entries that are as the catalog has them, so that one changed name among a million is decided alone. With
/// `compare`, an entry is dropped only if its attributes are unchanged too.
fn differing<W: CommittedState>(
    world: &W,
    dir: FileId,
    mut seen: Vec<Entry>,
    compare: bool,
) -> Result<Listing, W::Error> {
    let known = if compare { world.known_in(dir)? } else { world.others_in(dir, &mut seen)? };
    // Whether each name was seen unchanged; `None`: not seen yet.
    let mut known: HashMap<Vec<u8>, (Known, Option<bool>)> =
        known.into_iter().map(|(name, known)| (name, (known, None))).collect();
    seen.retain(|entry| {
        let Some((known, as_known)) = known.get_mut(&entry.name) else { return true };
        let stat = &entry.stat;
        let (inode, times) = (known.inode == stat.inode, known.ctime == Some(stat.ctime) && known.mtime == stat.mtime);
        let content = known.kind == Kind::File && times && known.size == stat.size;
        let same = inode && known.kind == stat.kind && (!compare || content);
        // A name can be listed twice and lead to another file once. If any of its entries differ, the name is decided.
        let decide = !same || *as_known == Some(false);
        *as_known = Some(!decide);
        decide
    });
    let differ = known.into_iter().filter(|(_, (_, as_known))| *as_known != Some(true));
    let mut committed: Vec<(Vec<u8>, FileId)> = differ.map(|(name, (known, _))| (name, known.id)).collect();
    committed.sort_unstable();
    Ok(Listing { dir, committed, seen, unknown: Vec::new() })
}

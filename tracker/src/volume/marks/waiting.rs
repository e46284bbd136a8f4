//! The marks of one volume that are not in the store yet: a dirty set in memory with its copy in the catalog.
//!
//! The copy is written before the kernel maps are cleared, so a killed daemon finds every mark again (invariant I3). While
//! a flush runs its marks are `taken`: they stay in the catalog until the commit is settled. Marks that arrive meanwhile
//! are kept apart, so that settling forgets exactly what was read.

use std::collections::HashSet;
use std::sync::Arc;

use engine::catalog::{CatalogChange, Head};
use engine::dirty::{DirtySet, Marks};
use engine::model::Ino;
use parking_lot::{Mutex, MutexGuard};

use crate::catalog::{Catalog, CatalogError};
use crate::volume::clock::now_ns;

#[derive(Debug)]
pub struct Pending {
    catalog: Arc<Catalog>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: DirtySet,
    taken: DirtySet,
    /// Marks of files that a mount covers. They cannot be read until it is unmounted.
    aside: DirtySet,
    /// Marks of a drain that the catalog could not save. They are still in the kernel's maps, and nowhere else. What the
    /// kernel has marked since is not included.
    unsaved: DirtySet,
    /// Inodes watched for files that are not in the catalog yet.
    fresh: HashSet<Ino>,
    /// Inodes that were marked while a program could store to the file through a mapping.
    mapped: HashSet<Ino>,
    /// Marks arrived that no flush has taken yet. What a flush has left counts as known.
    arrived: bool,
    /// How often any arrived.
    arrivals: u64,
}

impl State {
    /// Adds to `all` every mark of an inode: waiting, taken, and in `more`.
    fn collect(&self, ino: Ino, more: &DirtySet, all: &mut DirtySet) {
        for set in [&self.waiting, &self.taken, &self.aside, more] {
            if let Some(waiting) = set.get(ino) {
                all.add(ino, &waiting.marks, waiting.since_ns);
            }
        }
    }
}

impl Pending {
    /// Loads what an earlier process left in the catalog.
    pub fn load(catalog: Arc<Catalog>) -> Result<Pending, CatalogError> {
        let mut state = State::default();
        for (ino, waiting) in catalog.load_pending()?.iter() {
            // Rows of an older version may say 0, for an unknown time.
            let since_ns = if waiting.since_ns == 0 { now_ns() } else { waiting.since_ns };
            state.waiting.add(ino, &waiting.marks, since_ns);
            state.arrived = true;
        }
        Ok(Pending { catalog, state: Mutex::new(state) })
    }

    /// Records that these inodes, whose marks were just added, could be stored to through a mapping. Not kept over a
    /// restart.
    pub fn note_mapped(&self, inodes: impl Iterator<Item = Ino>) {
        self.state().mapped.extend(inodes);
    }

    /// Returns the inodes of `taken` that were mapped, and forgets them.
    pub fn take_mapped(&self, taken: &DirtySet) -> HashSet<Ino> {
        let mut state = self.state();
        taken.iter().map(|(ino, _)| ino).filter(|ino| state.mapped.remove(ino)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Adds marks, to the catalog first.
    pub fn add(&self, marks: &[(Ino, Marks)], since_ns: u64) -> Result<(), CatalogError> {
        if marks.is_empty() {
            return Ok(());
        }
        let mut state = self.state();
        let mut added = DirtySet::default();
        for (ino, marks) in marks {
            added.add(*ino, marks, since_ns);
        }
        let mut all = DirtySet::default();
        added.iter().for_each(|(ino, _)| state.collect(ino, &added, &mut all));
        if let Err(error) = self.catalog.save_pending(&all) {
            state.unsaved.add_all(&added);
            return Err(error);
        }
        state.unsaved = DirtySet::default();
        state.waiting.add_all(&added);
        state.arrived = true;
        state.arrivals += 1;
        Ok(())
    }

    /// How many inodes have changes that the catalog could not save at the last try; a lower bound.
    pub fn unsaved(&self) -> usize {
        self.state().unsaved.len()
    }

    /// Takes all waiting marks except those of inodes for which `rests` is true. Returns the marks taken and how many were left.
    /// The marks count as taken until `settle` or `give_back`.
    pub fn take_except(&self, rests: impl Fn(Ino, &Marks) -> bool) -> (DirtySet, usize) {
        let mut state = self.state();
        state.arrived = false;
        let mut taken = std::mem::take(&mut state.waiting);
        let resting = taken.iter().filter(|(ino, waiting)| rests(*ino, &waiting.marks));
        let held: Vec<Ino> = resting.map(|(ino, _)| ino).collect();
        for ino in &held {
            if let Some(waiting) = taken.remove(*ino) {
                state.waiting.add(*ino, &waiting.marks, waiting.since_ns);
            }
        }
        state.taken.add_all(&taken);
        (taken, held.len())
    }

    /// Whether [`Pending::take_except`] would take anything now. With `new`: only if marks have arrived since it was called last.
    pub fn has_any_except(&self, new: bool, rests: impl Fn(Ino, &Marks) -> bool) -> bool {
        let state = self.state();
        (state.arrived || !new) && state.waiting.iter().any(|(ino, waiting)| !rests(ino, &waiting.marks))
    }

    /// As [`Pending::take_except`], for all marks.
    pub fn take(&self) -> DirtySet {
        self.take_except(|_, _| false).0
    }

    /// What waits for the next flush, and how often marks have arrived: of what is marked already, no other set tells.
    pub fn waiting(&self) -> (DirtySet, u64) {
        let state = self.state();
        (state.waiting.clone(), state.arrivals)
    }

    /// Forgets `taken` except `kept`, and runs `write` in the same transaction of the catalog.
    fn forget_with(
        &self,
        taken: &[Ino],
        kept: &DirtySet,
        write: impl FnOnce(&[Ino], &DirtySet) -> Result<(), CatalogError>,
    ) -> Result<(), CatalogError> {
        let mut state = self.state();
        let in_flight = std::mem::take(&mut state.taken);
        let mut stays = DirtySet::default();
        for ino in taken.iter().copied().chain(kept.iter().map(|(ino, _)| ino)) {
            state.collect(ino, kept, &mut stays);
        }
        let written = write(taken, &stays);
        state.taken = in_flight;
        written
    }

    /// Called when the commit is in the store: moves the head, and forgets `taken` except `kept`.
    pub fn settle(&self, head: Head, taken: &[Ino], kept: &DirtySet) -> Result<(), CatalogError> {
        self.forget_with(taken, kept, |forget, keep| self.catalog.settle_commit(&head, forget, keep))
    }

    /// Called when nothing had to be committed: forgets `taken` except `kept`, and applies `change`.
    ///
    /// With an empty `taken`, `kept` is what the commit about to be created will leave open: it is pending from now on,
    /// whatever becomes of that commit.
    pub fn forget(&self, change: &CatalogChange, taken: &[Ino], kept: &DirtySet) -> Result<(), CatalogError> {
        self.forget_with(taken, kept, |forget, keep| self.catalog.settle_without_commit(change, forget, keep))?;
        if taken.is_empty() {
            self.state().waiting.add_all(kept);
        }
        Ok(())
    }

    /// Ends a flush: nothing is taken any more. `kept` waits for the next flush, `covered` until [`Pending::uncover`].
    pub fn give_back_except(&self, kept: &DirtySet, covered: &DirtySet) {
        let mut state = self.state();
        state.taken = DirtySet::default();
        state.waiting.add_all(kept);
        state.aside.add_all(covered);
    }

    /// Makes marks of covered files wait for the next flush, as all others do.
    pub fn uncover(&self) {
        let mut state = self.state();
        let aside = std::mem::take(&mut state.aside);
        state.arrived |= !aside.is_empty();
        state.waiting.add_all(&aside);
    }

    /// Called when the flush failed: what was taken waits again.
    pub fn give_back_taken(&self) {
        // Under one lock. Otherwise another volume's drain could save a row while the marks are in no set.
        let mut state = self.state();
        let taken = std::mem::take(&mut state.taken);
        state.waiting.add_all(&taken);
    }

    /// Records inodes that are watched before the catalog knows them.
    pub fn add_fresh(&self, inodes: &[Ino]) {
        self.state().fresh.extend(inodes);
    }

    /// Inodes that are watched and may be missing in the catalog.
    pub fn fresh(&self) -> Vec<Ino> {
        self.state().fresh.iter().copied().collect()
    }

    /// Forgets them when the flush has ended: the catalog has those that were committed.
    pub fn clear_fresh(&self) {
        self.state().fresh.clear();
    }

    /// Whether this volume has the inode, so that its marks are kept.
    pub fn knows(&self, ino: Ino) -> Result<bool, CatalogError> {
        if self.state().fresh.contains(&ino) {
            return Ok(true);
        }
        Ok(!self.catalog.by_ino(ino)?.is_empty())
    }

    /// All marks of an inode that are not committed.
    pub fn marks(&self, ino: Ino) -> Option<Marks> {
        let state = self.state();
        let mut all: Option<Marks> = None;
        for found in [state.waiting.get(ino), state.taken.get(ino)].into_iter().flatten() {
            all.get_or_insert_default().merge(&found.marks);
        }
        all
    }

    /// Since when the oldest mark has been waiting (nanoseconds since 1970), how many inodes wait, and how many bytes they
    /// mark. Includes what could not be saved.
    pub fn summary(&self) -> (Option<u64>, usize, u64) {
        let state = self.state();
        let all = [&state.waiting, &state.taken, &state.aside, &state.unsaved];
        let oldest = all.iter().filter_map(|set| set.oldest_ns()).min();
        let inodes: HashSet<Ino> = all.iter().flat_map(|set| set.iter().map(|(ino, _)| ino)).collect();
        (oldest, inodes.len(), all.iter().map(|set| set.marked_bytes()).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rests_is_not_taken_and_stays_saved() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Arc::new(Catalog::open_or_create(&folder.path().join("catalog")).unwrap());
        let pending = Pending::load(open()).unwrap();
        pending.add(&[(Ino(5), Marks::meta()), (Ino(6), Marks::meta())], 10).unwrap();
        let (taken, held) = pending.take_except(|ino, _| ino == Ino(5));
        assert_eq!((taken.len(), taken.get(Ino(5)).is_some(), held), (1, false, 1));
        pending.forget(&CatalogChange::default(), &[Ino(6)], &DirtySet::default()).unwrap();
        pending.give_back_except(&DirtySet::default(), &DirtySet::default());
        assert_eq!(Pending::load(open()).unwrap().take().len(), 1, "saved");
        assert!(pending.take().get(Ino(5)).is_some());
    }

    /// Hooks of the application run for what is new, and not again and again for what no flush can read.
    #[test]
    fn what_a_flush_has_left_is_not_new() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Arc::new(Catalog::open_or_create(&folder.path().join("catalog")).unwrap());
        let pending = Pending::load(open()).unwrap();
        let any = |new, resting: u64| pending.has_any_except(new, |ino, _| ino == Ino(resting));
        assert!(!any(true, 0) && !any(false, 0), "nothing waits");
        pending.add(&[(Ino(5), Marks::meta())], 10).unwrap();
        assert!(any(true, 0) && !any(true, 5), "it arrived, and does not count while it rests");
        let taken = pending.take();
        assert!(!any(false, 0));
        pending.give_back_except(&taken, &DirtySet::default());
        assert!(!any(true, 0) && any(false, 0), "it waits, and is known");
        pending.add(&[(Ino(6), Marks::meta())], 20).unwrap();
        assert!(any(true, 0));
        assert!(Pending::load(open()).unwrap().has_any_except(true, |_, _| false), "new to the next process");
        // What a mount has covered comes back.
        let covered = pending.take();
        pending.give_back_except(&DirtySet::default(), &covered);
        assert!(!any(false, 0));
        pending.uncover();
        assert!(any(true, 0));
    }

    /// A catalog that refuses every row simulates a full disk: the marks of a drain must count from the first one on.
    #[test]
    fn what_cannot_be_saved_counts_and_is_no_longer_apart_once_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog");
        let pending = Pending::load(Arc::new(Catalog::open_or_create(&path).unwrap())).unwrap();
        let other = rusqlite::Connection::open(&path).unwrap();
        other
            .execute_batch("CREATE TRIGGER full BEFORE INSERT ON pending BEGIN SELECT RAISE(ABORT, 'full'); END")
            .unwrap();
        let block = Marks { blocks: [1].into_iter().collect(), ..Marks::default() };
        for _ in 0..2 {
            assert!(pending.add(&[(Ino(5), block.clone()), (Ino(6), Marks::meta())], 10).is_err());
        }
        assert_eq!(pending.summary(), (Some(10), 2, 4096));
        assert_eq!(pending.unsaved(), 2);
        assert!(pending.take().is_empty(), "what is in the kernel alone is not flushed");
        other.execute_batch("DROP TRIGGER full").unwrap();
        pending.add(&[(Ino(5), block), (Ino(6), Marks::meta())], 10).unwrap();
        assert_eq!((pending.unsaved(), pending.summary()), (0, (Some(10), 2, 4096)));
        assert_eq!(pending.take().len(), 2);
    }

    #[test]
    fn what_is_covered_waits_apart_and_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Arc::new(Catalog::open_or_create(&folder.path().join("catalog")).unwrap());
        let pending = Pending::load(open()).unwrap();
        let block = |at: u64| Marks { blocks: [at as u32].into_iter().collect(), ..Marks::default() };
        pending.add(&[(Ino(5), block(1)), (Ino(6), block(1))], 10).unwrap();
        let mut covered = pending.take();
        covered.remove(Ino(6));
        pending.give_back_except(&DirtySet::default(), &covered);
        // A later mark of the same file is saved together with the one set aside.
        pending.add(&[(Ino(5), block(2))], 20).unwrap();
        assert_eq!(pending.summary().0, Some(10));
        let saved = Pending::load(open()).unwrap().take();
        assert_eq!(saved.get(Ino(5)).unwrap().marks.blocks.len(), 2);
        let taken = pending.take();
        assert_eq!((taken.len(), taken.get(Ino(5)).unwrap().marks.blocks.len()), (1, 1), "only the later one");
        pending.give_back_except(&taken, &DirtySet::default());
        pending.uncover();
        assert_eq!(pending.take().get(Ino(5)).unwrap().marks.blocks.len(), 2);
    }
}

//! A directory that was moved out of the tree with more in it than one commit removes, and comes back before all of that is removed.

use super::check;
use super::files::{OUTSIDE, ROOT};
use super::run::round;
use super::world::SimWorld;
use crate::flush::{Limits, Outcome, Steps};
use crate::model::{FileId, Ino, Kind};

struct Run {
    world: SimWorld,
    number: u64,
    seed: u64,
}

impl Run {
    fn flush(&mut self) -> (Outcome, bool) {
        self.number += 1;
        round(&mut self.world, self.number, self.seed, Steps::ALL, Limits::DEFAULT.files).expect("nothing fails")
    }

    fn flush_all(&mut self) {
        let end = self.number + 100;
        while self.flush() != (Outcome::Unchanged, true) {
            assert!(self.number < end, "nothing changes any more");
        }
        check::restored_equals(&self.world).expect("the store has the tree");
    }

    fn rename(&mut self, from: Ino, to: Ino, name: &[u8]) {
        let files = &mut self.world.inner.borrow_mut().files;
        let ino = files.entry(from, name).expect("it is there");
        files.remove(from, name);
        files.insert(to, name.to_vec(), ino);
        files.meta_changed(ino);
        files.names_changed(from);
        files.names_changed(to);
    }
}

/// `/d` with the file `f`, a file with the second name `/l`, and a directory with the like.
fn begin(seed: u64) -> Run {
    let mut world = SimWorld::new(seed);
    world.calm();
    {
        let files = &mut world.inner.borrow_mut().files;
        let mut at = ROOT;
        for level in 0..2 {
            let (dir, file, linked) =
                (files.new_inode(Kind::Dir), files.new_inode(Kind::File), files.new_inode(Kind::File));
            files.insert(at, b"d".to_vec(), dir);
            files.insert(dir, b"f".to_vec(), file);
            files.insert(dir, b"l".to_vec(), linked);
            files.insert(ROOT, vec![b'l', b'0' + level], linked);
            files.inodes.get_mut(&linked).expect("it is new").nlink = 2;
            at = dir;
        }
        files.names_changed(ROOT);
    }
    Run { world, number: 0, seed }
}

/// Returns how often it came back with something of it removed, by runs for each number of flushes before that.
fn runs(seed: u64) -> usize {
    let mut lost_something = 0;
    // Every fourth flush has a confirmation, where removals are held.
    for (flushes, later) in (0..12).flat_map(|flushes| (0..4).map(move |later| (flushes, later))) {
        let mut run = begin(seed);
        run.flush_all();
        run.number += later;
        let before = run.world.catalog.names.clone();
        run.rename(ROOT, OUTSIDE, b"d");
        (0..flushes).for_each(|_| _ = run.flush());
        let now = &run.world.catalog.names;
        lost_something += usize::from(now.len() < before.len() && now.contains_key(&(FileId::ROOT, b"d".to_vec())));
        run.rename(OUTSIDE, ROOT, b"d");
        run.flush_all();
    }
    lost_something
}

#[test]
fn what_was_removed_of_a_directory_that_comes_back_is_found_again() {
    // One removal in each commit.
    assert!(runs(9) >= 3, "it does not come back between its removals");
}

/// Its other names stand elsewhere in the tree, so the file is not lost, and its removal does not wait for a person.
#[test]
fn a_link_in_a_directory_that_comes_back_while_its_removal_is_held_is_found_again() {
    assert!(runs(10) >= 1, "it does not come back while its removal is held");
}

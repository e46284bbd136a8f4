//! A tree of many levels: its cost must grow with the levels, not with their square.

use super::files::ROOT;
use super::run::{facts, round};
use super::world::SimWorld;
use crate::flush::world::CommittedState;
use crate::flush::{Limits, Outcome, Steps};
use crate::model::{FileId, Kind};

/// A chain of directories below the root, each with a file beside it.
fn chain(world: &SimWorld, levels: u64) {
    let files = &mut world.inner.borrow_mut().files;
    let mut at = ROOT;
    for _ in 0..levels {
        let (dir, file) = (files.new_inode(Kind::Dir), files.new_inode(Kind::File));
        files.insert(at, b"d".to_vec(), dir);
        files.insert(at, b"f".to_vec(), file);
        at = dir;
    }
    files.names_changed(ROOT);
}

/// Commits a chain. Returns how often the catalog was asked about an inode, and how many commits it took.
fn cost(levels: u64) -> (u64, u64) {
    let seed = 1;
    let mut world = SimWorld::new(seed);
    world.calm();
    chain(&world, levels);
    let mut number = 0;
    loop {
        number += 1;
        assert!(number < 200, "it does not come to an end");
        let done = round(&mut world, number, seed, Steps::ALL, Limits::DEFAULT.files);
        let Ok((outcome, all)) = done else { panic!("{:?}", done.err()) };
        assert!(matches!(outcome, Outcome::Committed(_) | Outcome::Unchanged), "{outcome:?}");
        if all {
            break;
        }
    }
    let mut at = FileId::ROOT;
    for level in 0..levels {
        let found = world.children(at).map(|all| all.into_iter().find(|(name, _)| name == b"d"));
        let Ok(Some((_, dir))) = found else { panic!("level {level} is not committed") };
        at = dir;
    }
    let asked = world.inner.borrow().asked;
    (asked, world.catalog.head.seq.0)
}

#[test]
fn a_deep_tree_costs_by_its_levels() {
    let (of_150, _) = cost(150);
    let (of_300, commits) = cost(300);
    assert!(of_150 > 300, "two inodes at each level: {of_150}");
    assert!(of_300 < of_150 * 5 / 2, "{of_150} questions for 150 levels, {of_300} for twice as many");
    // One flush descends only this many levels; otherwise it would decide all of them again at each level.
    let levels = facts(1, 1, Steps::ALL, 1).limits.levels as u64;
    assert!(commits > 300 / levels, "{commits} commits");
}

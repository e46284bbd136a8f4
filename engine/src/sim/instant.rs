//! A tree in which nothing changes: a commit that says that it is of one instant is made where somebody waits for it.

use super::run::facts;
use super::world::SimWorld;
use crate::dirty::DirtySet;
use crate::flush::world::CommitStore;
use crate::flush::{self, FlushFacts, Outcome, Report, Steps};
use crate::format::commit;
use crate::model::{Consistency, NotInstant};

const INSTANT: Option<Consistency> = Some(Consistency::Instant { window_us: 3, pause_us: 0 });

/// One flush of everything that is pending, with what the step before the commit found.
fn flushed(world: &mut SimWorld, round: u64, prove_instant: bool, found: Option<Consistency>) -> Outcome {
    flush::drain(world, Steps::ALL).expect("nothing fails");
    let mut taken = DirtySet::default();
    for (ino, marks) in &world.catalog.pending {
        taken.add(*ino, marks, round);
    }
    let facts = FlushFacts { prove_instant, baseline: true, ..facts(round, 2, Steps::ALL, 1_000) };
    let mut report = Report { consistency: found, ..Report::default() };
    flush::flush(world, &taken, &facts, &mut report).expect("nothing fails").0
}

pub(super) fn a_quiet_tree_is_proven_once() {
    let mut world = SimWorld::new(2);
    world.inner.borrow_mut().files.quiesce();
    world.calm();
    let live = Some(Consistency::Live(NotInstant::NeverQuiet));
    let mut round = 1;
    while flushed(&mut world, round, false, live) != Outcome::Unchanged {
        round += 1;
        assert!(round < 50, "nothing changes any more");
    }
    assert_eq!(flushed(&mut world, 60, false, INSTANT), Outcome::Unchanged, "nobody waits for it");
    assert_eq!(flushed(&mut world, 61, true, live), Outcome::Unchanged, "there is nothing to say");
    let Outcome::Committed(head) = flushed(&mut world, 62, true, INSTANT) else { panic!("a commit says so") };
    let bytes = world.read_commit(head.seq).expect("nothing fails").expect("it is there");
    let header = commit::peek(&bytes).expect("it is whole");
    assert_eq!((header.seq, header.consistency), (head.seq, INSTANT));
    let before = world.read_commit(head.seq - 1).expect("nothing fails").expect("it is there");
    assert_eq!(commit::peek(&before).expect("it is whole").consistency, live, "each says what its flush found");
}

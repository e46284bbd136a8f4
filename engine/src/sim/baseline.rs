//! A tree that exists before the first flush, committed in pieces. The first commit that claims a complete baseline must
//! have every file of it, and some commit must claim it even if nothing changes any more.

use std::collections::BTreeMap;

use super::check;
use super::run::{Failure, facts};
use super::world::{SimError, SimWorld};
use crate::dirty::DirtySet;
use crate::flush::world::CommittedState;
use crate::flush::{self, FlushFacts, Limits, Report, Steps};
use crate::format::Key;
use crate::format::commit;
use crate::model::{Ino, InodeId, Seq};

const ROUNDS: u64 = 200;

/// The file at each path, with the time of its last change.
type Before = BTreeMap<Vec<u8>, (InodeId, u64)>;

fn tree(world: &SimWorld) -> Before {
    let inner = world.inner.borrow();
    let at = |ino: Ino| inner.files.inodes.get(&ino).map(|inode| (inode.generation, inode.time));
    let paths = check::tree(world).into_iter();
    paths
        .filter_map(|(path, (ino, _))| at(ino).map(|(generation, time)| (path, (InodeId { ino, generation }, time))))
        .collect()
}

/// The first commit in the store that has the bit.
fn first_complete(world: &SimWorld) -> Option<Seq> {
    let all = Seq::FIRST.to(Seq::MAX);
    all.map_while(|seq| Some((seq, world.store.get(&Key::Commit(seq).to_string())?))).find_map(|(seq, bytes)| {
        let header = commit::peek(bytes).ok()?;
        (header.baseline() == Some(true)).then_some(seq)
    })
}

/// Returns how many files were checked. `eager`: the bit is set too early, which must be found. In every second seed
/// nothing moves, and every file is checked. In the others only files are checked that did not change, nor a directory
/// above them, while the flush ran.
pub(super) fn complete_when_said(seed: u64, eager: bool) -> Result<usize, Failure> {
    let mut world = SimWorld::new(seed);
    (0..200).for_each(|_| world.inner.borrow_mut().files.step());
    // Changes still cached by mappings or under way belong to the start.
    world.inner.borrow_mut().files.quiesce();
    world.inner.borrow_mut().quiet = seed.is_multiple_of(2);
    // The tree from before the swap of the flush that made the commit, which may reach the store much later.
    let mut made_of = None;
    for number in 1..=ROUNDS {
        if number > ROUNDS / 2 {
            world.calm();
        } else {
            let mut inner = world.inner.borrow_mut();
            inner.dies_in = inner.files.rng.one_in(4).then(|| inner.files.rng.below(40));
        }
        let before = tree(&world);
        match round(&mut world, number, seed, eager) {
            Ok(()) | Err(SimError::Store) => {}
            Err(SimError::Crash) => {
                world.restart();
                flush::take_up(&mut world).map_err(Failure::Flush)?;
            }
            Err(error) => return Err(Failure::Flush(error)),
        }
        world.restart();
        let intended = world.intent().map_err(Failure::Flush)?;
        let intended = intended.is_some_and(|intent| intent.standing.is_some_and(|standing| standing.baseline));
        let first = first_complete(&world);
        if made_of.is_none() && (intended || first.is_some()) {
            made_of = Some(before);
        }
        if let (Some(seq), Some(before)) = (first, &made_of) {
            return lacks_nothing(&world, seq, before);
        }
    }
    Err(Failure::Differs("no commit says that the baseline is complete".into()))
}

fn round(world: &mut SimWorld, number: u64, seed: u64, eager: bool) -> Result<(), SimError> {
    flush::drain(world, Steps::ALL)?;
    let mut taken = DirtySet::default();
    for (ino, marks) in &world.catalog.pending {
        taken.add(*ino, marks, number);
    }
    let facts = facts(number, seed, Steps::ALL, 2);
    let facts = FlushFacts { baseline: eager, limits: Limits { files: 2, ..facts.limits }, ..facts };
    flush::flush(world, &taken, &facts, &mut Report::default()).map(|_| ())
}

fn lacks_nothing(world: &SimWorld, seq: Seq, before: &Before) -> Result<usize, Failure> {
    let manifest = check::replay_to(world, seq)?;
    let names: BTreeMap<Vec<u8>, _> = manifest.walk().map(|(path, id, _)| (path, id)).collect();
    let now = tree(world);
    let still = |path: &[u8]| now.contains_key(path) && now.get(path) == before.get(path);
    let mut checked = 0;
    for path in before.keys() {
        let mut above =
            path.iter().enumerate().filter(|(at, byte)| **byte == b'/' && *at > 0).map(|(at, _)| &path[..at]);
        if !still(path) || !above.all(still) {
            continue;
        }
        checked += 1;
        if !names.contains_key(path.get(1..).unwrap_or_default()) {
            let path = String::from_utf8_lossy(path).into_owned();
            return Err(Failure::Differs(format!("commit {seq} says it is complete and lacks {path}")));
        }
    }
    Ok(checked)
}

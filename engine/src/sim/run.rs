//! One run: trouble, then calm, then the comparison.

use std::collections::BTreeSet;

use super::check;
use super::files::ROOT;
use super::world::{SimError, SimWorld};
use crate::dirty::DirtySet;
use crate::flush::{self, FlushFacts, Limits, MaxDelete, Outcome, Report, Steps};
use crate::model::{CommitId, Ino, Kind, Time};

/// What a run found wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the writer was fenced at seq {seq} although there is no other")]
    Fenced { seq: u64 },
    #[error("after {rounds} quiet flushes something is still pending")]
    Restless { rounds: u32 },
    #[error("a quiet flush failed: {0}")]
    Flush(SimError),
    #[error("the store does not replay: {0}")]
    Replay(String),
    #[error("the restored tree differs: {0}")]
    Differs(String),
}

const ROUNDS: u64 = 30;
const QUIET_ROUNDS_MAX: u32 = 20;
/// The same where a flush makes one removal: at least as many as a run can leave names to remove.
const QUIET_ROUNDS_OF_SINGLE_REMOVALS: u32 = 160;

/// Whether this run's flushes make one removal each, so that a directory goes in several commits.
fn single_removals(seed: u64) -> bool {
    seed % 5 == 4
}

/// Whether this run's flushes change only a few names each, so that renames wait for each other.
fn few_changes(seed: u64) -> bool {
    seed % 6 == 5
}

pub(super) fn facts(round: u64, seed: u64, steps: Steps, files: usize) -> FlushFacts {
    let mut commit_id = [0; 16];
    commit_id[..8].copy_from_slice(&round.to_le_bytes());
    commit_id[8..].copy_from_slice(&seed.to_le_bytes());
    FlushFacts {
        volume: check::VOLUME,
        writer: check::WRITER,
        epoch: 1,
        commit_id: CommitId(commit_id),
        // The clock sometimes jumps back.
        now: Time { sec: 1000 + (round * 7 % 13) as i64, nsec: round as u32 },
        drain: round,
        compare: false,
        baseline: false,
        instant: None,
        prove_instant: false,
        steps,
        limits: Limits {
            files,
            stream_bytes: 3 * 4096,
            signature_file_bytes: 16 * 4096,
            removals: if single_removals(seed) { 1 } else { Limits::DEFAULT.removals },
            changes: if few_changes(seed) { 3 } else { Limits::DEFAULT.changes },
            levels: if seed % 8 == 4 { 1 } else { Limits::DEFAULT.levels },
            ..Limits::DEFAULT
        },
        // In some runs more than a few removals wait, and every fourth flush confirms them. Not in runs where removals take
        // several flushes.
        max_delete: if seed % 7 == 3 && seed % 5 != 4 {
            let confirmed = if round.is_multiple_of(4) { u64::MAX } else { 0 };
            MaxDelete { percent: Some(20), floor: 1, confirmed, before: 0 }
        } else {
            MaxDelete::OFF
        },
    }
}

/// Drains and flushes as the daemon does. Marks stay pending in the catalog all the while.
pub(super) fn round(
    world: &mut SimWorld,
    round: u64,
    seed: u64,
    steps: Steps,
    files: usize,
) -> Result<(Outcome, bool), SimError> {
    let scans = !world.has_generations();
    if !scans {
        flush::drain(world, steps)?;
    }
    let mut taken = DirtySet::default();
    for (ino, marks) in &world.catalog.pending {
        taken.add(*ino, marks, round);
    }
    if scans {
        world.scanned(&mut taken, round);
    }
    let mut report = Report::default();
    let instant = world.inner.borrow().files.armed.is_some().then_some(Ok(()));
    let prove_instant = round.is_multiple_of(3);
    let facts = FlushFacts { compare: scans, instant, prove_instant, ..facts(round, seed, steps, files) };
    world.forget_places();
    let (outcome, kept) = flush::flush(world, &taken, &facts, &mut report)?;
    if kept.oldest_ns() == Some(0) {
        return Err(SimError::Tree("a mark waits since 1970".into()));
    }
    Ok((outcome, kept.is_empty()))
}

pub(super) fn run(seed: u64, steps: Steps) -> Result<(), Failure> {
    run_in(&mut SimWorld::new(seed), seed, steps)
}

pub(super) fn run_in(world: &mut SimWorld, seed: u64, steps: Steps) -> Result<(), Failure> {
    // In some runs few files fit into a flush, so that new files wait for the next one.
    let files = if seed.is_multiple_of(3) { 3 } else { Limits::DEFAULT.files };
    let mut number = 0;
    for _ in 0..ROUNDS {
        number += 1;
        {
            let mut inner = world.inner.borrow_mut();
            if seed % 4 == 1 {
                inner.some_unreadable();
            }
            inner.dies_in = inner.files.rng.one_in(3).then(|| inner.files.rng.below(40));
            if inner.files.armed.is_some() {
                inner.unseen = inner.only_unseen || inner.files.rng.one_in(2);
                let calm = if inner.unseen { [2, 5, 10, 30] } else { [1, 5, 30, 200] };
                inner.calm = calm[inner.files.rng.below(4) as usize];
                (0..inner.files.rng.below(40)).for_each(|_| inner.files.step());
            }
        }
        match round(world, number, seed, steps, files) {
            Ok((Outcome::Fenced { seq }, _)) => return Err(Failure::Fenced { seq: seq.0 }),
            Ok(_) | Err(SimError::Store) => {}
            Err(SimError::Crash) => {
                world.restart();
                // A restart with pins first handles what was retired and not yet cleared.
                number += 1;
                flush::take_up(world).map_err(Failure::Flush)?;
            }
            Err(error) => return Err(Failure::Flush(error)),
        }
        world.restart();
        world.check_claims()?;
        if !world.has_generations() && world.inner.borrow_mut().files.rng.one_in(4) {
            world.remount(steps).map_err(Failure::Flush)?;
        }
    }
    world.calm();
    world.inner.borrow_mut().unreadable.clear();
    if !world.has_generations() {
        // Nobody changes anything, and all files have the same time when they are renumbered.
        world.inner.borrow_mut().files.touch_all();
        for _ in 0..4 {
            number += 1;
            round(world, number, seed, steps, files).map_err(Failure::Flush)?;
        }
        world.remount(steps).map_err(Failure::Flush)?;
    }
    let most =
        if single_removals(seed) || few_changes(seed) { QUIET_ROUNDS_OF_SINGLE_REMOVALS } else { QUIET_ROUNDS_MAX };
    for quiet in 0..=most {
        number += 1;
        match round(world, number, seed, steps, files).map_err(Failure::Flush)? {
            (Outcome::Fenced { seq }, _) => return Err(Failure::Fenced { seq: seq.0 }),
            // Marks of interrupted programs arrive one generation later.
            (Outcome::Unchanged, true) if quiet >= 2 => break,
            _ if quiet == most => return Err(Failure::Restless { rounds: quiet }),
            _ => {}
        }
    }
    world.check_claims()?;
    check::restored_equals(world)
}

/// Counts inodes that are still watched although their files left the tree, after a run in which nothing moves or fails
/// while a flush runs.
pub(super) fn watched_for_nothing(seed: u64) -> Result<usize, Failure> {
    let mut world = SimWorld::new(seed);
    world.inner.borrow_mut().quiet = true;
    for number in 1..=ROUNDS {
        for _ in 0..20 {
            world.inner.borrow_mut().files.step();
        }
        round(&mut world, number, seed, Steps::ALL, Limits::DEFAULT.files).map_err(Failure::Flush)?;
    }
    world.calm();
    let more = if few_changes(seed) { QUIET_ROUNDS_OF_SINGLE_REMOVALS } else { 5 };
    for number in ROUNDS + 1..=ROUNDS + u64::from(more) {
        round(&mut world, number, seed, Steps::ALL, Limits::DEFAULT.files).map_err(Failure::Flush)?;
    }
    let inner = world.inner.borrow();
    let known = |ino: &Ino| world.catalog.records.values().any(|record| record.inode.ino == *ino);
    Ok(inner.files.kernel.watch.iter().filter(|ino| !known(ino)).count())
}

/// Makes the first two files of every directory unreadable, and flushes many times with room for two new files each.
/// Returns how many readable files are in no commit, and how many files came after two unreadable ones.
pub(super) fn kept_out_by_unreadable(seed: u64) -> Result<(usize, usize), Failure> {
    const NEW_FILES: usize = 2;
    let mut world = SimWorld::new(seed);
    let mut behind = BTreeSet::new();
    {
        let mut inner = world.inner.borrow_mut();
        (0..200).for_each(|_| inner.files.step());
        let mut unreadable = BTreeSet::new();
        // The model also has directories outside the tree.
        let mut queue = vec![ROOT];
        while let Some(dir) = queue.pop() {
            let dir = &inner.files.inodes[&dir];
            queue.extend(
                dir.entries.iter().map(|(_, ino)| *ino).filter(|ino| inner.files.inodes[ino].kind == Kind::Dir),
            );
            let files =
                dir.entries.iter().map(|(_, ino)| *ino).filter(|ino| inner.files.inodes[ino].kind == Kind::File);
            let files: Vec<Ino> = files.collect();
            unreadable.extend(files.iter().take(NEW_FILES));
            behind.extend(files.into_iter().skip(NEW_FILES));
        }
        behind.retain(|ino| !unreadable.contains(ino));
        inner.unreadable = unreadable;
    }
    world.calm();
    for number in 1..=600 {
        round(&mut world, number, seed, Steps::ALL, NEW_FILES).map_err(Failure::Flush)?;
    }
    let known: BTreeSet<Ino> = world.catalog.records.values().map(|record| record.inode.ino).collect();
    Ok((behind.difference(&known).count(), behind.len()))
}

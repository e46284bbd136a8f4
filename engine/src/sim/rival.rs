//! Another writer of the same volume, and which flushes are acknowledged while it is there.

use super::check;
use super::run::{Failure, round};
use super::world::{SimError, SimWorld};
use crate::catalog::Head;
use crate::flush::{self, Limits, Outcome, Steps};
use crate::format::Key;
use crate::format::commit::{self, Header};
use crate::model::{ChangeSet, CommitId, Seq, Standing, Time, WriterId};

const WRITER: WriterId = WriterId([7; 16]);

/// The other writer. It commits at `after`, or at the first later seq that this writer has not taken.
pub(super) struct Rival {
    pub(super) after: Seq,
}

impl Rival {
    /// A valid commit with the same parent: it removes nothing and holds nothing of ours.
    fn commit(&self, parent: Head, seq: Seq) -> Vec<u8> {
        let header = Header {
            volume: check::VOLUME,
            seq,
            commit: CommitId([0xEE; 16]),
            writer: WRITER,
            epoch: 1,
            time: Time::later_than(parent.time, parent.time),
            standing: Some(Standing::after(parent.standing, parent.time, seq, parent.time, false)),
            parent: parent.hash,
            era: None,
            consistency: None,
        };
        commit::encode(&header, &[], &ChangeSet::default(), &[]).expect("an empty commit can be encoded")
    }
}

impl SimWorld {
    /// Whether a store fault strikes. None in calm, unless there is another writer.
    pub(super) fn lucky(&self, one_in: u64) -> bool {
        let mut inner = self.inner.borrow_mut();
        (!inner.quiet || self.rival.is_some()) && inner.files.rng.one_in(one_in)
    }

    /// Lets the other writer commit before this writer's creation of `seq` arrives.
    pub(super) fn rival_commits(&mut self, seq: Seq) {
        let Some(rival) = self.rival.as_ref().filter(|rival| seq >= rival.after) else { return };
        let bytes = rival.commit(self.catalog.head, seq);
        self.store.entry(Key::Commit(seq).to_string()).or_insert(bytes);
    }

    /// Reads an object, in some runs with damage on the way: a bit, the end, or another object's bytes.
    pub(super) fn read_back(&mut self, key: &str) -> Option<Vec<u8>> {
        let mut bytes = self.store.get(key).cloned()?;
        if self.damages && self.lucky(4) {
            let rng = &mut self.inner.borrow_mut().files.rng;
            match rng.below(3) {
                0 => {
                    let bit = rng.below(bytes.len() as u64 * 8);
                    if let Some(byte) = bytes.get_mut(bit as usize / 8) {
                        *byte ^= 1 << (bit % 8);
                    }
                }
                1 => bytes.truncate(rng.below(bytes.len() as u64) as usize),
                _ => bytes.clone_from(self.store.values().next().unwrap_or(&Vec::new())),
            }
        }
        Some(bytes)
    }
}

/// Applications work, pause and ask for a sync, again and again, until the other writer commits. Whenever a flush
/// acknowledges the sync, the commits of this writer must hold the whole tree. True if at least one such flush and the
/// other writer were met.
pub(super) fn acknowledged_with_a_rival(seed: u64, steps: Steps) -> Result<bool, Failure> {
    let mut world = SimWorld::new(seed);
    world.rival = Some(Rival { after: Seq(1 + seed % 6) });
    world.inner.borrow_mut().quiet = true;
    let (mut acknowledged, mut fenced) = (0, false);
    for number in 1..=40 {
        for _ in 0..1 + seed % 20 {
            world.inner.borrow_mut().files.step();
        }
        // Only operations that ended before the SWAP are acknowledged.
        world.inner.borrow_mut().files.quiesce();
        match round(&mut world, number, seed, steps, Limits::DEFAULT.files) {
            Ok((outcome, all_read)) => {
                if flush::acknowledges(&outcome, all_read, steps) {
                    acknowledged += 1;
                    check::restored_equals(&world)?;
                }
                if matches!(outcome, Outcome::Fenced { .. }) {
                    fenced = true;
                    break;
                }
            }
            Err(SimError::Store) => {}
            Err(error) => return Err(Failure::Flush(error)),
        }
    }
    Ok(acknowledged > 0 && fenced)
}

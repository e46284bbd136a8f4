//! Settles a commit whose outcome is unknown (invariants I3, I5).
//!
//! Creating the commit object is the atomic step, and its outcome may stay unknown after a lost reply or a kill. So the
//! catalog first saves the commit's exact bytes with everything it changes. Whoever finds such an intent asks the store
//! first, and puts nothing but these bytes at that seq until the outcome is known.

use super::facts::FlushFacts;
use super::world::{CommitStore, CommittedState, Created};
use crate::catalog::{Head, Intent};
use crate::dirty::DirtySet;
use crate::format::commit::{self, Expect};
use crate::model::{Ino, Seq, VolumeId};

/// What is known of an intent after asking the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// No commit is under way; this is the head.
    Clear(Head),
    Fenced {
        seq: Seq,
    },
    Unknown,
}

/// Settles a commit whose outcome is unknown, if the store answers.
pub(super) fn settle_intent<W>(world: &mut W, facts: &FlushFacts) -> Result<Settled, W::Error>
where
    W: CommittedState + CommitStore,
{
    match world.intent()?.filter(|_| facts.steps.same_bytes) {
        None => Ok(Settled::Clear(world.head()?)),
        Some(intent) => create(world, facts, &intent, &[], &DirtySet::default()),
    }
}

/// Whose commit was read at the seq of an intent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    Ours,
    /// A valid commit for this place that is not ours.
    Others,
    /// Damaged, truncated, for another place or volume, or of an unknown version: it says nothing about other writers.
    Nobodys {
        cause: String,
    },
}

/// Tells whether an object that was read back is this writer's commit, another writer's, or damaged.
fn whose(bytes: &[u8], intent: &Intent, volume: VolumeId) -> Whose {
    if commit::hash(bytes) == intent.hash {
        return Whose::Ours;
    }
    match commit::decode(bytes, Expect { volume, seq: intent.seq }) {
        Ok(found) if found.header.commit != intent.commit_id => Whose::Others,
        Ok(_) => Whose::Nobodys { cause: "it has the id of this writer's commit and other content".into() },
        Err(error) => Whose::Nobodys { cause: error.to_string() },
    }
}

/// How often one flush reads a commit that comes back damaged. The next flush asks again.
const READS: u32 = 3;

/// Creates the commit object. Settles it if the store's answer, or the object found there, shows that it is ours.
pub(super) fn create<W>(
    world: &mut W,
    facts: &FlushFacts,
    intent: &Intent,
    taken: &[Ino],
    kept: &DirtySet,
) -> Result<Settled, W::Error>
where
    W: CommittedState + CommitStore,
{
    let answer = world.create_commit(intent.seq, &intent.bytes)?;
    if answer != Created::Yes {
        let mut reads = 0;
        loop {
            let Some(bytes) = world.read_commit(intent.seq)? else { return Ok(Settled::Unknown) };
            reads += 1;
            match whose(&bytes, intent, facts.volume) {
                Whose::Ours => break,
                Whose::Others => return Ok(Settled::Fenced { seq: intent.seq }),
                Whose::Nobodys { cause } => {
                    world.commit_damaged(intent.seq, &cause);
                    if reads == READS || !facts.steps.ask_again {
                        return Ok(damaged(intent.seq, facts));
                    }
                }
            }
        }
    }
    if world.era_closed_by_other(intent.seq)? {
        return Ok(Settled::Fenced { seq: intent.seq });
    }
    let head = Head { seq: intent.seq, hash: intent.hash, time: intent.time, standing: intent.standing };
    // Marks of an intent found at a restart were never forgotten. They are flushed once more, which finds nothing new.
    world.settle(head, taken, kept)?;
    Ok(Settled::Clear(head))
}

/// The outcome if every read of the commit came back damaged: unknown.
fn damaged(seq: Seq, facts: &FlushFacts) -> Settled {
    if facts.steps.ask_again { Settled::Unknown } else { Settled::Fenced { seq } }
}

#[cfg(test)]
mod tests;

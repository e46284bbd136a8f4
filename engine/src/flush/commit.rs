//! The end of a flush: packs, intent, commit, settlement (invariants I3, I5).
//!
//! Creating the commit object is the atomic step, and its outcome may stay unknown: a lost reply, a kill. So before it is
//! created, the catalog holds its exact bytes with everything it changes; whoever finds such an intent first asks the
//! store, and puts nothing but these bytes at that seq until it knows.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::names::Gathered;
use super::world::{CatalogChange, Created, Head, Intent, NodeChanges, Record, SignatureChanges, Stat, World};
use super::xattrs::LeftOut;
use super::{FlushFacts, Outcome};
use crate::dirty::DirtySet;
use crate::format::Key;
use crate::format::commit::{self, Expect, Header};
use crate::format::seal::{PackWriter, SealLimits, Span};
use crate::model::{ChangeSet, FileId, Id, Meta, ObjectRef, Seq, Standing, Time};

/// What is known of an intent after asking the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// No commit is under way; this is the head.
    Clear(Head),
    Fenced {
        seq: Seq,
    },
    Unknown,
}

/// Brings a commit whose outcome is open to its end, if the store answers.
pub fn settle_intent<W: World>(world: &mut W, facts: &FlushFacts) -> Result<Settled, W::Error> {
    match world.intent()?.filter(|_| facts.steps.same_bytes) {
        None => Ok(Settled::Clear(world.head()?)),
        Some(intent) => create(world, facts, &intent, &[], &DirtySet::default()),
    }
}

/// Whose commit an object is that was read at the seq of an intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    Ours,
    /// Whole and valid, at its place, and another commit than ours.
    Others,
    /// Damaged, cut short, of another place or volume, or of no known version: it says nothing about other writers.
    Nobodys {
        cause: String,
    },
}

/// Tells this writer's own commit, read back, from that of another writer. What was damaged on the way is neither.
pub fn whose(bytes: &[u8], intent: &Intent, volume: Id) -> Whose {
    if commit::hash(bytes) == intent.hash {
        return Whose::Ours;
    }
    match commit::decode(bytes, Expect { volume, seq: intent.seq }) {
        Ok(found) if found.header.commit != intent.commit_id => Whose::Others,
        Ok(_) => Whose::Nobodys { cause: "it has the id of this writer's commit and other content".into() },
        Err(error) => Whose::Nobodys { cause: error.to_string() },
    }
}

/// Times that a commit is read which comes back damaged, in one flush. The next flush asks again.
const READS: u32 = 3;

/// Creates the commit object, and settles it when the store's answer, or the object found there, says it is ours.
fn create<W: World>(
    world: &mut W,
    facts: &FlushFacts,
    intent: &Intent,
    taken: &[u64],
    kept: &DirtySet,
) -> Result<Settled, W::Error> {
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
    // Marks of an intent found at a restart were never forgotten: they are flushed once more, which finds nothing new.
    world.settle(head, taken, kept)?;
    Ok(Settled::Clear(head))
}

/// A commit that stays damaged is one whose outcome is not known.
fn damaged(seq: Seq, facts: &FlushFacts) -> Settled {
    if facts.steps.ask_again { Settled::Unknown } else { Settled::Fenced { seq } }
}

/// Collects what a flush commits.
pub struct Builder {
    pub(super) seq: Seq,
    pub(super) head: Head,
    epoch: u64,
    pub(super) writer: PackWriter,
    pub(super) changes: ChangeSet<Span>,
    pub(super) records: Vec<Record>,
    /// Files of `records`.
    pub(super) ids: HashSet<FileId>,
    /// Attributes of new files that are no regular ones, from between the reading and the end of the flush.
    pub(super) others: BTreeMap<FileId, (Stat, Meta)>,
    /// Attributes that are not in this commit as they are on the disk, and the inode's number.
    pub(super) left_out: BTreeMap<FileId, (u64, Vec<LeftOut>)>,
    /// Bytes of the attributes, and ops, that were taken.
    pub(super) meta_bytes: usize,
    pub(super) ops: usize,
    pub(super) nodes: NodeChanges,
    pub(super) signatures: SignatureChanges,
    pub(super) replaced: Vec<FileId>,
}

impl Builder {
    pub(super) fn new<W: World>(world: &mut W, facts: &FlushFacts) -> Result<Builder, W::Error> {
        let head = world.head()?;
        let seq = head.seq + 1;
        let first = world.next_attempt()?;
        Ok(Builder {
            seq,
            head,
            epoch: facts.epoch,
            writer: PackWriter::new(facts.volume, seq, facts.epoch, first, SealLimits::default())?,
            changes: ChangeSet::default(),
            records: Vec::new(),
            ids: HashSet::new(),
            others: BTreeMap::new(),
            left_out: BTreeMap::new(),
            meta_bytes: 0,
            ops: 0,
            nodes: Vec::new(),
            signatures: Vec::new(),
            replaced: Vec::new(),
        })
    }

    /// Takes a literal, and puts the packs that are full.
    pub(super) fn push<W: World>(&mut self, world: &W, literal: &[u8]) -> Result<Span, W::Error> {
        let span = self.writer.push(literal)?;
        while let Some((object, bytes)) = self.writer.take_full() {
            world.put_pack(object, bytes)?;
        }
        Ok(span)
    }

    /// Whether this file's content was taken, or the attributes of what has none.
    pub(super) fn has(&self, id: FileId) -> bool {
        self.ids.contains(&id) || self.others.contains_key(&id)
    }

    /// Whether this would be the first commit, and the attributes of the source directory could not be read.
    pub(super) fn lacks_source(&self) -> bool {
        self.head.seq == 0 && self.changes.files.iter().all(|file| file.id != FileId::ROOT)
    }

    /// Drops what was read of files that the names, decided last, do not have.
    pub(super) fn keep_only<W: World>(&mut self, world: &mut W, names: &Gathered) -> Result<(), W::Error> {
        let gone: BTreeSet<FileId> = names.plan.gone.iter().copied().collect();
        let mut stays: BTreeSet<FileId> = names.plan.new.iter().map(|new| new.id).collect();
        for record in &self.records {
            if !gone.contains(&record.id) && world.record(record.id)?.is_some() {
                stays.insert(record.id);
            }
        }
        self.retain(|id| stays.contains(&id));
        Ok(())
    }

    fn retain(&mut self, stays: impl Fn(FileId) -> bool) {
        self.records.retain(|record| stays(record.id));
        self.changes.files.retain(|file| stays(file.id));
        self.nodes.retain(|((id, _, _), _)| stays(*id));
        self.signatures.retain(|((id, _), _)| stays(*id));
        self.replaced.retain(|id| stays(*id));
    }

    /// Drops what was read of files by other names than those decided last: under its committed name such content may never
    /// have been. The inodes of what is dropped, whose marks are to be kept.
    pub(super) fn drop_read_elsewhere<W: World>(&mut self, world: &W, names: &Gathered) -> Result<Vec<u64>, W::Error> {
        let (before, now) = (&names.looked_at, names.moved(world)?);
        let ids = before.keys().chain(now.keys());
        let elsewhere: HashSet<FileId> = ids.filter(|id| before.get(id) != now.get(id)).copied().collect();
        if elsewhere.is_empty() {
            return Ok(Vec::new());
        }
        let mut dropped: HashSet<FileId> = HashSet::new();
        let mut inodes = Vec::new();
        // Whether it, or a directory above it, was looked for elsewhere.
        let mut verdicts: HashMap<FileId, bool> = HashMap::from([(FileId::ROOT, false)]);
        for record in &self.records {
            let (mut at, mut passed) = (record.id, Vec::new());
            let verdict = loop {
                if let Some(verdict) = verdicts.get(&at) {
                    break *verdict;
                }
                // Also ends where names of two times lead in a circle.
                verdicts.insert(at, elsewhere.contains(&at));
                passed.push(at);
                if elsewhere.contains(&at) {
                    break true;
                }
                let parent = match before.get(&at) {
                    Some(place) => Some(place.0),
                    None => world.names_of(at)?.first().map(|place| place.0),
                };
                at = parent.unwrap_or(FileId::ROOT);
            };
            verdicts.extend(passed.into_iter().map(|id| (id, verdict)));
            if verdict {
                dropped.insert(record.id);
                inodes.push(record.inode.ino);
            }
        }
        self.ids.retain(|id| !dropped.contains(id));
        self.retain(|id| !dropped.contains(&id));
        Ok(inodes)
    }

    /// Puts the packs, writes the intent, creates the commit and settles it.
    pub(super) fn commit<W: World>(
        mut self,
        world: &mut W,
        facts: &FlushFacts,
        names: &Gathered,
        taken: &DirtySet,
        kept: &DirtySet,
        complete: bool,
    ) -> Result<Outcome, W::Error> {
        self.changes.names = names.plan.changes.clone();
        self.changes.gone = names.plan.gone.clone();
        let inodes: Vec<u64> = taken.iter().map(|(ino, _)| ino).collect();
        // A tree in which nothing changes any more is complete all the same, and one commit says so.
        let before = self.head.standing.is_some_and(|head| head.baseline);
        let says_so = complete && !before && self.head.seq > 0;
        if self.changes.is_empty() && !says_so {
            world.forget(self.records, names.plan.missing.clone(), &inodes, kept)?;
            return Ok(Outcome::Unchanged);
        }
        self.changes.files.sort_by_key(|file| file.id);
        let sealed = self.writer.finish()?;
        for (object, bytes) in sealed.last {
            world.put_pack(object, bytes)?;
        }
        let changes = sealed.places.place(self.changes);
        let standing = Standing::after(self.head.standing, self.head.time, self.seq, facts.now, before || complete);
        let header = Header {
            volume: facts.volume,
            seq: self.seq,
            commit: facts.commit_id,
            writer: facts.writer,
            epoch: self.epoch,
            time: later_than(self.head.time, facts.now),
            standing: Some(standing),
            parent: self.head.hash,
            era: world.era_before(self.seq)?,
        };
        let bytes = commit::encode(&header, &sealed.packs, &changes, &sealed.inline)?;
        let intent = Intent {
            seq: self.seq,
            commit_id: header.commit,
            hash: commit::hash(&bytes),
            time: header.time,
            standing: header.standing,
            bytes,
        };
        let change = CatalogChange {
            records: self.records,
            changes,
            nodes: self.nodes,
            signatures: self.signatures,
            replaced: self.replaced,
            missing: names.plan.missing.clone(),
            next_id: names.assigned.next_id,
        };
        if !facts.steps.commit_before_forget {
            world.forget(Vec::new(), Vec::new(), &inodes, kept)?;
        }
        // What this commit leaves open was not all taken (a new directory whose file could not be read): it must be pending
        // before the commit can take effect, for whoever settles the intent after a death knows only what is pending.
        let opened = opened(taken, kept);
        if !opened.is_empty() {
            world.forget(Vec::new(), world.missing()?, &[], &opened)?;
        }
        world.begin_commit(&intent, change)?;
        Ok(match create(world, facts, &intent, &inodes, kept)? {
            Settled::Clear(head) => Outcome::Committed(head),
            Settled::Fenced { seq } => Outcome::Fenced { seq },
            Settled::Unknown => Outcome::Unsettled,
        })
    }
}

/// Marks of `kept` that `taken` does not hold already, with those it holds of the same inodes.
fn opened(taken: &DirtySet, kept: &DirtySet) -> DirtySet {
    let mut opened = DirtySet::default();
    for (ino, waiting) in kept.iter() {
        let before = taken.get(ino);
        let mut marks = before.map(|before| before.marks.clone()).unwrap_or_default();
        marks.merge(&waiting.marks);
        if before.is_none_or(|before| before.marks != marks) {
            opened.add(ino, &marks, before.map_or(waiting.since_ns, |before| before.since_ns));
        }
    }
    opened
}

/// Commit time: the clock, but always after the parent, so that `--at` is monotone whatever the clock does.
pub fn later_than(parent: Time, now: Time) -> Time {
    if now > parent {
        return now;
    }
    match parent.nsec {
        999_999_999 => Time { sec: parent.sec + 1, nsec: 0 },
        nsec => Time { sec: parent.sec, nsec: nsec + 1 },
    }
}

/// Where an object lies.
pub fn key_of(object: ObjectRef) -> Key {
    match object {
        ObjectRef::Commit(seq) => Key::Commit(seq),
        ObjectRef::Pack { seq, epoch, n } => Key::Pack { seq, epoch, n },
    }
}

#[cfg(test)]
mod tests;

//! What a flush is going to commit, collected file by file.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::facts::FlushFacts;
use super::gathered::Gathered;
use super::world::{CommitStore, CommittedState};
use crate::catalog::{Head, Record};
use crate::format::seal::{PackWriter, SealLimits, Span};
use crate::model::{FileChange, FileId, Ino, Meta, Seq};
use crate::signature::SignatureWrites;
use crate::source::Stat;
use crate::tree::NodeWrites;
use crate::xattrs::LeftOut;

/// What is committed of one file, and the record that the catalog keeps of it afterwards.
pub(super) struct Entry {
    pub(super) record: Record,
    /// `None`: the file is as committed, and only its record is updated.
    pub(super) change: Option<FileChange<Span>>,
    pub(super) nodes: NodeWrites,
    pub(super) signatures: SignatureWrites,
}

/// What this flush has collected of one file.
#[derive(Default)]
pub(super) struct PlannedFile {
    /// Whether the file was read under the name that it will be committed under.
    pub(super) read: bool,
    pub(super) entry: Option<Entry>,
    /// Attributes of a new file that is not a regular file, held here until the names are final.
    pub(super) attributes: Option<(Stat, Meta)>,
    /// Attributes that this commit does not hold as they are on disk, and the inode number.
    pub(super) left_out: Option<(Ino, Vec<LeftOut>)>,
}

/// Collects what a flush commits.
pub(super) struct Builder {
    pub(super) seq: Seq,
    pub(super) head: Head,
    pub(super) epoch: u64,
    pub(super) writer: PackWriter,
    pub(super) files: BTreeMap<FileId, PlannedFile>,
    /// How many of `files` have a change, or attributes that will become one.
    pub(super) changes: usize,
    /// Bytes of attributes added so far. Not lowered when a file is dropped.
    pub(super) meta_bytes: usize,
    /// Ops added so far. Not lowered when a file is dropped.
    pub(super) ops: usize,
}

impl Builder {
    pub(super) fn new<W>(world: &mut W, facts: &FlushFacts) -> Result<Builder, W::Error>
    where
        W: CommittedState + CommitStore,
    {
        let head = world.head()?;
        let seq = head.seq + 1;
        let first = world.next_attempt()?;
        Ok(Builder {
            seq,
            head,
            epoch: facts.epoch,
            writer: PackWriter::new(facts.volume, seq, facts.epoch, first, SealLimits::default())?,
            files: BTreeMap::new(),
            changes: 0,
            meta_bytes: 0,
            ops: 0,
        })
    }

    /// Adds a literal, and puts packs that are full into the store.
    pub(super) fn push<W: CommitStore>(&mut self, world: &W, literal: &[u8]) -> Result<Span, W::Error> {
        let span = self.writer.push(literal)?;
        while let Some((object, bytes)) = self.writer.take_full() {
            world.put_pack(object, bytes)?;
        }
        Ok(span)
    }

    /// Adds what is to be committed of a file that was read.
    pub(super) fn add(&mut self, id: FileId, entry: Entry) {
        let file = self.files.entry(id).or_default();
        self.changes += usize::from(entry.change.is_some());
        file.read = true;
        file.entry = Some(entry);
    }

    /// Adds the attributes of a new file that is not a regular file.
    pub(super) fn add_attributes(&mut self, id: FileId, stat: Stat, meta: Meta) {
        let file = self.files.entry(id).or_default();
        self.changes += usize::from(file.attributes.is_none());
        file.attributes = Some((stat, meta));
    }

    /// Removes and returns what [`Builder::add_attributes`] added.
    pub(super) fn take_attributes(&mut self, id: FileId) -> Option<(Stat, Meta)> {
        let found = self.files.get_mut(&id).and_then(|file| file.attributes.take());
        self.changes -= usize::from(found.is_some());
        found
    }

    /// Whether the file was read: its content, or its attributes if it has no content.
    pub(super) fn was_read(&self, id: FileId) -> bool {
        self.files.get(&id).is_some_and(|file| file.read)
    }

    /// As [`Builder::was_read`], or its attributes are held until the names are final.
    pub(super) fn has(&self, id: FileId) -> bool {
        self.files.get(&id).is_some_and(|file| file.read || file.attributes.is_some())
    }

    /// Whether this would be the first commit, and the attributes of the source directory could not be read.
    pub(super) fn lacks_source(&self) -> bool {
        let root = self.files.get(&FileId::ROOT).and_then(|root| root.entry.as_ref());
        self.head.seq == Seq::NONE && root.is_none_or(|root| root.change.is_none())
    }

    /// The records of all files that were read.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.files.values().filter_map(|file| file.entry.as_ref()).map(|entry| &entry.record)
    }

    fn drop_entry(&mut self, id: FileId) {
        if let Some(entry) = self.files.get_mut(&id).and_then(|file| file.entry.take()) {
            self.changes -= usize::from(entry.change.is_some());
        }
    }

    /// Drops what was read of files that are gone by the final names.
    pub(super) fn keep_only<W: CommittedState>(&mut self, world: &W, names: &Gathered) -> Result<(), W::Error> {
        let gone: BTreeSet<FileId> = names.plan.gone.iter().copied().collect();
        let new: BTreeSet<FileId> = names.plan.new.iter().map(|new| new.id).collect();
        let mut dropped = Vec::new();
        for record in self.records() {
            let known = !gone.contains(&record.id) && world.record(record.id)?.is_some();
            if !known && !new.contains(&record.id) {
                dropped.push(record.id);
            }
        }
        dropped.into_iter().for_each(|id| self.drop_entry(id));
        Ok(())
    }

    /// Drops files that were read under another name than the plan gives them now: content must never be committed under a
    /// name that it may never have had. Returns their inodes; the caller keeps their marks.
    pub(super) fn drop_read_elsewhere<W>(&mut self, world: &W, names: &Gathered) -> Result<Vec<Ino>, W::Error>
    where
        W: CommittedState,
    {
        let (before, now) = (&names.looked_at, names.moved(world)?);
        let ids = before.keys().chain(now.keys());
        let elsewhere: HashSet<FileId> = ids.filter(|id| before.get(id) != now.get(id)).copied().collect();
        if elsewhere.is_empty() {
            return Ok(Vec::new());
        }
        let (mut dropped, mut inodes) = (Vec::new(), Vec::new());
        // Whether the file, or a directory above it, was looked for at another place.
        let mut verdicts: HashMap<FileId, bool> = HashMap::from([(FileId::ROOT, false)]);
        for record in self.records() {
            let (mut at, mut passed) = (record.id, Vec::new());
            let verdict = loop {
                if let Some(verdict) = verdicts.get(&at) {
                    break *verdict;
                }
                // Set before the parent is visited, so that the loop also ends if names from different moments form a
                // circle.
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
                dropped.push(record.id);
                inodes.push(record.inode.ino);
            }
        }
        for id in dropped {
            self.drop_entry(id);
            if let Some(file) = self.files.get_mut(&id) {
                file.read = false;
            }
        }
        Ok(inodes)
    }
}

//! The state of a volume at a seq: the newest usable checkpoint, and the commits after it.
//!
//! Every commit is checked against the chain as it is applied. A checkpoint that cannot be used costs only time: an older
//! one is used, or all commits from the beginning.

use std::ops::RangeInclusive;

use engine::checkpoint::{self, CheckpointRoot, LoadError};
use engine::format::era::{CheckpointRef, era_of, last_seq};
use engine::format::{Key, keys};
use engine::manifest::Manifest;
use engine::model::{Hash, Seq, Time};

use crate::repository::error::{ReadError, hex};
use crate::repository::reader::Reader;
use crate::store::Store;

/// Commits fetched ahead while others are applied.
const WINDOW: u64 = 16;
/// Closed eras searched for a checkpoint, and checkpoints tried.
const ERAS_BACK: u64 = 64;
const TRIES: usize = 4;
/// Most pages of a listing that are read; the listing only saves time.
const LISTING_PAGES: usize = 64;

/// A checkpoint that may exist: its seq, and the hash of its root object if an era names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) seq: Seq,
    pub(crate) hash: Option<Hash>,
}

impl Reader {
    /// The state at `seq` (1 to head).
    ///
    /// # Errors
    /// `Pruned` if the commits that lead there are gone; else what is wrong with the first object that cannot be used.
    pub fn manifest(&self, seq: Seq) -> Result<Manifest, ReadError> {
        if seq == Seq::NONE || seq > self.head {
            return Err(ReadError::SeqAbsent { volume: self.volume.clone(), seq, head: self.head });
        }
        let mut first_error = None;
        if let Some(manifest) = self.by_checkpoints(self.candidates(seq, true)?, seq, &mut first_error)? {
            return Ok(manifest);
        }
        match self.replay(Manifest::new(self.format.volume), seq) {
            // Earlier commits are pruned: only a checkpoint of the era itself is left.
            Err(error @ ReadError::Pruned { .. }) => {
                let found = self.by_checkpoints(self.candidates(seq, false)?, seq, &mut first_error)?;
                // After a prune it is expected that replaying from the beginning fails: report why the checkpoint fails.
                found.ok_or_else(|| first_error.unwrap_or(error))
            }
            other => other,
        }
    }

    /// The state at `seq` from the first checkpoint that works; `first_error` is why the very first one does not.
    fn by_checkpoints(
        &self,
        candidates: Vec<Candidate>,
        seq: Seq,
        first_error: &mut Option<ReadError>,
    ) -> Result<Option<Manifest>, ReadError> {
        for candidate in candidates {
            let tried = self.load(candidate).and_then(|manifest| self.replay(manifest, seq));
            match tried {
                Ok(manifest) => return Ok(Some(manifest)),
                Err(error) if error.is_about_object() || matches!(error, ReadError::Pruned { .. }) => {
                    tracing::warn!("checkpoint {} cannot be used: {error}", candidate.seq);
                    first_error.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Applies the commits after the manifest's own, up to `to`. If there are none, still checks that the manifest's commit
    /// is the store's.
    fn replay(&self, mut manifest: Manifest, to: Seq) -> Result<Manifest, ReadError> {
        if manifest.seq() == to {
            self.check_tip(&manifest)?;
        }
        while manifest.seq() < to {
            let first = manifest.seq() + 1;
            let seqs: Vec<Seq> = first.to(to.min(first.saturating_add(WINDOW - 1))).collect();
            for (seq, bytes) in seqs.iter().zip(self.commit_bytes(&seqs)) {
                let bytes = bytes.map_err(|error| match error {
                    ReadError::Missing { key } if self.may_be_pruned(*seq) => {
                        ReadError::Pruned { volume: self.volume.clone(), seq: to, key }
                    }
                    error => error,
                })?;
                let (commit, hash, _) = self.decode_commit(*seq, &bytes)?;
                self.apply(&mut manifest, &commit, hash)?;
            }
        }
        Ok(manifest)
    }

    pub(crate) fn apply(
        &self,
        manifest: &mut Manifest,
        commit: &engine::format::commit::Commit,
        hash: Hash,
    ) -> Result<(), ReadError> {
        let key = || self.key(Key::Commit(commit.header.seq));
        manifest.apply(commit, hash).map_err(|source| ReadError::Refused { key: key(), source })
    }

    /// Checks a checkpoint that no commit follows against the commit that it represents, unless that is pruned.
    fn check_tip(&self, manifest: &Manifest) -> Result<(), ReadError> {
        let at = manifest.position();
        let found = match self.get(Key::Commit(at.seq)) {
            Ok(bytes) => engine::format::commit::hash(&bytes),
            Err(ReadError::Missing { .. }) if self.may_be_pruned(at.seq) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.same_hash(Key::Commit(at.seq), found, at.head, Key::Checkpoint(at.seq))
    }

    pub(crate) fn same_hash(&self, key: Key, found: Hash, expected: Hash, by: Key) -> Result<(), ReadError> {
        if found == expected {
            return Ok(());
        }
        let (key, named_by) = (self.key(key), self.key(by));
        Err(ReadError::Hash { key, found: hex(&found), expected: hex(&expected), named_by })
    }

    fn root(&self, candidate: Candidate) -> Result<CheckpointRoot, ReadError> {
        let key = Key::Checkpoint(candidate.seq);
        let bytes = self.get(key)?;
        if let Some(expected) = candidate.hash {
            let by = Key::Era(era_of(candidate.seq, self.format.era_len));
            self.same_hash(key, blake3::hash(&bytes).into(), expected, by)?;
        }
        CheckpointRoot::decode(&bytes, self.format.volume, candidate.seq)
            .map_err(|source| ReadError::damaged(self.key(key), source))
    }

    /// The manifest of one checkpoint.
    pub(crate) fn load(&self, candidate: Candidate) -> Result<Manifest, ReadError> {
        let root = self.root(candidate)?;
        let loaded: Result<Manifest, PageError> =
            checkpoint::load(&root, |hash| self.get(Key::Page(*hash)).map_err(PageError::Read));
        loaded.map_err(|error| match error {
            PageError::Read(error) => error,
            PageError::Load(LoadError::Decode(source)) => {
                ReadError::damaged(self.key(Key::Checkpoint(candidate.seq)), source)
            }
            PageError::Load(LoadError::Manifest(source)) => {
                ReadError::Refused { key: self.key(Key::Checkpoint(candidate.seq)), source }
            }
        })
    }

    /// Whether the checkpoint that `named` names exists, is undamaged, and holds exactly this state.
    ///
    /// # Errors
    /// If the store does not tell.
    pub fn is_checkpoint_of(&self, named: CheckpointRef, manifest: &Manifest) -> Result<bool, ReadError> {
        match self.load(Candidate { seq: named.seq, hash: Some(named.hash) }) {
            Ok(found) => Ok(found == *manifest),
            Err(error) if error.is_about_object() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The checkpoint that the newest closed era names; `None` also where that end cannot be used.
    pub(super) fn newest_named_checkpoint(&self) -> Result<Option<CheckpointRef>, ReadError> {
        let Some(era) = self.closed.checked_sub(1) else { return Ok(None) };
        match self.named_era(era) {
            Ok(named) => Ok(named.and_then(|era| era.checkpoint)),
            Err(error) if error.is_about_object() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checkpoints not after `seq` that the chain names, the newest first. `settled`: only eras closed at or before `seq`,
    /// so later forged eras cannot affect earlier states.
    fn candidates(&self, seq: Seq, settled: bool) -> Result<Vec<Candidate>, ReadError> {
        let mut found: Vec<Candidate> = Vec::new();
        let last = self.closed.min(era_of(seq, self.format.era_len) + 1);
        for era in (last.saturating_sub(ERAS_BACK)..last).rev() {
            if settled && last_seq(era, self.format.era_len) > seq {
                continue;
            }
            let named = match self.named_era(era) {
                Ok(Some(named)) => named,
                Ok(None) => continue,
                Err(error) if error.is_about_object() => {
                    tracing::warn!("era {era} cannot be used: {error}");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(checkpoint) = named.checkpoint else { continue };
            if checkpoint.seq <= seq && checkpoint.seq > Seq::NONE {
                let candidate = Candidate { seq: checkpoint.seq, hash: Some(checkpoint.hash) };
                if found.last() != Some(&candidate) {
                    found.push(candidate);
                }
                if found.len() >= TRIES {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Checkpoints in a listing, in order: `verify` reports those that count for nothing. It may miss some.
    pub(crate) fn listed_checkpoints(&self, seqs: RangeInclusive<Seq>) -> Vec<Seq> {
        // Every seq below 10^19 begins with this digit, so the pages' folder is left out of the listing.
        let prefix = format!("{}0", keys::CHECKPOINTS);
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..LISTING_PAGES {
            let page = match self.store.list(&prefix, after.as_deref()) {
                Ok(page) => page,
                Err(error) => {
                    tracing::debug!("checkpoints are not listed: {error}");
                    break;
                }
            };
            found.extend(page.entries.iter().filter_map(|entry| match entry.key.parse() {
                Ok(Key::Checkpoint(seq)) if seqs.contains(&seq) => Some(seq),
                _ => None,
            }));
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more || after.is_none() {
                break;
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// All checkpoints of `from..=to` that the chain names, in order.
    pub(crate) fn checkpoints_from(&self, from: Seq, to: Seq) -> Result<Vec<Candidate>, ReadError> {
        let mut found = Vec::new();
        for era in era_of(from, self.format.era_len)..self.closed {
            match self.named_era(era) {
                Ok(named) => found.extend(
                    named
                        .and_then(|era| era.checkpoint)
                        .filter(|c| c.seq > Seq::NONE && (from..=to).contains(&c.seq))
                        .map(|c| Candidate { seq: c.seq, hash: Some(c.hash) }),
                ),
                // Reported when the eras are verified.
                Err(error) if error.is_about_object() => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_unstable_by_key(|candidate| candidate.seq);
        found.dedup();
        Ok(found)
    }

    /// The last checkpoint in `seqs` that is not later than `when`: for an era whose commits are pruned.
    pub(crate) fn checkpoint_at(&self, when: Time, seqs: RangeInclusive<Seq>) -> Result<Option<Seq>, ReadError> {
        for candidate in self.checkpoints_from(*seqs.start(), *seqs.end())?.into_iter().rev() {
            match self.root(candidate) {
                Ok(root) if root.position.time <= when => return Ok(Some(candidate.seq)),
                Ok(_) => {}
                Err(error) if error.is_about_object() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Why loading a checkpoint fails: a page cannot be read, or is wrong.
enum PageError {
    Read(ReadError),
    Load(LoadError),
}

impl From<LoadError> for PageError {
    fn from(error: LoadError) -> PageError {
        PageError::Load(error)
    }
}

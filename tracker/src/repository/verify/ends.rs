//! Ends of eras and checkpoints. Those that the chain names must be exactly what it names, and hold what the commits give.
//! Others count for nothing, and are reported since somebody put them there.

use std::collections::{BTreeMap, BTreeSet};

use engine::format::era::{checkpoint_seq, era_of, last_seq};
use engine::format::{Key, commit};
use engine::manifest::Manifest;
use engine::model::Seq;

use crate::repository::error::ReadError;
use crate::repository::load::Candidate;
use crate::repository::parallel;
use crate::repository::reader::{Reader, THREADS};
use crate::repository::verify::report::VerifyReport;

/// Checkpoints that the chain names up to a seq, and those that were checked against their commits.
#[derive(Default)]
pub(crate) struct Points {
    named: BTreeMap<Seq, Candidate>,
    checked: BTreeSet<Seq>,
    /// In the store where a writer makes one, and named by no era: not yet, or it was not whole in time.
    ahead: BTreeSet<Seq>,
    /// Those of them that hold what the commits give.
    agree: BTreeSet<Seq>,
}

impl Points {
    pub(crate) fn new(reader: &Reader, to: Seq) -> Result<Points, ReadError> {
        let named = reader.checkpoints_from(Seq::FIRST, to)?;
        let named: BTreeMap<Seq, Candidate> = named.into_iter().map(|named| (named.seq, named)).collect();
        let listed = reader.listed_checkpoints(Seq::FIRST..=to).into_iter();
        let ahead = listed.filter(|seq| !named.contains_key(seq) && is_place(reader, *seq)).collect();
        Ok(Points { named, ahead, ..Points::default() })
    }

    /// Checks the checkpoint at `manifest`'s seq, if there is one, against that state, which was built from commits.
    pub(crate) fn check(
        &mut self,
        reader: &Reader,
        manifest: &Manifest,
        report: &mut VerifyReport,
    ) -> Result<(), ReadError> {
        let seq = manifest.seq();
        if self.ahead.contains(&seq) {
            match reader.load(Candidate { seq, hash: None }) {
                Ok(found) if found == *manifest => _ = self.agree.insert(seq),
                Err(error) if !error.is_about_object() => return Err(error),
                // Told with those that no era names.
                _ => {}
            }
        }
        let Some(candidate) = self.named.get(&seq) else { return Ok(()) };
        self.checked.insert(candidate.seq);
        report.objects += 1;
        match reader.load(*candidate) {
            Ok(found) if found == *manifest => Ok(()),
            Ok(_) => report.note(ReadError::Contradicts { key: reader.key(Key::Checkpoint(candidate.seq)) }),
            // An older one may be pruned; a restore starts with the newest.
            Err(ReadError::Missing { .. }) if self.named.keys().next_back() != Some(&candidate.seq) => Ok(()),
            Err(error) => report.note(error),
        }
    }
}

/// Whether a writer makes a checkpoint of this seq.
fn is_place(reader: &Reader, seq: Seq) -> bool {
    let era_len = reader.format.era_len;
    checkpoint_seq(era_of(seq, era_len), era_len) == seq
}

/// Checks the ends of eras, those that the chain names first, and the newest checkpoint that they name.
pub(crate) fn eras(reader: &Reader, seq: Seq, points: &Points, report: &mut VerifyReport) -> Result<(), ReadError> {
    let eras: Vec<u64> = (0..reader.closed).collect();
    for (era, found) in eras.iter().zip(parallel::map(THREADS, &eras, |era| reader.named_era(*era))) {
        report.objects += 1;
        let found = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                report.note(ReadError::Unnamed { key: reader.key(Key::Era(*era)) })?;
                continue;
            }
            Err(error) => {
                report.note(error)?;
                continue;
            }
        };
        if found.last_seq <= seq {
            match reader.get(Key::Commit(found.last_seq)) {
                Ok(bytes) => {
                    let hash = commit::hash(&bytes);
                    report.check(reader.same_hash(Key::Commit(found.last_seq), hash, found.chain, Key::Era(*era)))?;
                }
                // Pruned.
                Err(ReadError::Missing { .. }) => {}
                Err(error) => report.note(error)?,
            }
        }
    }
    // Older ones may be pruned; a restore starts with the newest one.
    if let Some(candidate) = points.named.values().next_back().filter(|newest| !points.checked.contains(&newest.seq)) {
        report.objects += 1;
        report.check(reader.load(*candidate).map(|_| ()))?;
    }
    Ok(())
}

/// Reports objects in the store that no commit names. If the head ends an era, its checkpoint and the era's end may exist
/// before the commit that names them: they must agree with the commits. So must the checkpoints that a writer makes ahead.
/// `state` is the one at the head; `points` are those up to `to`.
pub(crate) fn unnamed(
    reader: &Reader,
    state: Option<&Manifest>,
    to: Seq,
    points: &Points,
    report: &mut VerifyReport,
) -> Result<(), ReadError> {
    let (head, era_len) = (reader.head, reader.format.era_len);
    let ends = last_seq(era_of(head, era_len), era_len) == head;
    let named: BTreeSet<Seq> = reader.checkpoints_from(Seq::FIRST, head)?.into_iter().map(|named| named.seq).collect();
    // Damaged ones that eras name are already reported.
    for seq in reader.listed_checkpoints(Seq::FIRST..=Seq::MAX) {
        // Behind what is verified now, or made while it is.
        let later = is_place(reader, seq) && seq > to && reader.exists(Key::Commit(seq))?;
        if later
            || named.contains(&seq)
            || points.agree.contains(&seq)
            || (era_of(seq, era_len) < reader.closed && reader.named_era(era_of(seq, era_len)).is_err())
        {
            continue;
        }
        let key = Key::Checkpoint(seq);
        let told = match state.filter(|_| ends && seq == head) {
            Some(state) => match reader.load(Candidate { seq, hash: None }) {
                Ok(found) if found == *state => Ok(()),
                Ok(_) => Err(ReadError::Contradicts { key: reader.key(key) }),
                Err(error) => Err(error),
            },
            None if ends && seq == head => Ok(()),
            None => Err(ReadError::Unnamed { key: reader.key(key) }),
        };
        report.check(told)?;
    }
    let key = Key::Era(reader.closed);
    if !reader.exists(key)? {
        return Ok(());
    }
    let told = match reader.era(reader.closed) {
        Ok(era) if ends && state.is_some_and(|state| state.position().head != era.chain) => {
            Err(ReadError::Contradicts { key: reader.key(key) })
        }
        Ok(_) if ends => Ok(()),
        Ok(_) => Err(ReadError::Unnamed { key: reader.key(key) }),
        Err(error) => Err(error),
    };
    report.check(told)
}

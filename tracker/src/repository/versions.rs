//! For a damaged volume: which older commits still have what was requested.
//!
//! Both searches are bounded, since they run when a restore has already failed and somebody waits for an answer.

use std::collections::BTreeMap;

use engine::format::Key;
use engine::manifest::{File, Manifest};
use engine::model::{FileId, Seq, Time};

use crate::repository::error::ReadError;
use crate::repository::reader::Reader;
use crate::repository::report::{Failure, Older};

/// How many commits to go back.
const COMMITS_BACK: u64 = 1_000;
/// Limits: files searched for, versions of each, and bytes of content read for all of them.
const FILES: usize = 100;
const VERSIONS: usize = 16;
const BYTES: u64 = 1 << 30;
/// Commits fetched at once.
const WINDOW: u64 = 16;
/// How many damaged commits to skip.
const TRIES: usize = 8;

/// One version of a file, with the last seq that has it.
struct Version {
    last: Seq,
    id: FileId,
    file: File,
}

/// The first seq that was examined, and the versions of each file, oldest first.
type Versions = (Seq, Vec<Vec<Version>>);

impl Reader {
    /// The newest state before `seq` that can be rebuilt, if that of `seq` cannot.
    pub fn newest_before(&self, seq: Seq) -> Option<(Seq, Time)> {
        let mut at = seq;
        for _ in 0..TRIES {
            let error = match self.manifest(at) {
                Ok(manifest) => {
                    let position = manifest.position();
                    return Some((at, position.standing.map_or(position.time, |standing| standing.wall)));
                }
                Err(error) => error,
            };
            let key = error.key().and_then(|key| key.strip_prefix(self.volume())?.strip_prefix('/')?.parse().ok());
            at = match key {
                Some(Key::Commit(damaged)) if damaged <= at => damaged.checked_sub(1)?,
                _ => at.checked_sub(1)?,
            };
            if at == Seq::NONE {
                return None;
            }
        }
        None
    }

    /// For files that are damaged in `manifest`: the newest undamaged older version of each. A version is the file with the
    /// same path, or else with the same identity. Commits and bytes beyond the limits are not examined.
    pub(crate) fn whole_versions(
        &self,
        manifest: &Manifest,
        damaged: &BTreeMap<FileId, Failure>,
    ) -> Result<BTreeMap<FileId, Older>, ReadError> {
        let seq = manifest.seq();
        let mut found = BTreeMap::new();
        if damaged.is_empty() {
            return Ok(found);
        }
        let wanted: Vec<(FileId, &[u8])> =
            damaged.iter().take(FILES).map(|(id, failure)| (*id, failure.path.as_slice())).collect();
        let Some((from, versions)) = self.versions(seq, &wanted)? else { return Ok(found) };
        let mut budget = BYTES;
        for ((id, path), versions) in wanted.iter().zip(versions) {
            let mut older = Older::NoneWithin { commits: seq.0 - from.0 };
            for version in versions.iter().rev().filter(|version| version.last < seq) {
                let Some(left) = budget.checked_sub(version.file.size()) else {
                    older = Older::NotLooked;
                    break;
                };
                budget = left;
                match self.stream(&version.file, &crate::quoting::quote_path(path), None) {
                    Ok(_) => {
                        let time = self.commit_header(version.last)?.wall();
                        older = Older::Whole { seq: version.last, time };
                        break;
                    }
                    Err(error) if error.is_about_object() => {}
                    Err(error) => return Err(error),
                }
            }
            found.insert(*id, older);
        }
        Ok(found)
    }

    /// The versions of files in the states up to `seq`; `None` if no state within the limits can be rebuilt.
    fn versions(&self, seq: Seq, wanted: &[(FileId, &[u8])]) -> Result<Option<Versions>, ReadError> {
        let Some((mut manifest, from)) = self.earlier(seq)? else { return Ok(None) };
        let mut versions: Vec<Vec<Version>> = wanted.iter().map(|_| Vec::new()).collect();
        note(&manifest, wanted, None, &mut versions);
        while manifest.seq() < seq {
            let first = manifest.seq() + 1;
            let seqs: Vec<Seq> = first.to(seq.min(first.saturating_add(WINDOW - 1))).collect();
            for (seq, bytes) in seqs.iter().zip(self.commit_bytes(&seqs)) {
                let (commit, hash, _) = self.decode_commit(*seq, &bytes?)?;
                self.apply(&mut manifest, &commit, hash)?;
                note(&manifest, wanted, Some(&commit), &mut versions);
            }
        }
        Ok(Some((from, versions)))
    }

    /// A state up to `COMMITS_BACK` before `seq` from which the commits up to `seq` can be applied.
    fn earlier(&self, seq: Seq) -> Result<Option<(Manifest, Seq)>, ReadError> {
        let mut back = COMMITS_BACK;
        while back > 0 {
            let from = seq.saturating_sub(back).max(Seq::FIRST);
            match self.manifest(from) {
                Ok(manifest) => return Ok(Some((manifest, from))),
                Err(error) if error.is_about_object() || matches!(error, ReadError::Pruned { .. }) => back /= 2,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Records the versions in a state. `commit` led to it; files that it does not change are as before.
fn note(
    manifest: &Manifest,
    wanted: &[(FileId, &[u8])],
    commit: Option<&engine::format::commit::Commit>,
    versions: &mut [Vec<Version>],
) {
    for ((id, path), versions) in wanted.iter().zip(versions) {
        let now = manifest.resolve(path).unwrap_or(*id);
        let Some(file) = manifest.get(now).filter(|file| file.root.is_some()) else { continue };
        let touched = |commit: &engine::format::commit::Commit| {
            commit.changes.files.iter().any(|change| change.id == now && change.content.is_some())
        };
        match versions.last_mut() {
            Some(last) if last.id == now && !commit.is_some_and(touched) => last.last = manifest.seq(),
            _ => {
                if versions.len() == VERSIONS {
                    versions.remove(0);
                }
                versions.push(Version { last: manifest.seq(), id: now, file: file.clone() });
            }
        }
    }
}

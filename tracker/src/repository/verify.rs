//! Whether a volume's objects are what was committed: every commit, its place in the chain, its packs; with the data, every
//! frame and every file's root.
//!
//! A difference does not end the walk: the report lists all of them. It only reads.

mod data;
mod ends;
mod report;

pub use report::VerifyReport;

use std::collections::HashSet;

use engine::extent_map::Source;
use engine::format::pack::{self, PackInfo};
use engine::format::{DecodeError, Key};
use engine::manifest::Manifest;
use engine::model::{FileId, Hash, ObjectRef, Op, Seq};

use crate::repository::error::ReadError;
use crate::repository::parallel;
use crate::repository::reader::{Reader, THREADS};
use crate::store::Store;

/// Commits fetched at once.
const WINDOW: u64 = 16;
/// Bytes read first from a pack's end; enough for the index of a full pack of large frames.
const TAIL: u64 = 16 * 1024;

/// Verifies everything that leads to the state at `seq`.
///
/// # Errors
/// Only if it cannot be verified (the store does not answer). Every difference is in the report.
pub fn verify(reader: &Reader, seq: Seq, read_data: bool) -> Result<VerifyReport, ReadError> {
    let mut report = VerifyReport { seq, ..VerifyReport::default() };
    let mut walk = Walk {
        reader,
        report: &mut report,
        read_data,
        manifest: None,
        last: None,
        seen: HashSet::new(),
        points: ends::Points::new(reader, seq)?,
    };
    walk.start(seq)?;
    walk.commits(seq)?;
    let (manifest, seen, points) = (walk.manifest.take(), walk.seen, walk.points);
    ends::eras(reader, seq, &points, &mut report)?;
    beyond_a_gap(reader, &mut report)?;
    let manifest = match manifest.filter(|m| m.seq() == seq) {
        Some(manifest) => Some(manifest),
        // The walk broke off; a checkpoint may lead around the damage.
        None => match reader.manifest(seq) {
            Ok(manifest) => Some(manifest),
            Err(error) if error.is_about_object() || matches!(error, ReadError::Pruned { .. }) => {
                report.mismatch_count += 1;
                report.mismatches.push(format!("the state at {seq} cannot be rebuilt, so its files were not checked"));
                None
            }
            Err(error) => return Err(error),
        },
    };
    let at_head = manifest.as_ref().filter(|manifest| manifest.seq() == reader.head);
    ends::unnamed(reader, at_head, seq, &points, &mut report)?;
    if let Some(manifest) = manifest {
        report.baseline = manifest.position().standing.map(|standing| standing.baseline);
        objects(reader, &manifest, &seen, &mut report)?;
        report.files = manifest.files().filter(|(_, file)| file.root.is_some()).count() as u64;
        if read_data {
            data::files(reader, &manifest, &mut report)?;
        }
    }
    Ok(report)
}

/// Reports entries that no restore can create, from commits that were not read themselves (they are pruned).
fn entries(reader: &Reader, manifest: &Manifest, report: &mut VerifyReport) -> Result<(), ReadError> {
    for (id, what) in manifest.files().filter_map(|(id, file)| Some((id, file.meta.unmakeable()?))) {
        report.note(unmakeable(reader, manifest.seq(), id, manifest.path_of(id), what))?;
    }
    Ok(())
}

fn unmakeable(reader: &Reader, seq: Seq, id: FileId, path: Option<Vec<u8>>, what: &'static str) -> ReadError {
    let path = path.map_or_else(|| format!("file {id}"), |path| String::from_utf8_lossy(&path).into_owned());
    ReadError::Unmakeable { key: reader.key(Key::Commit(seq)), path, what }
}

/// The search for the head stops at the first absent commit, so a commit lost in the middle would look like the end. A
/// listing proves no absence, but a commit that it shows after the head proves a gap.
fn beyond_a_gap(reader: &Reader, report: &mut VerifyReport) -> Result<(), ReadError> {
    let head = reader.head();
    let page = reader.list_after(Key::Commit(head))?;
    let later = page.iter().find_map(|name| match name.parse() {
        Ok(Key::Commit(seq)) if seq > head => Some(seq),
        _ => None,
    });
    if let Some(seq) = later {
        report.mismatch_count += 1;
        let missing = Key::Commit(head + 1);
        report.mismatches.push(format!("{missing} is missing, though commit {seq} is there: the history has a gap"));
    }
    Ok(())
}

struct Walk<'a> {
    reader: &'a Reader,
    report: &'a mut VerifyReport,
    read_data: bool,
    /// `None` from the first commit that does not apply.
    manifest: Option<Manifest>,
    /// Hash of the previous commit, if known.
    last: Option<Hash>,
    /// Packs that were checked.
    seen: HashSet<ObjectRef>,
    points: ends::Points,
}

impl Walk<'_> {
    /// Starts from the oldest state from which commits continue: the empty one, or a checkpoint's.
    fn start(&mut self, to: Seq) -> Result<(), ReadError> {
        self.report.first = Seq::FIRST;
        if !self.reader.may_be_pruned(Seq::FIRST) || self.reader.exists(Key::Commit(Seq::FIRST))? {
            self.manifest = Some(Manifest::new(self.reader.volume_id()));
            return Ok(());
        }
        self.jump(Seq::FIRST, to)
    }

    /// Continues at the first checkpoint, from `from` on, that loads and whose next commit exists.
    fn jump(&mut self, from: Seq, to: Seq) -> Result<(), ReadError> {
        for candidate in self.reader.checkpoints_from(from, to)? {
            let seq = candidate.seq;
            if seq < to && !self.reader.exists(Key::Commit(seq + 1))? {
                continue;
            }
            self.report.objects += 1;
            match self.reader.load(candidate) {
                Ok(manifest) => {
                    entries(self.reader, &manifest, self.report)?;
                    self.report.first = if from == Seq::FIRST { seq } else { self.report.first };
                    self.last = Some(manifest.position().head);
                    self.manifest = Some(manifest);
                    return Ok(());
                }
                Err(error) => self.report.note(error)?,
            }
        }
        self.manifest = None;
        Ok(())
    }

    fn commits(&mut self, to: Seq) -> Result<(), ReadError> {
        let mut next = match &self.manifest {
            Some(manifest) => manifest.seq() + 1,
            // Nothing older loads: still read what can be read.
            None => engine::format::era::first_seq(self.reader.closed, self.reader.format.era_len),
        };
        while next <= to {
            let seqs: Vec<Seq> = next.to(to.min(next.saturating_add(WINDOW - 1))).collect();
            next = seqs.last().map_or(to, |last| *last) + 1;
            for (seq, bytes) in seqs.iter().zip(self.reader.commit_bytes(&seqs)) {
                match bytes {
                    Ok(bytes) => self.commit(*seq, &bytes)?,
                    Err(ReadError::Missing { key }) => {
                        self.last = None;
                        if self.reader.may_be_pruned(*seq) {
                            self.jump(*seq, to)?;
                        }
                        match &self.manifest {
                            Some(manifest) if manifest.seq() >= *seq => next = manifest.seq() + 1,
                            _ => {
                                self.manifest = None;
                                self.report.note(ReadError::Missing { key })?;
                                continue;
                            }
                        }
                        break;
                    }
                    Err(error) => {
                        (self.manifest, self.last) = (None, None);
                        self.report.note(error)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn commit(&mut self, seq: Seq, bytes: &[u8]) -> Result<(), ReadError> {
        self.report.commits += 1;
        self.report.objects += 1;
        self.report.bytes_read += bytes.len() as u64;
        let (commit, hash, _) = match self.reader.decode_commit(seq, bytes) {
            Ok(decoded) => decoded,
            Err(error) => {
                (self.manifest, self.last) = (None, None);
                return self.report.note(error);
            }
        };
        let applied = match (&mut self.manifest, self.last) {
            (Some(manifest), _) => self.reader.apply(manifest, &commit, hash),
            // Even without a state to apply it to, the chain can be checked.
            (None, Some(last)) => {
                self.reader.same_hash(Key::Commit(seq - 1), last, commit.header.parent, Key::Commit(seq))
            }
            (None, None) => Ok(()),
        };
        if let Err(error) = applied {
            self.manifest = None;
            self.report.note(error)?;
        }
        if let Some(manifest) = &self.manifest {
            self.points.check(self.reader, manifest, self.report)?;
        }
        self.last = Some(hash);
        for (id, what) in commit.changes.files.iter().filter_map(|f| Some((f.id, f.meta.as_ref()?.unmakeable()?))) {
            let path = self.manifest.as_ref().and_then(|manifest| manifest.path_of(id));
            self.report.note(unmakeable(self.reader, seq, id, path, what))?;
        }
        self.packs(&commit.packs)?;
        if self.read_data {
            let runs = commit.changes.files.iter().filter_map(|f| f.content.as_ref()).flat_map(|c| &c.ops);
            let own = ObjectRef::Commit(seq);
            let mut frames: Vec<(u64, u32)> = runs
                .filter_map(|op| match op {
                    Op::Literal(run) if run.at.object == own => Some((run.at.frame_offset, run.at.frame_bytes)),
                    _ => None,
                })
                .collect();
            frames.sort_unstable();
            frames.dedup();
            for (offset, len) in frames {
                let stored = commit.inline_frame(offset, len).unwrap_or_default();
                let checked = self.reader.decode_frame(own, offset, stored).map(|_| ());
                self.report.check(checked)?;
            }
        }
        Ok(())
    }

    fn packs(&mut self, packs: &[PackInfo]) -> Result<(), ReadError> {
        self.report.objects += packs.len() as u64;
        self.seen.extend(packs.iter().map(PackInfo::object));
        let (reader, read_data) = (self.reader, self.read_data);
        // Whole packs are up to 1 GiB: read fewer at once.
        let threads = if read_data { 2 } else { THREADS };
        for checked in parallel::map(threads, packs, |info| reader.pack(info, read_data)) {
            match checked {
                Ok(bytes) => self.report.bytes_read += bytes,
                Err(error) => self.report.note(error)?,
            }
        }
        Ok(())
    }
}

impl Reader {
    /// Checks a pack against its commit: size and index from its end, or every byte. Returns the bytes read.
    fn pack(&self, info: &PackInfo, whole: bool) -> Result<u64, ReadError> {
        let key = Key::from(info.object());
        let damaged = |source: DecodeError| ReadError::damaged(self.key(key), source);
        let volume = &self.format.volume;
        if whole {
            let bytes = self.get(key)?;
            let by = Key::Commit(info.seq);
            // Errors in the content say more than a wrong hash, so check the content first.
            pack::verify(volume, info.object(), &bytes).map_err(damaged)?;
            self.same_hash(key, blake3::hash(&bytes).into(), info.hash, by)?;
            return Ok(bytes.len() as u64);
        }
        // The index contains its own end position: a pack of another size does not decode.
        let mut want = TAIL.min(info.bytes);
        loop {
            let tail = self.get_range(key, info.bytes - want, want)?;
            match pack::decode_index(volume, info.object(), info.bytes, &tail) {
                Ok(_) => return self.ends_there(key, info.bytes).map(|()| want),
                Err(DecodeError::Short { needed, .. }) if needed > want && needed <= info.bytes => want = needed,
                Err(source) => return Err(damaged(source)),
            }
        }
    }

    /// Refuses an object that continues after `bytes`.
    fn ends_there(&self, key: Key, bytes: u64) -> Result<(), ReadError> {
        match self.store.get_range(&key.to_string(), bytes, 1) {
            Ok(_) => {
                let source = DecodeError::Trailing { field: "pack", left: 1 };
                Err(ReadError::damaged(self.key(key), source))
            }
            Err(error) if error.kind == crate::store::ErrorKind::Corrupt => Ok(()),
            Err(error) => Err(self.store_error(key, error)),
        }
    }
}

/// Checks that objects with data of the state exist if they were not checked with their commit (it is pruned).
fn objects(
    reader: &Reader,
    manifest: &Manifest,
    seen: &HashSet<ObjectRef>,
    report: &mut VerifyReport,
) -> Result<(), ReadError> {
    let extents = manifest.files().flat_map(|(_, file)| file.extent_map.extents());
    let named = extents.filter_map(|(_, extent)| match extent.source {
        Source::Data(at) => Some(at.object),
        Source::Hole => None,
    });
    let first = report.first;
    let other = |object: &ObjectRef| match object {
        ObjectRef::Commit(seq) => *seq < first,
        ObjectRef::Pack { .. } => !seen.contains(object),
    };
    let objects: Vec<ObjectRef> = named.filter(other).collect::<HashSet<_>>().into_iter().collect();
    report.objects += objects.len() as u64;
    let found = parallel::map(THREADS, &objects, |object| {
        let key = Key::from(*object);
        match reader.store.exists(&key.to_string()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(ReadError::Missing { key: reader.key(key) }),
            Err(error) => Err(ReadError::Store(error)),
        }
    });
    found.into_iter().try_for_each(|found| report.check(found))
}

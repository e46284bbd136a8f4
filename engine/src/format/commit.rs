//! The commit object: header, changes, inline payload, in one immutable numbered object.
//!
//! ```text
//! "TKC", version | inline frames | body | u32 length of the body | checksum over all of it
//! body: volume 16 | seq | commit id 16 | writer id 16 | epoch | time | standing | parent hash 32 | era hash 32
//!       | consistency | packs | frames, files | names | gone
//! ```
//!
//! The payload comes first, so that places in it are known before the body is written.

use super::codec::{DecodeError, EncodeError, ObjectKind, Reader, Writer, below, open, same_number, same_volume};
use super::consistency::{consistency, put_consistency};
use super::content::{self, Context};
use super::limits;
use super::pack::PackInfo;
use super::parts::{
    CONSISTENCY, NAMES, NAMES_ERA, delta, name, put_delta, put_name, put_standing, put_time, standing, time, version_of,
};
use super::version::{CHECKSUM_BYTES, CONSISTENCY_VERSION, HEAD_BYTES, MAGIC_COMMIT};
use crate::model::{
    ChangeSet, CommitId, Consistency, FileId, Hash, NameChange, ObjectRef, Seq, Standing, Stored, Time, VolumeId,
    WriterId,
};

/// BLAKE3 context of the checksum.
pub const CONTEXT: &str = "tracker format v1 commit";

const COMMIT: ObjectKind = ObjectKind {
    name: "commit",
    magic: MAGIC_COMMIT,
    newest: CONSISTENCY_VERSION,
    context: CONTEXT,
    limit: limits::COMMIT,
};

/// Who wrote a commit, when, and after which commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub volume: VolumeId,
    /// From 1.
    pub seq: Seq,
    /// Random; tells this writer's commit from another's after an unknown outcome.
    pub commit: CommitId,
    pub writer: WriterId,
    /// Fencing number of the writer.
    pub epoch: u64,
    /// Later than the parent's time, whatever the clock did.
    pub time: Time,
    /// Clock and baseline. `None` for a commit of version 1, which does not record them.
    pub standing: Option<Standing>,
    /// [`hash`] of the commit before; zeros for seq 1.
    pub parent: Hash,
    /// BLAKE3 of the object `eras/<e-1>`, named by the first commit of era e. So the chain of commits names the ends of
    /// eras, and these name the checkpoints. Not in version 1.
    pub era: Option<Hash>,
    /// Whether the commit is the state of one instant. `None`: it does not say, and is of version 1 or 2.
    pub consistency: Option<Consistency>,
}

impl Header {
    /// The wall clock of the flush. For a commit of version 1, its time: nothing better is known.
    pub fn wall(&self) -> Time {
        self.standing.map_or(self.time, |standing| standing.wall)
    }

    /// Whether the baseline was complete at this commit; `None` if that was not recorded (version 1).
    pub fn baseline(&self) -> Option<bool> {
        self.standing.map(|standing| standing.baseline)
    }

    fn version(&self) -> u8 {
        if self.consistency.is_some() { CONSISTENCY_VERSION } else { version_of(self.standing.as_ref()) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub header: Header,
    /// Packs that this commit's flush made, in the order of their numbers.
    pub packs: Vec<PackInfo>,
    pub changes: ChangeSet<Stored>,
    /// Frames of the inline payload, as they stand in the object from byte [`HEAD_BYTES`] on.
    pub inline: Vec<u8>,
}

/// Which commit the bytes are expected to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    pub volume: VolumeId,
    pub seq: Seq,
}

/// Hash of a commit object, which the next commit names as its `parent`.
pub fn hash(bytes: &[u8]) -> Hash {
    blake3::hash(bytes).into()
}

impl Commit {
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        encode(&self.header, &self.packs, &self.changes, &self.inline)
    }

    /// Bytes of the inline frame at `offset` of the object, for [`super::frame::decode`].
    pub fn inline_frame(&self, offset: u64, frame_bytes: u32) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?.checked_sub(HEAD_BYTES)?;
        self.inline.get(start..start.checked_add(frame_bytes as usize)?)
    }
}

/// Encodes the object. Fails if values exceed the format's limits, or ops do not fill a file's size.
pub fn encode(
    header: &Header,
    packs: &[PackInfo],
    changes: &ChangeSet<Stored>,
    inline: &[u8],
) -> Result<Vec<u8>, EncodeError> {
    below("inline payload", inline.len(), limits::INLINE)?;
    let mut w = Writer::object(MAGIC_COMMIT, header.version());
    w.put(inline);
    let start = w.len();
    let more = changes.names.len() + changes.gone.len() > 0;
    put_header(&mut w, header, more)?;
    w.count("packs", limits::PACKS, packs.len())?;
    let first = packs.first().map_or(0, |p| u64::from(p.n));
    if !packs.is_empty() {
        w.varint(first);
    }
    for (n, pack) in packs.iter().enumerate() {
        for (field, found, expected) in [
            ("pack seq", pack.seq.0, header.seq.0),
            ("pack epoch", pack.epoch, header.epoch),
            ("pack number", u64::from(pack.n), first + n as u64),
        ] {
            if found != expected {
                return Err(EncodeError::Number { field, found, expected });
            }
        }
        w.varint(pack.bytes);
        w.put(&pack.hash);
    }
    content::put_files(&mut w, context(header), &changes.files)?;
    if more || header.standing.is_none() {
        put_names(&mut w, &changes.names)?;
        put_gone(&mut w, &changes.gone)?;
    }
    let body = w.len() - start;
    below("commit", w.len() + 4 + CHECKSUM_BYTES, limits::COMMIT)?;
    w.u32(body as u32);
    Ok(w.seal(CONTEXT))
}

/// Decodes a commit object and checks that it is the expected one. The caller checks the parent hash (`Manifest::apply`
/// does).
pub fn decode(bytes: &[u8], expect: Expect) -> Result<Commit, DecodeError> {
    let (inline, mut r, header, more) = open_body(bytes, expect)?;
    let packs = packs(&mut r, &header)?;
    let inline_end = (HEAD_BYTES + inline.len()) as u64;
    let inside = |object: ObjectRef, offset: u64, frame_bytes: u32| {
        let limit = match object {
            ObjectRef::Commit(seq) if seq == header.seq => inline_end,
            ObjectRef::Pack { seq, epoch, n } if seq == header.seq => {
                let place = packs.first().and_then(|first| n.checked_sub(first.n));
                let pack = place.and_then(|place| packs.get(place as usize)).filter(|p| p.epoch == epoch);
                pack.ok_or(DecodeError::Limit { field: "pack number", found: u64::from(n), limit: packs.len() as u64 })?
                    .bytes
            }
            ObjectRef::Commit(seq) | ObjectRef::Pack { seq, .. } if seq > header.seq => {
                return Err(DecodeError::Limit { field: "object seq", found: seq.0, limit: header.seq.0 });
            }
            _ => u64::MAX,
        };
        let end = offset.saturating_add(u64::from(frame_bytes));
        if end > limit || offset < HEAD_BYTES as u64 {
            return Err(DecodeError::Limit { field: "end of frame", found: end, limit });
        }
        Ok(())
    };
    let files = content::files(&mut r, context(&header), inside)?;
    let (names, gone) = if more { (names(&mut r)?, gone(&mut r)?) } else { Default::default() };
    if more && header.standing.is_some() && names.len() + gone.len() == 0 {
        return Err(DecodeError::Tag { field: "names", found: 0 });
    }
    r.finish("commit body")?;
    Ok(Commit { header, packs, changes: ChangeSet { files, names, gone }, inline: inline.to_vec() })
}

/// The header of an object that must be a whole commit, of whatever volume and seq.
pub fn peek(bytes: &[u8]) -> Result<Header, DecodeError> {
    parts_of(bytes).map(|(_, _, header, _)| header)
}

/// The header only, from the whole object. Checks everything that [`decode`] does, except the inside of the changes.
pub fn decode_header(bytes: &[u8], expect: Expect) -> Result<Header, DecodeError> {
    open_body(bytes, expect).map(|(_, _, header, _)| header)
}

/// Inline payload; what follows the header; the header; whether names and gone files follow the files.
type Parts<'a> = (&'a [u8], Reader<'a>, Header, bool);

fn open_body(bytes: &[u8], expect: Expect) -> Result<Parts<'_>, DecodeError> {
    let (inline, r, header, more) = parts_of(bytes)?;
    same_volume("commit volume", header.volume, expect.volume)?;
    same_number("commit seq", header.seq.0, expect.seq.0)?;
    Ok((inline, r, header, more))
}

fn parts_of(bytes: &[u8]) -> Result<Parts<'_>, DecodeError> {
    let (version, inner) = open(&COMMIT, bytes)?;
    let short = DecodeError::Short { field: "commit body length", needed: 4, left: inner.len() as u64 };
    let (inner, len) = inner.split_last_chunk::<4>().ok_or(short)?;
    let len = u32::from_le_bytes(*len) as usize;
    let start = inner.len().checked_sub(len).ok_or(DecodeError::Short {
        field: "commit body",
        needed: len as u64,
        left: inner.len() as u64,
    })?;
    let (inline, body) = inner.split_at(start);
    if inline.len() > limits::INLINE {
        let (found, limit) = (inline.len() as u64, limits::INLINE as u64);
        return Err(DecodeError::Limit { field: "inline payload", found, limit });
    }
    let mut r = Reader::new(body);
    let (header, more) = header(&mut r, version)?;
    Ok((inline, r, header, more))
}

fn context(header: &Header) -> Context {
    Context { version: header.version(), seq: header.seq, sec: header.time.sec }
}

/// `names`: names or gone files follow the files.
fn put_header(w: &mut Writer, header: &Header, names: bool) -> Result<(), EncodeError> {
    if header.seq == Seq::NONE {
        return Err(EncodeError::Number { field: "commit seq", found: 0, expected: 1 });
    }
    w.put(&header.volume.0);
    w.seq(header.seq);
    w.put(&header.commit.0);
    w.put(&header.writer.0);
    w.varint(header.epoch);
    put_time(w, header.time, 0)?;
    let more = if header.era.is_some() { NAMES_ERA } else { 0 };
    let more = more | if names && header.standing.is_some() { NAMES } else { 0 };
    let more = more | if header.consistency.is_some() { CONSISTENCY } else { 0 };
    put_standing(w, header.standing.as_ref(), more, header.seq, header.time)?;
    w.put(&header.parent);
    if let Some(era) = &header.era {
        w.put(era);
    }
    if let Some(said) = header.consistency {
        put_consistency(w, said);
    }
    Ok(())
}

fn header(r: &mut Reader<'_>, version: u8) -> Result<(Header, bool), DecodeError> {
    let volume = VolumeId(r.array("commit volume")?);
    let seq = r.seq("commit seq")?;
    let commit = CommitId(r.array("commit id")?);
    let writer = WriterId(r.array("writer id")?);
    let epoch = r.varint("writer epoch")?;
    let time = time(r, 0)?;
    let known = if version < CONSISTENCY_VERSION { NAMES_ERA | NAMES } else { NAMES_ERA | NAMES | CONSISTENCY };
    let standing = standing(r, version, known, seq, time)?;
    let parent = r.array("parent hash")?;
    let names_era = standing.is_some_and(|(_, more)| more & NAMES_ERA != 0);
    let era = if names_era { Some(r.array("era hash")?) } else { None };
    let says = standing.is_some_and(|(_, more)| more & CONSISTENCY != 0);
    if says != (version == CONSISTENCY_VERSION) {
        // An older version would have held it.
        return Err(DecodeError::Tag { field: "flags", found: standing.map_or(0, |(_, more)| more) });
    }
    let consistency = if says { Some(consistency(r)?) } else { None };
    let names = standing.is_none_or(|(_, more)| more & NAMES != 0);
    let standing = standing.map(|(standing, _)| standing);
    Ok((Header { volume, seq, commit, writer, epoch, time, standing, parent, era, consistency }, names))
}

fn packs(r: &mut Reader<'_>, header: &Header) -> Result<Vec<PackInfo>, DecodeError> {
    let count = r.count("packs", limits::PACKS, 33)?;
    let mut packs = Vec::with_capacity(count);
    let first = if count > 0 { r.bounded("pack number", u64::from(u32::MAX - count as u32))? as u32 } else { 0 };
    for n in 0..count {
        packs.push(PackInfo {
            seq: header.seq,
            epoch: header.epoch,
            n: first + n as u32,
            bytes: r.bounded("pack bytes", limits::PACK as u64)?,
            hash: r.array("pack hash")?,
        });
    }
    Ok(packs)
}

fn put_gone(w: &mut Writer, gone: &[FileId]) -> Result<(), EncodeError> {
    w.count("gone", limits::CHANGES, gone.len())?;
    let mut previous = 0;
    for id in gone {
        put_delta(w, id.0, &mut previous);
    }
    Ok(())
}

fn gone(r: &mut Reader<'_>) -> Result<Vec<FileId>, DecodeError> {
    let count = r.count("gone", limits::CHANGES, 1)?;
    let mut gone = Vec::with_capacity(count);
    let mut previous = 0;
    for _ in 0..count {
        gone.push(FileId(delta(r, "gone", &mut previous)?));
    }
    Ok(gone)
}

const UNSET: u8 = 0;
const SET: u8 = 1;

fn put_names(w: &mut Writer, names: &[NameChange]) -> Result<(), EncodeError> {
    w.count("names", limits::CHANGES, names.len())?;
    let (mut last_parent, mut last_id) = (0, 0);
    for change in names {
        match change {
            NameChange::Unset { parent, name } => {
                w.u8(UNSET);
                put_delta(w, parent.0, &mut last_parent);
                put_name(w, name)?;
            }
            NameChange::Set { parent, name, id } => {
                w.u8(SET);
                put_delta(w, parent.0, &mut last_parent);
                put_name(w, name)?;
                put_delta(w, id.0, &mut last_id);
            }
        }
    }
    Ok(())
}

fn names(r: &mut Reader<'_>) -> Result<Vec<NameChange>, DecodeError> {
    let count = r.count("names", limits::CHANGES, 4)?;
    let mut names = Vec::with_capacity(count);
    let (mut last_parent, mut last_id) = (0, 0);
    for _ in 0..count {
        let tag = r.u8("name change")?;
        let parent = FileId(delta(r, "parent", &mut last_parent)?);
        let name = name(r)?.to_vec();
        names.push(match tag {
            UNSET => NameChange::Unset { parent, name },
            SET => NameChange::Set { parent, name, id: FileId(delta(r, "named id", &mut last_id)?) },
            found => return Err(DecodeError::Tag { field: "name change", found: u64::from(found) }),
        });
    }
    Ok(names)
}

//! The commit object: header, changes, inline payload, in one immutable numbered object.
//!
//! ```text
//! "TKC", version | inline frames | body | u32 length of the body | checksum over all of it
//! body: volume 16 | seq | commit id 16 | writer id 16 | epoch | time | parent hash 32 | packs | frames, files | names | gone
//! ```
//!
//! The payload stands first, so that places in it are known before the body is.

use super::codec::{DecodeError, EncodeError, Reader, Writer, below, open, same_id, same_number};
use super::content::{self, Context};
use super::pack::PackInfo;
use super::parts::{delta, name, put_delta, put_name, put_time, time};
use super::{CHECKSUM_BYTES, HEAD_BYTES, MAGIC_COMMIT, limits};
use crate::model::{ChangeSet, FileId, Hash, Id, NameChange, ObjectRef, Seq, Stored, Time};

/// BLAKE3 context of the checksum.
pub const CONTEXT: &str = "tracker format v1 commit";

/// Who wrote a commit, when, and after what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub volume: Id,
    /// From 1.
    pub seq: Seq,
    /// Random; tells an own commit from another's after an unknown outcome.
    pub commit: Id,
    pub writer: Id,
    /// Fencing number of the writer.
    pub epoch: u64,
    /// Later than the parent's, whatever the clock did.
    pub time: Time,
    /// [`hash`] of the commit before; zeros for seq 1.
    pub parent: Hash,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub header: Header,
    /// Packs that this commit's flush made, by number.
    pub packs: Vec<PackInfo>,
    pub changes: ChangeSet<Stored>,
    /// Frames of the inline payload, as they stand in the object from byte [`HEAD_BYTES`] on.
    pub inline: Vec<u8>,
}

/// Which commit the bytes must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    pub volume: Id,
    pub seq: Seq,
}

/// Hash of a commit object: what the next commit's `parent` is.
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

/// The object's bytes. Errors are values beyond the format's limits, or ops that do not fill a file's size.
pub fn encode(
    header: &Header,
    packs: &[PackInfo],
    changes: &ChangeSet<Stored>,
    inline: &[u8],
) -> Result<Vec<u8>, EncodeError> {
    below("inline payload", inline.len(), limits::INLINE)?;
    let mut w = Writer::object(MAGIC_COMMIT);
    w.put(inline);
    let start = w.len();
    put_header(&mut w, header)?;
    w.count("packs", limits::PACKS, packs.len())?;
    let first = packs.first().map_or(0, |p| u64::from(p.n));
    if !packs.is_empty() {
        w.varint(first);
    }
    for (n, pack) in packs.iter().enumerate() {
        for (field, found, expected) in [
            ("pack seq", pack.seq, header.seq),
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
    content::put_files(&mut w, Context { seq: header.seq, sec: header.time.sec }, &changes.files)?;
    put_names(&mut w, &changes.names)?;
    w.count("gone", limits::CHANGES, changes.gone.len())?;
    let mut previous = 0;
    for id in &changes.gone {
        put_delta(&mut w, id.0, &mut previous);
    }
    let body = w.len() - start;
    below("commit", w.len() + 4 + CHECKSUM_BYTES, limits::COMMIT)?;
    w.u32(body as u32);
    Ok(w.seal(CONTEXT))
}

/// Decodes a commit object and checks that it is the expected one. The parent hash is the caller's to check
/// (`Manifest::apply` does).
pub fn decode(bytes: &[u8], expect: Expect) -> Result<Commit, DecodeError> {
    let (inline, mut r, header) = open_body(bytes, expect)?;
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
            ObjectRef::Commit(found) | ObjectRef::Pack { seq: found, .. } if found > header.seq => {
                return Err(DecodeError::Limit { field: "object seq", found, limit: header.seq });
            }
            _ => u64::MAX,
        };
        let end = offset.saturating_add(u64::from(frame_bytes));
        if end > limit || offset < HEAD_BYTES as u64 {
            return Err(DecodeError::Limit { field: "end of frame", found: end, limit });
        }
        Ok(())
    };
    let files = content::files(&mut r, Context { seq: header.seq, sec: header.time.sec }, inside)?;
    let names = names(&mut r)?;
    let count = r.count("gone", limits::CHANGES, 1)?;
    let mut gone = Vec::with_capacity(count);
    let mut previous = 0;
    for _ in 0..count {
        gone.push(FileId(delta(&mut r, "gone", &mut previous)?));
    }
    r.finish("commit body")?;
    Ok(Commit { header, packs, changes: ChangeSet { files, names, gone }, inline: inline.to_vec() })
}

/// The header alone, from the whole object; everything is checked as by [`decode`] but the changes' inner form.
pub fn decode_header(bytes: &[u8], expect: Expect) -> Result<Header, DecodeError> {
    open_body(bytes, expect).map(|(_, _, header)| header)
}

fn open_body(bytes: &[u8], expect: Expect) -> Result<(&[u8], Reader<'_>, Header), DecodeError> {
    let inner = open("commit", MAGIC_COMMIT, CONTEXT, limits::COMMIT, bytes)?;
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
    let header = header(&mut r)?;
    same_id("commit volume", header.volume, expect.volume)?;
    same_number("commit seq", header.seq, expect.seq)?;
    Ok((inline, r, header))
}

fn put_header(w: &mut Writer, header: &Header) -> Result<(), EncodeError> {
    if header.seq == 0 {
        return Err(EncodeError::Number { field: "commit seq", found: 0, expected: 1 });
    }
    w.put(&header.volume);
    w.varint(header.seq);
    w.put(&header.commit);
    w.put(&header.writer);
    w.varint(header.epoch);
    put_time(w, header.time, 0)?;
    w.put(&header.parent);
    Ok(())
}

fn header(r: &mut Reader<'_>) -> Result<Header, DecodeError> {
    Ok(Header {
        volume: r.array("commit volume")?,
        seq: r.varint("commit seq")?,
        commit: r.array("commit id")?,
        writer: r.array("writer id")?,
        epoch: r.varint("writer epoch")?,
        time: time(r, 0)?,
        parent: r.array("parent hash")?,
    })
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

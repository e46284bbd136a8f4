//! Packs: immutable objects of frames, with an index and a checksum at the end.
//!
//! ```text
//! "TKP", version | frames, end to end | index | u32 length of the index | checksum over index and its length
//! ```
//!
//! Readers of literal bytes do not need the index (a `DataRef` has everything); `verify` and repair use it.

use super::codec::{DecodeError, EncodeError, Reader, Writer, checksum, head, same_number, same_volume};
use super::frame::{self, HEADER_BYTES};
use super::limits;
use super::version::{CHECKSUM_BYTES, FIRST_VERSION, HEAD_BYTES, MAGIC_PACK};
use crate::model::{Hash, ObjectRef, Seq, VolumeId};

/// BLAKE3 context of the checksum.
pub const CONTEXT: &str = "tracker format v1 pack index";
/// The index's length and the checksum.
const TAIL_BYTES: usize = 4 + CHECKSUM_BYTES;

/// A pack, as its commit names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackInfo {
    pub seq: Seq,
    pub epoch: u64,
    pub n: u32,
    /// Bytes of the object.
    pub bytes: u64,
    /// BLAKE3 of the object.
    pub hash: Hash,
}

impl PackInfo {
    pub fn object(&self) -> ObjectRef {
        ObjectRef::Pack { seq: self.seq, epoch: self.epoch, n: self.n }
    }
}

/// One frame in a pack's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    pub offset: u64,
    /// Header included.
    pub frame_bytes: u32,
    pub plain_len: u32,
}

/// A pack that is being filled: frames go in, the object's bytes come out.
#[derive(Debug)]
pub struct PackBuilder {
    volume: VolumeId,
    object: ObjectRef,
    bytes: Vec<u8>,
    index: Vec<IndexEntry>,
}

impl PackBuilder {
    pub fn new(volume: VolumeId, seq: Seq, epoch: u64, n: u32) -> Self {
        let bytes = Writer::object(MAGIC_PACK, FIRST_VERSION).into_bytes();
        PackBuilder { volume, object: ObjectRef::Pack { seq, epoch, n }, bytes, index: Vec::new() }
    }

    pub fn object(&self) -> ObjectRef {
        self.object
    }

    /// Bytes so far, without index.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub fn push(&mut self, body: &frame::Body) -> IndexEntry {
        let entry = IndexEntry {
            offset: self.bytes.len() as u64,
            frame_bytes: body.frame_bytes() as u32,
            plain_len: body.plain_len,
        };
        body.write(&self.volume, self.object, &mut self.bytes);
        self.index.push(entry);
        entry
    }

    pub fn finish(self) -> Result<(PackInfo, Vec<u8>), EncodeError> {
        let ObjectRef::Pack { seq, epoch, n } = self.object else {
            return Err(EncodeError::Number { field: "object", found: 0, expected: 1 });
        };
        let mut w = Writer::default();
        w.put(&self.volume.0);
        w.seq(seq);
        w.varint(epoch);
        w.varint(u64::from(n));
        w.count("frames", limits::FRAMES, self.index.len())?;
        for entry in &self.index {
            w.varint(u64::from(entry.frame_bytes));
            w.varint(u64::from(entry.plain_len));
        }
        let index_len = w.len() as u32;
        w.u32(index_len);
        let mut bytes = self.bytes;
        bytes.extend_from_slice(&w.seal(CONTEXT));
        super::codec::below("pack", bytes.len(), limits::PACK)?;
        let hash = blake3::hash(&bytes).into();
        Ok((PackInfo { seq, epoch, n, bytes: bytes.len() as u64, hash }, bytes))
    }
}

/// Reads the index from the pack's end. `tail` are the object's last bytes, as many as the caller chose to read; `total` is
/// the object's size. If `tail` is too short, [`DecodeError::Short`] says how many bytes are needed.
pub fn decode_index(
    volume: &VolumeId,
    object: ObjectRef,
    total: u64,
    tail: &[u8],
) -> Result<Vec<IndexEntry>, DecodeError> {
    let ObjectRef::Pack { seq, epoch, n } = object else {
        return Err(DecodeError::Tag { field: "object", found: 0 });
    };
    if total > limits::PACK as u64 {
        return Err(DecodeError::Limit { field: "pack", found: total, limit: limits::PACK as u64 });
    }
    let left = tail.len() as u64;
    let short = |needed: u64| DecodeError::Short { field: "pack tail", needed, left };
    let (rest, found) = tail.split_last_chunk::<CHECKSUM_BYTES>().ok_or(short(TAIL_BYTES as u64))?;
    let (rest_index, len) = rest.split_last_chunk::<4>().ok_or(short(TAIL_BYTES as u64))?;
    let len = u64::from(u32::from_le_bytes(*len));
    if len + (TAIL_BYTES + HEAD_BYTES) as u64 > total {
        return Err(DecodeError::Limit { field: "pack index length", found: len, limit: total });
    }
    let start = rest_index.len().checked_sub(len as usize).ok_or(short(len + TAIL_BYTES as u64))?;
    let expected = checksum(CONTEXT, rest.get(start..).unwrap_or_default());
    if *found != expected {
        let object = "pack index";
        return Err(DecodeError::Checksum { object, found: found.to_vec(), expected: expected.to_vec() });
    }
    let mut r = Reader::new(rest_index.get(start..).unwrap_or_default());
    same_volume("pack volume", VolumeId(r.array("pack volume")?), *volume)?;
    same_number("pack seq", r.varint("pack seq")?, seq.0)?;
    same_number("pack epoch", r.varint("pack epoch")?, epoch)?;
    same_number("pack number", r.varint("pack number")?, u64::from(n))?;
    let count = r.count("pack frames", limits::FRAMES, 2)?;
    let mut index = Vec::with_capacity(count);
    let mut offset = HEAD_BYTES as u64;
    for _ in 0..count {
        let frame_bytes = r.bounded("frame bytes", (HEADER_BYTES + limits::FRAME_PLAIN) as u64)? as u32;
        let plain_len = r.bounded("frame plain length", limits::FRAME_PLAIN as u64)? as u32;
        index.push(IndexEntry { offset, frame_bytes, plain_len });
        offset += u64::from(frame_bytes);
    }
    r.finish("pack index")?;
    same_number("end of frames", offset, total - len - TAIL_BYTES as u64)?;
    Ok(index)
}

/// Checks a whole pack: head, index and every frame (decompressed). Returns the index.
pub fn verify(volume: &VolumeId, object: ObjectRef, bytes: &[u8]) -> Result<Vec<IndexEntry>, DecodeError> {
    head("pack", MAGIC_PACK, FIRST_VERSION, bytes)?;
    let index = decode_index(volume, object, bytes.len() as u64, bytes)?;
    for entry in &index {
        let start = entry.offset as usize;
        let frame = bytes.get(start..start + entry.frame_bytes as usize).unwrap_or_default();
        let plain = frame::decode(volume, object, entry.offset, frame)?;
        same_number("frame plain length", u64::from(entry.plain_len), plain.len() as u64)?;
    }
    Ok(index)
}

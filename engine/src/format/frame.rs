//! Frames: literal bytes in compressed pieces. Each can be checked alone, after one ranged read.
//!
//! ```text
//! 0   u8   mark 0xF1
//! 1   u8   codec: 0 raw, 1 zstd
//! 2   u24  plain length
//! 5   u24  stored length
//! 8   8 B  checksum over position (volume, object, offset), bytes 0..8 and the stored bytes
//! 16  stored bytes
//! ```
//!
//! The checksum guards against rot and misplacement, for which 8 bytes are enough. Tampering is found by the file's root
//! and by the hash of the pack in its commit.

use super::codec::{DecodeError, Reader, same_number};
use super::limits;
use crate::model::{DataRef, ObjectRef, VolumeId};

pub const MARK: u8 = 0xf1;
pub const CODEC_RAW: u8 = 0;
pub const CODEC_ZSTD: u8 = 1;
/// Bytes before a frame's stored bytes.
pub const HEADER_BYTES: usize = 16;
const SUM_BYTES: usize = 8;
const FIXED_BYTES: usize = HEADER_BYTES - SUM_BYTES;
/// BLAKE3 context of the checksum.
pub const CONTEXT: &str = "tracker format v1 frame";

/// A frame's bytes, compressed, before its position is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub codec: u8,
    pub plain_len: u32,
    pub stored: Vec<u8>,
}

impl Body {
    /// `compressed` is zstd's output for `plain`, if it was tried; it is used if it is shorter.
    ///
    /// `plain` must not be longer than [`limits::FRAME_PLAIN`].
    pub fn new(plain: &[u8], compressed: Option<Vec<u8>>) -> Body {
        assert!(plain.len() <= limits::FRAME_PLAIN, "the caller cuts frames at the limit");
        let plain_len = plain.len() as u32;
        match compressed {
            Some(stored) if stored.len() < plain.len() => Body { codec: CODEC_ZSTD, plain_len, stored },
            _ => Body { codec: CODEC_RAW, plain_len, stored: plain.to_vec() },
        }
    }

    /// Bytes of the frame, header included.
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.stored.len()
    }

    /// Appends the frame to `out`, whose length is the frame's offset in `object`.
    pub fn write(&self, volume: &VolumeId, object: ObjectRef, out: &mut Vec<u8>) {
        let offset = out.len() as u64;
        let fixed = fixed(self.codec, self.plain_len, self.stored.len() as u32);
        out.extend_from_slice(&fixed);
        out.extend_from_slice(&sum(volume, object, offset, &fixed, &self.stored));
        out.extend_from_slice(&self.stored);
    }
}

fn fixed(codec: u8, plain: u32, stored: u32) -> [u8; FIXED_BYTES] {
    let [p0, p1, p2, _] = plain.to_le_bytes();
    let [s0, s1, s2, _] = stored.to_le_bytes();
    [MARK, codec, p0, p1, p2, s0, s1, s2]
}

fn sum(volume: &VolumeId, object: ObjectRef, offset: u64, fixed: &[u8; FIXED_BYTES], stored: &[u8]) -> [u8; SUM_BYTES] {
    let (tag, seq, epoch, n) = match object {
        ObjectRef::Commit(seq) => (0u8, seq, 0, 0),
        ObjectRef::Pack { seq, epoch, n } => (1, seq, epoch, n),
    };
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&volume.0);
    hasher.update(&[tag]);
    hasher.update(&seq.0.to_le_bytes());
    hasher.update(&epoch.to_le_bytes());
    hasher.update(&n.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(fixed);
    hasher.update(stored);
    let mut out = [0; SUM_BYTES];
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Checks a frame and returns its plain bytes (at most [`limits::FRAME_PLAIN`], whatever the frame claims).
///
/// `bytes` are exactly the frame; `offset` is where in `object` it was read.
pub fn decode(volume: &VolumeId, object: ObjectRef, offset: u64, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let (codec, plain, stored) = check(volume, object, offset, bytes)?;
    if codec == CODEC_RAW {
        same_number("frame plain length", u64::from(plain), stored.len() as u64)?;
        return Ok(stored.to_vec());
    }
    let wrong = DecodeError::Decompress { field: "frame", stored: stored.len() as u64, plain: u64::from(plain) };
    match zstd::bulk::decompress(stored, plain as usize) {
        Ok(out) if out.len() == plain as usize => Ok(out),
        _ => Err(wrong),
    }
}

/// The run of `len` plain bytes that `at` points to. `bytes` is the frame, as read at `at.frame_offset`.
pub fn read_run(volume: &VolumeId, at: &DataRef, len: u64, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut plain = decode(volume, at.object, at.frame_offset, bytes)?;
    let end = u64::from(at.skip).saturating_add(len);
    if end > plain.len() as u64 {
        return Err(DecodeError::Short { field: "frame plain bytes", needed: end, left: plain.len() as u64 });
    }
    plain.truncate(end as usize);
    plain.drain(..at.skip as usize);
    Ok(plain)
}

/// Checks header and checksum without decompressing. Returns codec, plain length and stored bytes.
pub fn check<'a>(
    volume: &VolumeId,
    object: ObjectRef,
    offset: u64,
    bytes: &'a [u8],
) -> Result<(u8, u32, &'a [u8]), DecodeError> {
    let mut r = Reader::new(bytes);
    let mark = r.u8("frame mark")?;
    same_number("frame mark", u64::from(mark), u64::from(MARK))?;
    let codec = r.u8("frame codec")?;
    if codec != CODEC_RAW && codec != CODEC_ZSTD {
        return Err(DecodeError::Tag { field: "frame codec", found: u64::from(codec) });
    }
    let plain = r.u24("frame plain length")?;
    let stored_len = r.u24("frame stored length")?;
    for (field, found) in [("frame plain length", plain), ("frame stored length", stored_len)] {
        if found as usize > limits::FRAME_PLAIN {
            let limit = limits::FRAME_PLAIN as u64;
            return Err(DecodeError::Limit { field, found: u64::from(found), limit });
        }
    }
    let found = r.array::<SUM_BYTES>("frame checksum")?;
    let stored = r.take("frame stored bytes", stored_len as usize)?;
    r.finish("frame")?;
    let expected = sum(volume, object, offset, &fixed(codec, plain, stored_len), stored);
    if found != expected {
        return Err(DecodeError::Checksum { object: "frame", found: found.to_vec(), expected: expected.to_vec() });
    }
    Ok((codec, plain, stored))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Seq;

    const VOLUME: VolumeId = VolumeId([7; 16]);
    const PACK: ObjectRef = ObjectRef::Pack { seq: Seq(3), epoch: 1, n: 0 };

    fn frame(plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 4];
        Body::new(plain, zstd::bulk::compress(plain, 1).ok()).write(&VOLUME, PACK, &mut out);
        out.split_off(4)
    }

    #[test]
    fn bytes_come_back_and_only_from_their_place() {
        for plain in [&b""[..], b"x", &[9; 5000]] {
            let bytes = frame(plain);
            assert_eq!(decode(&VOLUME, PACK, 4, &bytes).unwrap(), plain);
            let other = ObjectRef::Pack { seq: Seq(3), epoch: 1, n: 1 };
            for moved in [
                decode(&VOLUME, PACK, 5, &bytes),
                decode(&VOLUME, other, 4, &bytes),
                decode(&VOLUME, ObjectRef::Commit(Seq(3)), 4, &bytes),
                decode(&VolumeId([8; 16]), PACK, 4, &bytes),
            ] {
                assert!(matches!(moved, Err(DecodeError::Checksum { .. })), "{moved:?}");
            }
        }
    }

    #[test]
    fn a_bomb_is_cut_at_the_plain_length_it_admits() {
        let bomb = zstd::bulk::compress(&vec![0; 50 << 20], 1).unwrap();
        for (plain_len, expected) in [(10, "decompress"), (limits::FRAME_PLAIN as u32, "decompress")] {
            let mut out = Vec::new();
            Body { codec: CODEC_ZSTD, plain_len, stored: bomb.clone() }.write(&VOLUME, PACK, &mut out);
            let got = decode(&VOLUME, PACK, 0, &out);
            assert!(matches!(got, Err(DecodeError::Decompress { .. })), "{expected}: {got:?}");
        }
    }

    #[test]
    fn a_run_is_a_part_of_its_frame() {
        let plain: Vec<u8> = (0..=255).collect();
        let bytes = frame(&plain);
        let at = DataRef { object: PACK, frame_offset: 4, frame_bytes: bytes.len() as u32, skip: 10 };
        assert_eq!(read_run(&VOLUME, &at, 5, &bytes).unwrap(), &plain[10..15]);
        assert!(read_run(&VOLUME, &at, 247, &bytes).is_err());
        assert!(read_run(&VOLUME, &at, u64::MAX, &bytes).is_err());
    }
}

//! Two small objects that say how a volume's commits are counted: `format` (its parameters) and `eras/<e>` (the end of an
//! era).
//!
//! `eras/<e>` is created before the first commit of era e+1 and never deleted. The search for the head starts there, and a
//! late writer meets it and stops.

use super::codec::{DecodeError, EncodeError, ObjectKind, Reader, Writer, open, same_number, same_volume};
use super::limits;
use super::parts::{put_standing, put_time, standing, time, version_of};
use super::version::{DEFAULT_ERA_LEN, FIRST_VERSION, MAGIC_ERA, MAGIC_FORMAT, STANDING_VERSION};
use crate::model::{Hash, Seq, Standing, Time, VolumeId};

/// BLAKE3 contexts of the two checksums.
pub const FORMAT_CONTEXT: &str = "tracker format v1 volume";
pub const ERA_CONTEXT: &str = "tracker format v1 era";
/// Upper bound; both objects are far smaller.
const SMALL: usize = 4096;

const FORMAT: ObjectKind =
    ObjectKind { name: "format", magic: MAGIC_FORMAT, newest: FIRST_VERSION, context: FORMAT_CONTEXT, limit: SMALL };
const ERA: ObjectKind =
    ObjectKind { name: "era", magic: MAGIC_ERA, newest: STANDING_VERSION, context: ERA_CONTEXT, limit: SMALL };

/// The volume's `format` object, written once when the volume is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFormat {
    pub volume: VolumeId,
    pub created: Time,
    /// Seqs of an era; at least 1, at most [`limits::ERA_LEN`].
    pub era_len: u64,
    /// Plain bytes of a frame in this volume; at most [`limits::FRAME_PLAIN`].
    pub frame_plain: u32,
}

impl VolumeFormat {
    pub fn new(volume: VolumeId, created: Time) -> Self {
        VolumeFormat { volume, created, era_len: DEFAULT_ERA_LEN, frame_plain: limits::FRAME_PLAIN as u32 }
    }

    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut w = Writer::object(MAGIC_FORMAT, FIRST_VERSION);
        w.put(&self.volume.0);
        put_time(&mut w, self.created, 0)?;
        for (field, found, limit) in [
            ("era length", self.era_len, limits::ERA_LEN),
            ("frame limit", u64::from(self.frame_plain), limits::FRAME_PLAIN as u64),
        ] {
            if found == 0 || found > limit {
                return Err(EncodeError::Limit { field, found, limit });
            }
            w.varint(found);
        }
        Ok(w.seal(FORMAT_CONTEXT))
    }

    /// The volume id is learned here, so no id is expected.
    pub fn decode(bytes: &[u8]) -> Result<VolumeFormat, DecodeError> {
        let mut r = Reader::new(open(&FORMAT, bytes)?.1);
        let volume = VolumeId(r.array("volume")?);
        let created = time(&mut r, 0)?;
        let era_len = r.bounded("era length", limits::ERA_LEN)?;
        let frame_plain = r.bounded("frame limit", limits::FRAME_PLAIN as u64)? as u32;
        r.finish("format")?;
        for (field, found) in [("era length", era_len), ("frame limit", u64::from(frame_plain))] {
            if found == 0 {
                return Err(DecodeError::Tag { field, found });
            }
        }
        Ok(VolumeFormat { volume, created, era_len, frame_plain })
    }
}

/// The era that contains a seq. `era_len` is the volume's; 0 counts as 1.
pub fn era_of(seq: Seq, era_len: u64) -> u64 {
    seq.0 / era_len.max(1)
}

/// First seq of an era. Seqs begin at 1, so era 0 is one shorter.
pub fn first_seq(era: u64, era_len: u64) -> Seq {
    Seq(era.saturating_mul(era_len.max(1)).max(1))
}

/// Last seq of an era.
pub fn last_seq(era: u64, era_len: u64) -> Seq {
    Seq(era.saturating_add(1).saturating_mul(era_len.max(1)) - 1)
}

/// Of which seq the writer makes a checkpoint in this era: three quarters on, so that it can be whole when the era ends, and
/// always the same one, so that whoever makes it again makes the same bytes. `NONE` in an era without any seq.
pub fn checkpoint_seq(era: u64, era_len: u64) -> Seq {
    Seq(last_seq(era, era_len).0.saturating_sub(era_len.max(1) / 4))
}

/// A checkpoint by seq and hash of its root object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRef {
    pub seq: Seq,
    pub hash: Hash,
}

/// The object that closes an era.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Era {
    pub volume: VolumeId,
    pub era: u64,
    /// The era's last seq.
    pub last_seq: Seq,
    /// Hash of the commit `last_seq`: the chain up to here.
    pub chain: Hash,
    /// Time of that commit; `--at` searches the eras first.
    pub time: Time,
    /// What that commit says of its clock and baseline; `None` if it is of version 1, and then this object is of version 1
    /// too.
    pub standing: Option<Standing>,
    /// Writer epoch of the writer that closed it.
    pub epoch: u64,
    /// The newest checkpoint that its writer knew of when it closed the era; rarely of the last seq.
    pub checkpoint: Option<CheckpointRef>,
}

impl Era {
    /// Whether the two say the same, whatever checkpoints they name.
    pub fn is_but_for_checkpoint(&self, other: &Era) -> bool {
        *self == Era { checkpoint: self.checkpoint, ..other.clone() }
    }

    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut w = Writer::object(MAGIC_ERA, version_of(self.standing.as_ref()));
        w.put(&self.volume.0);
        w.varint(self.era);
        w.seq(self.last_seq);
        w.put(&self.chain);
        put_time(&mut w, self.time, 0)?;
        put_standing(&mut w, self.standing.as_ref(), 0, self.last_seq, self.time)?;
        w.varint(self.epoch);
        match self.checkpoint {
            None => w.u8(0),
            Some(CheckpointRef { seq, hash }) => {
                if seq > self.last_seq {
                    return Err(EncodeError::Limit { field: "checkpoint seq", found: seq.0, limit: self.last_seq.0 });
                }
                w.u8(1);
                w.seq(seq);
                w.put(&hash);
            }
        }
        Ok(w.seal(ERA_CONTEXT))
    }

    /// `era` and `era_len` are what the key and the volume's `format` object say.
    pub fn decode(bytes: &[u8], volume: VolumeId, era: u64, era_len: u64) -> Result<Era, DecodeError> {
        let (version, body) = open(&ERA, bytes)?;
        let mut r = Reader::new(body);
        let volume_found = VolumeId(r.array("era volume")?);
        let era_found = r.varint("era number")?;
        let last = r.seq("last seq")?;
        let chain = r.array("chain hash")?;
        let last_time = time(&mut r, 0)?;
        let found = Era {
            volume: volume_found,
            era: era_found,
            last_seq: last,
            chain,
            time: last_time,
            standing: standing(&mut r, version, 0, last, last_time)?.map(|(standing, _)| standing),
            epoch: r.varint("writer epoch")?,
            checkpoint: match r.u8("checkpoint")? {
                0 => None,
                1 => Some(CheckpointRef { seq: r.seq("checkpoint seq")?, hash: r.array("checkpoint hash")? }),
                found => return Err(DecodeError::Tag { field: "checkpoint", found: u64::from(found) }),
            },
        };
        r.finish("era")?;
        same_volume("era volume", found.volume, volume)?;
        same_number("era number", found.era, era)?;
        same_number("last seq", found.last_seq.0, last_seq(era, era_len).0)?;
        if let Some(CheckpointRef { seq, .. }) = found.checkpoint.filter(|c| c.seq > found.last_seq) {
            return Err(DecodeError::Limit { field: "checkpoint seq", found: seq.0, limit: found.last_seq.0 });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seqs_fall_into_eras_without_gap() {
        for len in [1, 2, 4096] {
            for era in 0..4 {
                assert_eq!(last_seq(era, len) + 1, Seq(era * len + len));
                if last_seq(era, len) > Seq(0) {
                    let place = checkpoint_seq(era, len);
                    assert!(first_seq(era, len) <= place && place <= last_seq(era, len));
                    assert_eq!(era_of(first_seq(era, len), len), era.max(era_of(Seq(1), len)));
                    assert_eq!(era_of(last_seq(era, len), len), era);
                }
                assert_eq!(first_seq(era + 1, len), (last_seq(era, len) + 1).max(Seq(1)));
            }
        }
    }

    #[test]
    fn both_objects_come_back_and_only_in_their_place() {
        let mut volume = VolumeFormat::new(VolumeId([1; 16]), Time { sec: 5, nsec: 6 });
        assert_eq!(VolumeFormat::decode(&volume.encode().unwrap()), Ok(volume.clone()));
        volume.era_len = 0;
        assert!(volume.encode().is_err());
        let time = Time { sec: 5, nsec: 6 };
        let checkpoint = Some(CheckpointRef { seq: Seq(8000), hash: [3; 32] });
        let mut era = Era {
            volume: VolumeId([1; 16]),
            era: 1,
            last_seq: Seq(8191),
            chain: [2; 32],
            time,
            standing: None,
            epoch: 4,
            checkpoint,
        };
        assert_eq!(Era::decode(&era.encode().unwrap(), VolumeId([1; 16]), 1, 4096), Ok(era.clone()));
        era.standing = Some(Standing { wall: Time { sec: -5, nsec: 6 }, steady_since: Seq(8191), baseline: true });
        let bytes = era.encode().unwrap();
        assert_eq!(Era::decode(&bytes, VolumeId([1; 16]), 1, 4096), Ok(era));
        assert!(Era::decode(&bytes, VolumeId([1; 16]), 2, 4096).is_err());
        assert!(Era::decode(&bytes, VolumeId([1; 16]), 1, 4095).is_err());
        assert!(Era::decode(&bytes, VolumeId([2; 16]), 1, 4096).is_err());
    }
}

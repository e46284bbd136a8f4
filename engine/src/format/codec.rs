//! Bounded reader and writer of the few primitive forms that all objects consist of.
//!
//! Numbers are LEB128 varints in their shortest form, little endian where fixed; signed ones are zigzag. The reader never
//! allocates: it lends slices, and checks counts against the bytes left before a caller reserves space.

use super::version::{CHECKSUM_BYTES, FIRST_VERSION, HEAD_BYTES};
use crate::model::{Hash, Seq, VolumeId};
use thiserror::Error;

/// Why bytes cannot be decoded. `field` names the place in the layout as `docs/format.md` does.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error("{field}: needs {needed} bytes, {left} are left")]
    Short { field: &'static str, needed: u64, left: u64 },
    #[error("{field}: {found} is above the limit {limit}")]
    Limit { field: &'static str, found: u64, limit: u64 },
    #[error("{object}: begins with {found:02x?}, expected {expected:02x?}")]
    Magic { object: &'static str, found: [u8; 3], expected: [u8; 3] },
    #[error("{object}: version {found}, this program knows {supported}")]
    Version { object: &'static str, found: u8, supported: u8 },
    #[error("{object}: checksum is {found:02x?}, the bytes give {expected:02x?}")]
    Checksum { object: &'static str, found: Vec<u8>, expected: Vec<u8> },
    #[error("{field}: {found} where {expected} was expected")]
    Number { field: &'static str, found: u64, expected: u64 },
    #[error("{field}: id {found} where {expected} was expected")]
    Identity { field: &'static str, found: VolumeId, expected: VolumeId },
    #[error("{field}: hash {found:02x?} where {expected:02x?} was expected")]
    Hash { field: &'static str, found: Box<Hash>, expected: Box<Hash> },
    #[error("{field}: unknown value {found}")]
    Tag { field: &'static str, found: u64 },
    #[error("{field}: a number that is longer than it need be, or above 64 bits")]
    Varint { field: &'static str },
    #[error("{field}: {left} bytes follow the end")]
    Trailing { field: &'static str, left: u64 },
    #[error("{field}: {found} does not come after {previous}")]
    Order { field: &'static str, previous: u64, found: u64 },
    #[error("{field}: not a name of one directory entry")]
    Name { field: &'static str },
    #[error("{field}: {stored} stored bytes do not decompress to {plain} plain bytes")]
    Decompress { field: &'static str, stored: u64, plain: u64 },
}

/// Why values cannot be encoded: they exceed the format's limits, or contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    #[error("{field}: {found} is above the limit {limit}")]
    Limit { field: &'static str, found: u64, limit: u64 },
    #[error("{field}: {found} where {expected} was expected")]
    Number { field: &'static str, found: u64, expected: u64 },
    #[error("{field}: not a name of one directory entry")]
    Name { field: &'static str },
    #[error("{what}: no restore could make it")]
    Unmakeable { what: &'static str },
    #[error("compression at level {level} failed")]
    Compress { level: i32 },
}

/// Reads primitive forms from a slice, in order.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// Bytes not yet read.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    pub fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(len) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(DecodeError::Short { field, needed: len as u64, left: self.rest.len() as u64 }),
        }
    }

    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(DecodeError::Short { field, needed: N as u64, left: self.rest.len() as u64 }),
        }
    }

    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[b]| b)
    }

    pub fn u24(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array::<3>(field).map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]))
    }

    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub fn varint(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(field)?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit. A last byte of 0 (other than a lone 0) is a longer form than needed.
            if (shift == 63 && byte > 1) || (shift > 0 && byte == 0) {
                return Err(DecodeError::Varint { field });
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint { field })
    }

    pub fn seq(&mut self, field: &'static str) -> Result<Seq, DecodeError> {
        self.varint(field).map(Seq)
    }

    /// A number not above `limit`.
    pub fn bounded(&mut self, field: &'static str, limit: u64) -> Result<u64, DecodeError> {
        let found = self.varint(field)?;
        if found > limit {
            return Err(DecodeError::Limit { field, found, limit });
        }
        Ok(found)
    }

    pub fn u32_varint(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        let found = self.varint(field)?;
        u32::try_from(found).map_err(|_| DecodeError::Limit { field, found, limit: u64::from(u32::MAX) })
    }

    pub fn zigzag(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        let v = self.varint(field)?;
        Ok((v >> 1) as i64 ^ -((v & 1) as i64))
    }

    /// How many items follow: at most `limit`, and at most what the bytes left can hold at `min_bytes` each.
    pub fn count(&mut self, field: &'static str, limit: usize, min_bytes: usize) -> Result<usize, DecodeError> {
        let found = self.bounded(field, limit as u64)?;
        let needed = found.saturating_mul(min_bytes as u64);
        if needed > self.rest.len() as u64 {
            return Err(DecodeError::Short { field, needed, left: self.rest.len() as u64 });
        }
        Ok(found as usize)
    }

    /// A length and that many bytes.
    pub fn bytes(&mut self, field: &'static str, limit: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.bounded(field, limit as u64)? as usize;
        self.take(field, len)
    }

    pub fn finish(self, field: &'static str) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing { field, left: left as u64 }),
        }
    }
}

/// Appends primitive forms to a vector.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// Begins an object: magic and version.
    pub fn object(magic: [u8; 3], version: u8) -> Self {
        let [a, b, c] = magic;
        Writer { out: vec![a, b, c, version] }
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub fn u8(&mut self, v: u8) {
        self.out.push(v);
    }

    pub fn u32(&mut self, v: u32) {
        self.put(&v.to_le_bytes());
    }

    pub fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.out.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.out.push(v as u8);
    }

    pub fn seq(&mut self, seq: Seq) {
        self.varint(seq.0);
    }

    pub fn zigzag(&mut self, v: i64) {
        self.varint(((v << 1) ^ (v >> 63)) as u64);
    }

    pub fn bytes(&mut self, field: &'static str, limit: usize, bytes: &[u8]) -> Result<(), EncodeError> {
        self.count(field, limit, bytes.len())?;
        self.put(bytes);
        Ok(())
    }

    pub fn count(&mut self, field: &'static str, limit: usize, count: usize) -> Result<(), EncodeError> {
        below(field, count, limit)?;
        self.varint(count as u64);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.out.len()
    }

    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Ends an object: appends the checksum over all bytes so far.
    pub fn seal(mut self, context: &str) -> Vec<u8> {
        let sum = checksum(context, &self.out);
        self.put(&sum);
        self.out
    }
}

pub(crate) fn below(field: &'static str, found: usize, limit: usize) -> Result<(), EncodeError> {
    if found > limit {
        return Err(EncodeError::Limit { field, found: found as u64, limit: limit as u64 });
    }
    Ok(())
}

/// Checksum of an object: the first 16 bytes of BLAKE3 in key derivation mode, so that objects of different kinds never
/// share a checksum.
pub fn checksum(context: &str, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(bytes);
    let mut out = [0; CHECKSUM_BYTES];
    hasher.finalize_xof().fill(&mut out);
    out
}

/// What the bytes of one kind of object have in common.
#[derive(Clone, Copy, Debug)]
pub struct ObjectKind {
    pub name: &'static str,
    pub magic: [u8; 3],
    /// Newest version of this kind; all from [`FIRST_VERSION`] on are read.
    pub newest: u8,
    /// BLAKE3 context of the checksum.
    pub context: &'static str,
    /// Most bytes of an object.
    pub limit: usize,
}

/// Checks size, magic, version and checksum of a whole object. Returns the version and the bytes between head and checksum.
pub fn open<'a>(kind: &ObjectKind, bytes: &'a [u8]) -> Result<(u8, &'a [u8]), DecodeError> {
    let ObjectKind { name: object, limit, context, .. } = *kind;
    if bytes.len() > limit {
        return Err(DecodeError::Limit { field: object, found: bytes.len() as u64, limit: limit as u64 });
    }
    let version = head(object, kind.magic, kind.newest, bytes)?;
    let short =
        DecodeError::Short { field: object, needed: (HEAD_BYTES + CHECKSUM_BYTES) as u64, left: bytes.len() as u64 };
    let (rest, found) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(short.clone())?;
    let body = rest.get(HEAD_BYTES..).ok_or(short)?;
    let expected = checksum(context, rest);
    if *found != expected {
        return Err(DecodeError::Checksum { object, found: found.to_vec(), expected: expected.to_vec() });
    }
    Ok((version, body))
}

/// Checks magic and version only. Returns the version.
pub fn head(object: &'static str, magic: [u8; 3], newest: u8, bytes: &[u8]) -> Result<u8, DecodeError> {
    let Some((&[a, b, c, version], _)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Err(DecodeError::Short { field: object, needed: HEAD_BYTES as u64, left: bytes.len() as u64 });
    };
    if [a, b, c] != magic {
        return Err(DecodeError::Magic { object, found: [a, b, c], expected: magic });
    }
    if !(FIRST_VERSION..=newest).contains(&version) {
        return Err(DecodeError::Version { object, found: version, supported: newest });
    }
    Ok(version)
}

pub(crate) fn same_volume(field: &'static str, found: VolumeId, expected: VolumeId) -> Result<(), DecodeError> {
    if found != expected {
        return Err(DecodeError::Identity { field, found, expected });
    }
    Ok(())
}

pub(crate) fn same_number(field: &'static str, found: u64, expected: u64) -> Result<(), DecodeError> {
    if found != expected {
        return Err(DecodeError::Number { field, found, expected });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(v: u64, s: i64) {
            let mut w = Writer::default();
            w.varint(v);
            w.zigzag(s);
            let bytes = w.into_bytes();
            let mut r = Reader::new(&bytes);
            prop_assert_eq!(r.varint("v"), Ok(v));
            prop_assert_eq!(r.zigzag("s"), Ok(s));
            prop_assert_eq!(r.finish("end"), Ok(()));
        }
    }

    #[test]
    fn longer_forms_and_overflow_are_refused() {
        let varint = |bytes: &[u8]| Reader::new(bytes).varint("v");
        assert_eq!(varint(&[0x80, 0]), Err(DecodeError::Varint { field: "v" }));
        assert_eq!(varint(&[0xff; 11]), Err(DecodeError::Varint { field: "v" }));
        let mut max = [0xff; 10];
        max[9] = 1;
        assert_eq!(varint(&max), Ok(u64::MAX));
        max[9] = 2;
        assert_eq!(varint(&max), Err(DecodeError::Varint { field: "v" }));
        assert_eq!(varint(&[0x80]), Err(DecodeError::Short { field: "v", needed: 1, left: 0 }));
    }

    #[test]
    fn a_count_is_held_against_the_bytes_left() {
        let mut w = Writer::default();
        w.varint(1000);
        let bytes = w.into_bytes();
        let mut r = Reader::new(&bytes);
        assert_eq!(r.count("n", 1 << 20, 1), Err(DecodeError::Short { field: "n", needed: 1000, left: 0 }));
        let mut r = Reader::new(&bytes);
        assert_eq!(r.bytes("b", 10), Err(DecodeError::Limit { field: "b", found: 1000, limit: 10 }));
    }
}

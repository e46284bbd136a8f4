//! Signatures: what is kept of a committed image so that new bytes can be matched against it without its bytes.
//!
//! 28 bytes for each 4 KiB block: librsync's rolling sum (4, big endian), MD4 cut to 8, and the first 16 bytes of the
//! block's BLAKE3. The first two make a librsync signature (`rdiff -R rollsum -H md4 -b 4096 -S 8`). The third confirms a
//! match: MD4 proves nothing, and the tree's values depend on the position. They are stored in groups of 512 blocks.
//!
//! This module must not decide what is copied (`delta` does), nor read a file.

use std::collections::{BTreeMap, HashMap};

use fast_rsync::{IndexedSignature, Signature, SignatureOptions};

use crate::block::{self, BLOCK_LEN};
use crate::model::BLOCK_BYTES;

/// Bytes kept of one block.
pub const ENTRY_BYTES: usize = 28;
/// Bytes of an entry that are librsync's: rolling sum and cut MD4.
const WEAK_BYTES: usize = 12;
/// Bytes of MD4 that are kept.
const MD4_BYTES: u32 = 8;
/// Bytes of a librsync signature's head: magic, block length, length of the strong sum.
const HEADER_BYTES: usize = 12;
/// `RS_MD4_SIG_MAGIC`: rolling sum and MD4.
const MAGIC: u32 = 0x7273_0136;
/// Largest block length taken from a foreign signature.
const FOREIGN_BLOCK_MAX: u32 = 1 << 24;

/// What is kept of one block.
pub type Entry = [u8; ENTRY_BYTES];
/// Entry of a hole block. Nothing matches it: written zeros copied from a hole would be restored as a hole.
pub const HOLE_ENTRY: Entry = [0; ENTRY_BYTES];
/// First half of the BLAKE3 of a block's bytes, independent of its position.
pub type Strong = [u8; 16];

/// Reads the signature groups of one file's committed image: 28 bytes for each block of the group.
pub trait Signatures {
    type Error;
    /// The stored group, or `None` if there is none.
    fn get(&self, group: u64) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// Signature changes to store together with a commit: group -> new bytes, `None` = delete if it is there.
pub type SignatureWrites = BTreeMap<u64, Option<Vec<u8>>>;

/// Collected writes can be read as signatures.
impl Signatures for SignatureWrites {
    type Error = std::convert::Infallible;
    fn get(&self, group: u64) -> Result<Option<Vec<u8>>, Self::Error> {
        Ok(BTreeMap::get(self, &group).cloned().flatten())
    }
}

/// Why stored signatures cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the signature has {bytes} bytes where a file of {size} bytes needs {expected}")]
    Length { size: u64, bytes: u64, expected: u64 },
    #[error("not a signature of rolling sums and MD4 (first bytes {magic:#010x})")]
    Magic { magic: u32 },
    #[error("a signature with blocks of {block_len} bytes and sums of {sum_len} is not supported")]
    Parameters { block_len: u32, sum_len: u32 },
    #[error("a file of {size} bytes has too many blocks for a signature")]
    TooLarge { size: u64 },
}

/// The position-free hash of a block's bytes.
pub fn strong(bytes: &[u8]) -> Strong {
    let mut half = [0; 16];
    half.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    half
}

/// Appends the entries of all blocks of `bytes`, the last of which may be short.
pub fn group_signature(bytes: &[u8], out: &mut Vec<u8>) {
    let options = SignatureOptions { block_size: BLOCK_LEN as u32, crypto_hash_size: MD4_BYTES };
    let weak = Signature::calculate(bytes, options);
    let weak = weak.serialized().get(HEADER_BYTES..).unwrap_or_default();
    for (weak, block) in weak.chunks(WEAK_BYTES).zip(bytes.chunks(BLOCK_LEN)) {
        out.extend_from_slice(weak);
        out.extend_from_slice(&strong(block));
    }
}

/// The entry of one block of 1 to 4096 bytes.
#[cfg(test)]
fn block_signature(bytes: &[u8]) -> Entry {
    let mut all = Vec::with_capacity(ENTRY_BYTES);
    group_signature(&bytes[..bytes.len().min(BLOCK_LEN)], &mut all);
    let mut entry = [0; ENTRY_BYTES];
    if let Some(first) = all.get(..ENTRY_BYTES) {
        entry.copy_from_slice(first);
    }
    entry
}

/// The whole signature of one image.
#[derive(Clone, Debug)]
pub struct BaseSignature {
    size: u64,
    block_len: u64,
    librsync: Signature,
    strong: Option<Vec<Strong>>,
}

impl BaseSignature {
    /// Joins the stored groups of an image of `size` bytes, in order.
    pub fn assemble<G: AsRef<[u8]>>(
        size: u64,
        groups: impl IntoIterator<Item = G>,
    ) -> Result<BaseSignature, SignatureError> {
        let blocks = usize::try_from(block::count(size)).map_err(|_| SignatureError::TooLarge { size })?;
        let expected = block::count(size).saturating_mul(ENTRY_BYTES as u64);
        // Reserve no memory for the claimed size: only the groups that exist count.
        let mut weak = header(BLOCK_LEN as u32, MD4_BYTES);
        let mut strongs = Vec::new();
        let mut bytes = 0;
        for group in groups {
            let group = group.as_ref();
            bytes += group.len() as u64;
            let (entries, rest) = group.as_chunks::<ENTRY_BYTES>();
            if !rest.is_empty() || strongs.len() + entries.len() > blocks {
                return Err(SignatureError::Length { size, bytes, expected });
            }
            for entry in entries {
                weak.extend_from_slice(&entry[..WEAK_BYTES]);
                let mut half = Strong::default();
                half.copy_from_slice(&entry[WEAK_BYTES..]);
                strongs.push(half);
            }
        }
        if strongs.len() != blocks {
            return Err(SignatureError::Length { size, bytes, expected });
        }
        let librsync = Signature::deserialize(weak).map_err(|_| SignatureError::Magic { magic: MAGIC })?;
        Ok(BaseSignature { size, block_len: BLOCK_BYTES, librsync, strong: Some(strongs) })
    }

    /// Reads all groups of an image of `size` bytes. `None` if some are missing or damaged: the file then counts as having
    /// no signature.
    pub fn load<S: Signatures>(size: u64, signatures: &S) -> Result<Option<BaseSignature>, S::Error> {
        let mut groups = Vec::new();
        for group in 0..block::groups(size) {
            match signatures.get(group)? {
                Some(bytes) => groups.push(bytes),
                None => return Ok(None),
            }
        }
        Ok(BaseSignature::assemble(size, groups).ok())
    }

    /// Takes a signature made by librsync (`rdiff -R rollsum -H md4 signature`) of a file of `size` bytes.
    ///
    /// It has no hash to confirm matches: a delta made with it is as reliable as MD4.
    pub fn from_librsync(size: u64, signature: Vec<u8>) -> Result<BaseSignature, SignatureError> {
        let word = |at: usize| {
            let bytes = signature.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
            bytes.map_or(0, u32::from_be_bytes)
        };
        let (magic, block_len, sum_len) = (word(0), word(4), word(8));
        if magic != MAGIC {
            return Err(SignatureError::Magic { magic });
        }
        if block_len == 0 || block_len > FOREIGN_BLOCK_MAX || sum_len == 0 || sum_len > 16 {
            return Err(SignatureError::Parameters { block_len, sum_len });
        }
        let bytes = signature.len() as u64;
        let blocks = size.div_ceil(u64::from(block_len));
        let expected = blocks.saturating_mul(u64::from(sum_len) + 4).saturating_add(HEADER_BYTES as u64);
        if bytes != expected {
            return Err(SignatureError::Length { size, bytes, expected });
        }
        let librsync = Signature::deserialize(signature).map_err(|_| SignatureError::Magic { magic })?;
        Ok(BaseSignature { size, block_len: u64::from(block_len), librsync, strong: None })
    }

    /// The signature as librsync writes it: what `rdiff delta` reads.
    pub fn librsync(&self) -> &[u8] {
        self.librsync.serialized()
    }

    /// Builds the index for searching. Costs about 50 bytes per block.
    pub fn index(&self) -> Index<'_> {
        let mut seen = HashMap::new();
        let strong = self.strong.as_deref().unwrap_or_default();
        let first = strong.iter().enumerate().map(|(at, hash)| *seen.entry(hash).or_insert(at)).collect();
        Index {
            first,
            size: self.size,
            block_len: self.block_len,
            sums: self.librsync.index(),
            strong: self.strong.as_deref(),
        }
    }
}

/// A signature that can be searched.
#[derive(Debug)]
pub struct Index<'s> {
    size: u64,
    block_len: u64,
    pub(crate) sums: IndexedSignature<'s>,
    strong: Option<&'s [Strong]>,
    /// For each block the first one that is equal.
    first: Vec<usize>,
}

impl Index<'_> {
    /// Bytes of the image the signature is of.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a block.
    pub fn block_len(&self) -> u64 {
        self.block_len
    }

    /// Whether matches can be confirmed.
    pub(crate) fn confirms(&self) -> bool {
        self.strong.is_some()
    }

    /// Whether the base has, at `from`, a full block with this hash.
    pub(crate) fn has(&self, from: u64, hash: &Strong) -> bool {
        let full = from.is_multiple_of(self.block_len) && self.size.saturating_sub(from) >= self.block_len;
        full && self.strong_at(from) == Some(hash)
    }

    /// Offset of the first block that equals the one at `from`: the best place to copy a run of equal blocks from.
    pub(crate) fn first_equal(&self, from: u64) -> u64 {
        let first = usize::try_from(from / self.block_len).ok().and_then(|at| self.first.get(at));
        first.map_or(from, |first| *first as u64 * self.block_len)
    }

    /// Offset, length and hash of the last block if it is short.
    pub(crate) fn tail(&self) -> Option<(u64, u64, &Strong)> {
        let len = self.size % self.block_len;
        let from = self.size - len;
        (len > 0).then_some(())?;
        Some((from, len, self.strong_at(from)?))
    }

    fn strong_at(&self, from: u64) -> Option<&Strong> {
        self.strong?.get(usize::try_from(from / self.block_len).ok()?)
    }
}

fn header(block_len: u32, sum_len: u32) -> Vec<u8> {
    [MAGIC, block_len, sum_len].iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_group_are_those_of_its_blocks() {
        let bytes: Vec<u8> = (0..3 * BLOCK_LEN + 17).map(|i| (i * i % 251) as u8).collect();
        let mut group = Vec::new();
        group_signature(&bytes, &mut group);
        let single: Vec<u8> = bytes.chunks(BLOCK_LEN).flat_map(block_signature).collect();
        assert_eq!(group, single);
        assert_ne!(block_signature(&[0; BLOCK_LEN]), HOLE_ENTRY);

        let base = BaseSignature::assemble(bytes.len() as u64, [&group[..]]).unwrap();
        let options = SignatureOptions { block_size: 4096, crypto_hash_size: 8 };
        assert_eq!(base.librsync(), Signature::calculate(&bytes, options).serialized());
    }

    #[test]
    fn signatures_that_do_not_fit_are_errors() {
        let group = block_signature(b"x");
        assert!(matches!(BaseSignature::assemble(4097, [group]), Err(SignatureError::Length { bytes: 28, .. })));
        assert!(matches!(BaseSignature::assemble(1, [group, group]), Err(SignatureError::Length { .. })));
        assert!(matches!(BaseSignature::assemble(1, [&group[1..]]), Err(SignatureError::Length { bytes: 27, .. })));
        assert!(matches!(BaseSignature::from_librsync(0, vec![]), Err(SignatureError::Magic { magic: 0 })));
        let odd = header(0, 8);
        assert!(matches!(BaseSignature::from_librsync(0, odd), Err(SignatureError::Parameters { block_len: 0, .. })));
        assert!(matches!(BaseSignature::from_librsync(9, header(4096, 8)), Err(SignatureError::Length { .. })));
        assert!(BaseSignature::load(1, &SignatureWrites::new()).unwrap().is_none());
    }
}

//! Laying what was read of a file later over what was read before.

use crate::model::BLOCK_BYTES;
use crate::source::{FileImage, Part};

/// Replaces in `image` what `newer` has. `newer` was read of the same file, later, and has every block that changed since.
pub(super) fn lay_over(image: &mut FileImage, newer: FileImage) {
    if newer.whole {
        *image = newer;
        return;
    }
    let old = std::mem::take(&mut image.parts);
    let mut parts = Vec::with_capacity(old.len() + newer.parts.len());
    // Both lie in order.
    let mut old = old.into_iter().filter_map(|part| before(part, newer.size));
    let mut next = old.next();
    for part in newer.parts {
        let (start, end) = range(&part);
        while let Some(first) = next.take_if(|old| range(old).0 < end) {
            parts.extend(before(first.clone(), start));
            next = behind(first, end).or_else(|| old.next());
        }
        parts.push(part);
    }
    parts.extend(next);
    parts.extend(old);
    *image = FileImage { parts, whole: image.whole, ..newer };
}

/// First byte and first byte after. The last block of a file ends where its bytes do.
fn range(part: &Part) -> (u64, u64) {
    match part {
        Part::Bytes { offset, bytes } => (*offset, offset + bytes.len() as u64),
        Part::Hole { offset, len } => (*offset, offset + len),
    }
}

/// What of `part` lies before `end`.
fn before(part: Part, end: u64) -> Option<Part> {
    let (first, last) = range(&part);
    if last <= end {
        return Some(part);
    }
    let len = end.checked_sub(first).filter(|len| *len > 0)?;
    Some(match part {
        Part::Bytes { offset, mut bytes } => {
            bytes.truncate(len as usize);
            Part::Bytes { offset, bytes }
        }
        Part::Hole { offset, .. } => Part::Hole { offset, len },
    })
}

/// What of `part` lies at and behind the end of the block that `start` lies in.
fn behind(part: Part, start: u64) -> Option<Part> {
    let start = start.div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
    let (first, last) = range(&part);
    if first >= start {
        return Some(part);
    }
    let len = last.checked_sub(start).filter(|len| *len > 0)?;
    Some(match part {
        Part::Bytes { mut bytes, .. } => {
            Part::Bytes { offset: start, bytes: bytes.split_off((start - first) as usize) }
        }
        Part::Hole { .. } => Part::Hole { offset: start, len },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Ino, InodeId, Kind, Time};
    use crate::source::Stat;
    use crate::xattrs::ReadXattrs;

    const BLOCK: usize = BLOCK_BYTES as usize;

    fn image(size: usize, whole: bool, parts: Vec<Part>) -> FileImage {
        let stat = Stat {
            inode: InodeId { ino: Ino(1), generation: 1 },
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: size as u64,
            nlink: 1,
            mtime: Time::default(),
            ctime: Time::default(),
        };
        FileImage { stat, xattrs: ReadXattrs::default(), size: size as u64, short: false, whole, parts }
    }

    /// `blocks` of `bytes`, in runs as a read gives them.
    fn read(bytes: &[u8], blocks: &[usize], whole: bool) -> FileImage {
        let mut parts: Vec<Part> = Vec::new();
        for block in blocks.iter().copied().filter(|block| block * BLOCK < bytes.len()) {
            let piece = &bytes[block * BLOCK..bytes.len().min((block + 1) * BLOCK)];
            let offset = (block * BLOCK) as u64;
            if piece.iter().all(|byte| *byte == 0) {
                parts.push(Part::Hole { offset, len: piece.len() as u64 });
                continue;
            }
            match parts.last_mut() {
                Some(Part::Bytes { offset: at, bytes }) if *at + bytes.len() as u64 == offset => {
                    *bytes = [&bytes[..], piece].concat().into();
                }
                _ => parts.push(Part::Bytes { offset, bytes: piece.to_vec().into() }),
            }
        }
        image(bytes.len(), whole, parts)
    }

    fn bytes_of(image: &FileImage) -> Vec<u8> {
        let mut out = vec![0xee; image.size as usize];
        let mut last = 0;
        for part in &image.parts {
            let (first, end) = range(part);
            assert!(
                first >= last && end <= image.size,
                "parts lie in order, apart, inside: {first}..{end} after {last}"
            );
            assert_eq!(first % BLOCK_BYTES, 0);
            last = end;
            match part {
                Part::Bytes { bytes, .. } => out[first as usize..end as usize].copy_from_slice(bytes),
                Part::Hole { .. } => out[first as usize..end as usize].fill(0),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn a_whole_image_becomes_the_newer_content(
            old in prop::collection::vec(0u8..3, 1..6 * BLOCK),
            writes in prop::collection::vec((0usize..6, 1u8..5), 0..5),
            size in 0usize..6 * BLOCK,
        ) {
            let mut new = old.clone();
            new.resize(size, 0);
            let mut changed: Vec<usize> = Vec::new();
            for (block, byte) in writes {
                let end = new.len().min((block + 1) * BLOCK);
                if block * BLOCK < end {
                    new[block * BLOCK..end].fill(byte);
                    changed.push(block);
                }
            }
            // Everything from the old end on, and the last block if it was cut.
            changed.extend(old.len().min(new.len()) / BLOCK..new.len().div_ceil(BLOCK));
            changed.sort_unstable();
            changed.dedup();
            let all: Vec<usize> = (0..6).collect();
            let mut image = read(&old, &all, true);
            lay_over(&mut image, read(&new, &changed, false));
            prop_assert_eq!(bytes_of(&image), new);
            prop_assert!(image.whole);
        }

        /// What was not read in either image is not there; of blocks in both, the newer ones are.
        #[test]
        fn a_partial_image_has_the_blocks_of_both(first in 0u8..64, second in 0u8..64, end in 1usize..6 * BLOCK) {
            let chosen = |of: u8| (0..6).filter(move |block| of >> block & 1 != 0).collect::<Vec<usize>>();
            let mut image = read(&[1; 6 * BLOCK], &chosen(first), false);
            lay_over(&mut image, read(&vec![2; end], &chosen(second), false));
            let bytes = bytes_of(&image);
            for (block, bytes) in bytes.chunks(BLOCK).enumerate() {
                let of = if second >> block & 1 != 0 { 2 } else if first >> block & 1 != 0 { 1 } else { 0xee };
                prop_assert!(bytes.iter().all(|byte| *byte == of), "block {block}");
            }
        }
    }
}

//! Reading one file, exactly: STATX S0, CLEAN, BARRIER, READ, in this order (invariant I2).
//!
//! The generation that holds the marks was retired before. So a later change either marks the other generation or is seen
//! by the read. CLEAN is needed because `writeback_dirty_folio` fires only when a page goes from clean to dirty: into a page
//! that stays dirty, a plain `write` is as silent as a store through a mapping. So a file that nobody maps is cleaned too.
//! (`__folio_mark_dirty`, called by `filemap_dirty_folio` and `mark_buffer_dirty` only if the page was clean; 5.10 to 6.18.)
//! Only where other hooks tell of every write, and of the first mapping, is it left out. BARRIER is needed because some hooks
//! mark before the bytes are in the file (punch, clone, tmpfs and XFS writes), under the inode lock.
//!
//! Where a file was given other blocks of the disk, its pages in memory may be older than these. They give way without an
//! event, so READ goes to the disk: CLEAN has written back what is newer in memory, and a later store marks again.

use bytes::Bytes;
use roaring::RoaringBitmap;

use super::steps::Steps;
use crate::model::BLOCK_BYTES;
use crate::source::{Exactly, FileError, FileImage, FileOps, Part, Piece, ReadJob, Stat};
use crate::xattrs::ReadXattrs;

/// Bytes requested in one read.
pub const WINDOW_BYTES: u64 = 1 << 20;

/// How often a file may shrink while it is read before it is left for the next flush.
const SHORT_READS_MAX: u32 = 8;

/// The blocks to read for a job, decided once S0 is known; `None` is the whole file.
fn wanted(job: &ReadJob, size: u64) -> Option<RoaringBitmap> {
    let committed = job.committed_size?;
    if job.marks.all_content() || size.max(committed) > (1 << 32) * BLOCK_BYTES {
        return None;
    }
    let mut blocks = job.marks.blocks_within(size);
    if committed != size {
        // The old last block may have been cut or filled with zeros; the new last block is new or was cut.
        for end in [committed, size] {
            if end > 0 && (end - 1) / BLOCK_BYTES < size.div_ceil(BLOCK_BYTES) {
                blocks.insert(((end - 1) / BLOCK_BYTES) as u32);
            }
        }
    }
    Some(blocks)
}

/// Whether a dirty page may hide a change that set no mark.
fn may_hide(ops: &mut impl FileOps, job: &ReadJob) -> bool {
    // What is read whole is read as the disk will have it.
    let whole = job.committed_size.is_none() || job.marks.all_content() || job.marks.remapped;
    whole || ops.how_marked() != Exactly::Already
}

/// Everything before READ. Returns S0 and the extended attributes.
pub fn prepare(ops: &mut impl FileOps, job: &ReadJob, steps: Steps) -> Result<(Stat, ReadXattrs), FileError> {
    let mut stat = ops.statx()?;
    let xattrs = ops.xattrs()?;
    if job.marks.has_data() || job.committed_size != Some(stat.size) {
        if steps.clean && may_hide(ops, job) {
            ops.clean()?;
        }
        if steps.barrier {
            ops.barrier()?;
            // An appending write marks its pages first and sets the size afterwards (`generic_write_end`, 6.18), both under
            // the lock that BARRIER waited for. S0 may have been taken between the two, and no further mark would follow.
            stat.size = stat.size.max(ops.statx()?.size);
        }
        if steps.uncache && job.marks.remapped {
            ops.uncache()?;
        }
    }
    Ok((stat, xattrs))
}

/// Reads what `job` requests into memory.
pub fn read_file(ops: &mut impl FileOps, job: &ReadJob, steps: Steps) -> Result<FileImage, FileError> {
    let (stat, xattrs) = prepare(ops, job, steps)?;
    read_prepared(ops, job, stat, xattrs, read_range)
}

/// Reads what `job` asks for once more, after a count of changes and a `statx`, `before`: it made the next change set a change time
/// in any case, which is counted (multigrain timestamps, since Linux 6.13: `inode_set_ctime_current`). A writer that has set
/// one already, and holds the inode lock, is waited for. `clean`: also stores through mappings are to fault again.
pub fn read_again(
    ops: &mut impl FileOps,
    job: &ReadJob,
    before: Stat,
    clean: bool,
    steps: Steps,
) -> Result<FileImage, FileError> {
    if clean {
        ops.clean()?;
    }
    if steps.barrier_always {
        ops.barrier()?;
    }
    if steps.uncache && job.marks.remapped {
        ops.uncache()?;
    }
    let xattrs = ops.xattrs()?;
    let now = ops.statx()?;
    read_prepared(ops, job, Stat { size: before.size.max(now.size), ..now }, xattrs, read_few)
}

/// Passes the pieces of a range of a file to its last argument, and returns where the file ended: `end`, or less.
type ReadRange<O> = fn(&mut O, u64, u64, &mut dyn FnMut(Piece<'_>) -> Result<(), FileError>) -> Result<u64, FileError>;

fn read_prepared<O: FileOps>(
    ops: &mut O,
    job: &ReadJob,
    stat: Stat,
    xattrs: ReadXattrs,
    range: ReadRange<O>,
) -> Result<FileImage, FileError> {
    let whole_only = job.committed_size.is_none();
    let mut size = stat.size;
    for times in 0..SHORT_READS_MAX {
        let mut parts = Vec::new();
        let mut push = |piece: Piece<'_>| {
            match piece {
                Piece::Bytes { offset, bytes } => {
                    parts.push(Part::Bytes { offset, bytes: Bytes::copy_from_slice(bytes) })
                }
                Piece::Hole { offset, len } => parts.push(Part::Hole { offset, len }),
            }
            Ok(())
        };
        let blocks = wanted(job, size);
        let end = match &blocks {
            None => range(ops, 0, size, &mut push)?,
            Some(blocks) => read_blocks(ops, blocks, size, &mut push, range)?,
        };
        if end == size {
            let short = size != stat.size;
            let whole = whole_only || blocks.is_none();
            return Ok(FileImage { stat, xattrs, size, short, whole, parts });
        }
        // The file ends earlier than S0 said. The image ends there, and its new last block must be read too.
        size = end;
        if times + 1 == SHORT_READS_MAX {
            break;
        }
    }
    Err(FileError::Unsteady { times: SHORT_READS_MAX })
}

fn read_blocks<O: FileOps>(
    ops: &mut O,
    blocks: &RoaringBitmap,
    size: u64,
    push: &mut dyn FnMut(Piece<'_>) -> Result<(), FileError>,
    range: ReadRange<O>,
) -> Result<u64, FileError> {
    let mut run: Option<(u64, u64)> = None;
    for block in blocks.iter().map(u64::from).chain([u64::MAX]) {
        match run {
            Some((first, next)) if next == block => run = Some((first, next + 1)),
            _ => {
                if let Some((first, next)) = run {
                    let end = (next * BLOCK_BYTES).min(size);
                    let got = range(ops, first * BLOCK_BYTES, end, push)?;
                    if got < end {
                        return Ok(got);
                    }
                }
                run = Some((block, block.wrapping_add(1)));
            }
        }
    }
    Ok(size)
}

/// As `read_range`, in fewer calls where all blocks of a short range have something in them: then none is a hole.
fn read_few(
    ops: &mut impl FileOps,
    start: u64,
    end: u64,
    push: &mut dyn FnMut(Piece<'_>) -> Result<(), FileError>,
) -> Result<u64, FileError> {
    const SHORT: u64 = 16 * BLOCK_BYTES;
    if end.saturating_sub(start) <= SHORT {
        let mut buffer = vec![0u8; end.saturating_sub(start) as usize];
        let got = ops.read(start, &mut buffer)?;
        let is_data = |block: &[u8]| block.iter().any(|byte| *byte != 0);
        if got == buffer.len() && got > 0 && buffer.chunks(BLOCK_BYTES as usize).all(is_data) {
            push(Piece::Bytes { offset: start, bytes: &buffer })?;
            return Ok(end);
        }
    }
    read_range(ops, start, end, push)
}

/// Passes `start..end` to `push`, data in windows and holes as holes, both at block boundaries. Returns where the file
/// ended: `end`, or less.
pub fn read_range(
    ops: &mut impl FileOps,
    start: u64,
    end: u64,
    push: &mut dyn FnMut(Piece<'_>) -> Result<(), FileError>,
) -> Result<u64, FileError> {
    let mut buffer = vec![0u8; WINDOW_BYTES.min(end.saturating_sub(start)) as usize];
    let mut at = start;
    // A block with any data in it is read whole; a block is either all data or all hole.
    let whole = |(data, data_end): (u64, u64)| {
        (data / BLOCK_BYTES * BLOCK_BYTES, data_end.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES).min(end))
    };
    // After the last data there is a hole up to the end, which need not be at a block boundary.
    for (data, data_end) in ops.data_ranges(start, end)?.into_iter().map(whole).chain([(end, end)]) {
        let data = data.max(at);
        if data > at {
            // No data up to the end: either a hole, or the file was truncated meanwhile. A read tells which.
            if data == end && ops.read(end - 1, &mut [0])? == 0 {
                return Ok(at);
            }
            push(Piece::Hole { offset: at, len: data - at })?;
            at = data;
        }
        while at < data_end {
            let want = WINDOW_BYTES.min(data_end - at) as usize;
            let got = ops.read(at, &mut buffer[..want])?;
            if got > 0 {
                push(Piece::Bytes { offset: at, bytes: &buffer[..got] })?;
            }
            at += got as u64;
            if got < want {
                return Ok(at);
            }
        }
    }
    Ok(at.max(end))
}

#[cfg(test)]
mod tests;

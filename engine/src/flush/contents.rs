//! Reads the files of a flush: small ones in parallel, large ones in a stream.

use std::collections::HashSet;

use super::builder::Builder;
use super::content::{add_image, stream_file};
use super::jobs::Jobs;
use super::running::Flush;
use super::world::World;
use crate::model::FileId;
use crate::source::{FileError, ReadJob};

/// Files whose images are held in memory together.
const SMALL_JOBS_AT_ONCE: usize = 32;

/// Reads all `jobs` into `builder`. A known file that cannot be read keeps its marks; a new one is added to `excluded`.
pub(super) fn read_all<W: World>(
    flush: &mut Flush<'_, W>,
    jobs: &Jobs,
    builder: &mut Builder,
    excluded: &mut HashSet<FileId>,
) -> Result<(), W::Error> {
    let (large, small): (Vec<&ReadJob>, Vec<&ReadJob>) = jobs
        .reads
        .iter()
        .partition(|job| jobs.sizes.get(&job.id).copied().unwrap_or(0) > flush.facts.limits.stream_bytes);
    // Read small files in groups, so that memory is bounded by the stream size times the group size.
    let small: Vec<ReadJob> = small.into_iter().cloned().collect();
    for piece in small.chunks(SMALL_JOBS_AT_ONCE) {
        let images = flush.world.read_files(piece, flush.facts.steps);
        for (job, image) in piece.iter().zip(images) {
            let read = match image {
                Ok(image) => {
                    let (base, short) = (jobs.bases.get(&job.id).copied(), image.short);
                    let added = add_image(builder, flush, job, image, base)?;
                    added.and(if short { Err(FileError::Unsteady { times: 1 }) } else { Ok(()) })
                }
                Err(error) => Err(error),
            };
            if let Err(error) = read {
                failed(flush, job, error, excluded);
            }
        }
    }
    for job in large {
        let base = jobs.bases.get(&job.id).copied();
        if let Err(error) = stream_file(builder, flush, job, base)? {
            failed(flush, job, error, excluded);
        }
    }
    Ok(())
}

fn failed<W>(flush: &mut Flush<'_, W>, job: &ReadJob, error: FileError, excluded: &mut HashSet<FileId>) {
    if job.committed_size.is_some() {
        // An inode without taken marks was found by comparison: keep the marks of its job.
        flush.keep_taken_or(job.inode.ino, &job.marks);
        flush.report.failed(job.id, job.inode.ino, error);
    } else {
        excluded.insert(job.id);
        flush.report.errors.push((job.id, error));
    }
}

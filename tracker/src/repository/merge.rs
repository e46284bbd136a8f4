//! `--merge`: finds files of an existing tree that are already as in the volume, so that they are not fetched again.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::model::Root;
use engine::plan::PlanFile;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::repository::fetch::root_of;
use crate::repository::parallel;
use crate::repository::reader::THREADS;
use crate::target::Target;

/// Bytes hashed at a time.
const PIECE: usize = 256 * 1024;

pub(crate) fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Indexes of the files that exist already, with equal content under all their names and no other name. With `write` their
/// attributes are set, on the descriptor that was compared.
///
/// A file that cannot be read, or whose attributes cannot be set, counts as different. So does a file with a name outside
/// the volume: setting its attributes would change that other name's file too, perhaps outside the target.
pub(crate) fn kept(
    target: &Target,
    files: &[PlanFile],
    write: bool,
    stop: Option<&'static AtomicBool>,
) -> HashSet<u32> {
    let numbered: Vec<(u32, &PlanFile)> = (0u32..).zip(files).filter(|(_, file)| file.root.is_some()).collect();
    let same = parallel::map(THREADS, &numbered, |(_, file)| {
        let stopped = stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        let (Some(root), false) = (file.root, stopped) else { return false };
        let names: Vec<&Path> = file.paths.iter().map(|bytes| path(bytes)).collect();
        let equal = |opened: &File| hash(opened, file.size, root).is_ok_and(|found| found == root);
        target.keep(&names, file.size, &file.meta, write, equal).unwrap_or(false)
    });
    numbered.iter().zip(same).filter(|(_, same)| *same).map(|((n, _), _)| *n).collect()
}

/// The root of an open file, of the same kind as `like`. Does not read holes.
fn hash(file: &File, size: u64, like: Root) -> Result<Root, Errno> {
    let mut data = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            // No data up to the end.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.clamp(start, size);
        if end == start {
            break;
        }
        data.push(start..end);
        at = end;
    }
    let mut buffer = vec![0; PIECE];
    root_of(like.kind(), size, &data, |range, hasher| {
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).unwrap_or(PIECE).min(PIECE);
            let part = buffer.get_mut(..len).unwrap_or_default();
            file.read_exact_at(part, at).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            hasher.bytes(part);
            at += len as u64;
        }
        Ok(())
    })
}

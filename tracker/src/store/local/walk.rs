//! Walks the local store's directory, for listings and for removing what crashed writers left.
//!
//! Does not follow symbolic links. One folder is open at a time, whatever the depth.

use std::collections::BinaryHeap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::super::key::{MAX_KEY_BYTES, TEMP_PREFIX};
use super::super::{Entry, Page};

/// Entries in one page. Every page is a separate walk, so pages are large; memory is the limit (about 5 MB).
const PAGE: usize = 50_000;
/// Older temporary files belong to no living writer.
const TEMP_AGE: Duration = Duration::from_secs(24 * 3600);
/// The cleanup at the start must not delay a daemon with a huge store; what it does not reach stays.
const SWEEP_ENTRIES: usize = 100_000;

/// Calls `found` for each regular file (its path below the root) in every folder that `enter` accepts, until `found`
/// returns false. Skips entries that vanish meanwhile, and names that are not UTF-8.
fn walk(
    root: BorrowedFd<'_>,
    enter: &dyn Fn(&str) -> bool,
    found: &mut dyn FnMut(String) -> bool,
) -> Result<(), Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let path = if folder.is_empty() { "." } else { folder.trim_end_matches('/') };
        let fd = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !folder.is_empty() => continue,
            Err(e) => return Err(e),
        };
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") || folder.len() + name.len() > MAX_KEY_BYTES {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(_) => continue,
                },
                kind => kind,
            };
            match kind {
                FileType::Directory => {
                    let below = format!("{folder}{name}/");
                    if enter(&below) {
                        folders.push(below);
                    }
                }
                FileType::RegularFile if !found(format!("{folder}{name}")) => return Ok(()),
                _ => {}
            }
        }
    }
    Ok(())
}

fn is_temp(key: &str) -> bool {
    key.rsplit('/').next().is_some_and(|name| name.starts_with(TEMP_PREFIX))
}

/// One page of a listing: the smallest keys above `after`.
pub(super) fn page(root: BorrowedFd<'_>, prefix: &str, after: Option<&str>) -> Result<Page, Errno> {
    let after = after.unwrap_or("");
    let enter = |folder: &str| {
        // All keys of a folder begin with its name: they are on one side of `after`, unless `after` begins with it too.
        (folder.starts_with(prefix) || prefix.starts_with(folder)) && (folder > after || after.starts_with(folder))
    };
    let mut smallest: BinaryHeap<String> = BinaryHeap::new();
    let mut more = false;
    walk(root, &enter, &mut |key| {
        if key.starts_with(prefix) && key.as_str() > after && !is_temp(&key) {
            smallest.push(key);
            if smallest.len() > PAGE {
                smallest.pop();
                more = true;
            }
        }
        true
    })?;
    let mut entries = Vec::with_capacity(smallest.len());
    for key in smallest.into_sorted_vec() {
        // Deleted since: a listing may leave it out.
        if let Ok(stat) = rustix::fs::statat(root, &key, AtFlags::SYMLINK_NOFOLLOW) {
            entries.push(Entry { key, bytes: stat.st_size as u64 });
        }
    }
    Ok(Page { entries, more })
}

/// Removes old temporary files, as far as possible: in a read-only store nothing is removed.
pub(super) fn sweep_temps(root: impl AsFd) {
    let root = root.as_fd();
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else { return };
    let mut seen = 0;
    let outcome = walk(root, &|_| true, &mut |key| {
        if is_temp(&key)
            && let Ok(stat) = rustix::fs::statat(root, &key, AtFlags::SYMLINK_NOFOLLOW)
            && now.as_secs().saturating_sub(stat.st_mtime as u64) > TEMP_AGE.as_secs()
            && let Err(e) = rustix::fs::unlinkat(root, &key, AtFlags::empty())
        {
            tracing::debug!(%key, error = %e, "old temporary file stays");
        }
        seen += 1;
        seen < SWEEP_ENTRIES
    });
    if let Err(e) = outcome {
        tracing::debug!(error = %e, "sweep of temporary files ended early");
    }
}

//! Watch capacity: how large the kernel's watch set is made. It is fixed when capture starts fresh, from the number of
//! files.

use std::path::{Path, PathBuf};

use common::limits::{WATCH_ENTRIES, WATCH_ENTRIES_MAX};

use crate::catalog::Catalog;
use crate::config::{CaptureMode, Config, VolumeConfig};
use crate::source::SourceRoot;
use engine::model::Kind;

/// Watch capacity for all volumes that may be captured: as last time while that is enough, since maps of another size are
/// new ones, after which everything is compared.
pub(crate) fn watch_entries(config: &Config, state: &Path) -> u32 {
    let captured = config.volumes.iter().filter(|volume| volume.options.capture != CaptureMode::SCAN);
    let files = captured.map(|volume| files_of(volume, state)).sum();
    let path = state.join("watch-entries");
    let last = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    let entries = sized(last, files);
    if last != Some(entries)
        && let Err(error) = std::fs::write(&path, format!("{entries}\n"))
    {
        tracing::warn!(path = %path.display(), %error, "the size of the watch set is not kept: the next start may compare everything");
    }
    entries
}

/// Keeps `last` while all files fit into it.
fn sized(last: Option<u32>, files: u64) -> u32 {
    let last = last.filter(|last| (WATCH_ENTRIES..=WATCH_ENTRIES_MAX).contains(last));
    last.filter(|last| files <= u64::from(*last) || *last == WATCH_ENTRIES_MAX).unwrap_or(entries_for(files))
}

/// A quarter more than there are files, within bounds. If more files come later, the whole file system is marked, which
/// `status` shows.
fn entries_for(files: u64) -> u32 {
    let wanted = u32::try_from(files.saturating_add(files / 4)).unwrap_or(u32::MAX);
    wanted.clamp(WATCH_ENTRIES, WATCH_ENTRIES_MAX)
}

/// Files of a volume: those in its catalog, or those in the tree before there is a catalog.
fn files_of(volume: &VolumeConfig, state: &Path) -> u64 {
    let location = Catalog::location(state, &volume.name);
    let known = Catalog::open(&location).and_then(|catalog| catalog.counts()).map_or(0, |counts| counts.files);
    if known > 0 {
        return known;
    }
    SourceRoot::open(&volume.source).map_or(0, |root| count(&root, u64::from(WATCH_ENTRIES_MAX)))
}

/// Names in the tree, up to about `limit`; directories that cannot be listed count as empty.
fn count(root: &SourceRoot, limit: u64) -> u64 {
    let (mut found, mut waiting) = (0, vec![PathBuf::new()]);
    while let Some(path) = waiting.pop() {
        if found >= limit {
            break;
        }
        let Ok(entries) = root.list(&path) else { continue };
        found += entries.len() as u64;
        let directories = entries.into_iter().filter(|entry| entry.kind == Some(Kind::Dir));
        waiting.extend(directories.map(|entry| {
            use std::os::unix::ffi::OsStrExt;
            path.join(std::ffi::OsStr::from_bytes(&entry.name))
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_a_quarter_more_within_bounds() {
        assert_eq!(entries_for(0), WATCH_ENTRIES);
        assert_eq!(entries_for(1_000_000), 1_250_000);
        assert_eq!(entries_for(u64::MAX), WATCH_ENTRIES_MAX);
    }

    #[test]
    fn the_size_stays_while_it_is_enough() {
        assert_eq!(sized(None, 1_000_000), 1_250_000);
        for files in [0, 1_000_000, 1_250_000] {
            assert_eq!(sized(Some(1_250_000), files), 1_250_000);
        }
        assert_eq!(sized(Some(1_250_000), 1_250_001), 1_562_501);
        assert_eq!(sized(Some(WATCH_ENTRIES_MAX), u64::MAX), WATCH_ENTRIES_MAX);
        for nonsense in [0, 7, u32::MAX] {
            assert_eq!(sized(Some(nonsense), 5), WATCH_ENTRIES);
        }
    }

    #[test]
    fn names_in_a_tree_are_counted_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        for at in 0..5 {
            std::fs::create_dir_all(dir.path().join(format!("a{at}/b"))).unwrap();
            std::fs::write(dir.path().join(format!("a{at}/b/c")), "x").unwrap();
        }
        let root = SourceRoot::open(dir.path()).unwrap();
        assert_eq!(count(&root, 1000), 15);
        assert!(count(&root, 4) < 15);
    }
}

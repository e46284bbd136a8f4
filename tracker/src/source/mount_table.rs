//! Which mounts are inside the source, as this process sees them, and whether that has changed. Mounting changes no inode,
//! so it makes no mark.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::sys;
use crate::mountinfo::{MOUNTINFO, inside};

/// The kernel's mount table, held open: the kernel signals changes on the descriptor.
#[derive(Debug)]
pub struct MountTable {
    file: File,
    source: PathBuf,
    /// Mount points, relative to the source.
    inside: BTreeSet<PathBuf>,
    read: bool,
}

impl MountTable {
    /// Opens the table for mounts below `source`, an absolute path without symlinks.
    ///
    /// # Errors
    /// When there is no table, for instance without `/proc`.
    pub fn open(source: &Path) -> io::Result<MountTable> {
        let file = File::open(MOUNTINFO)?;
        Ok(MountTable { file, source: source.to_path_buf(), inside: BTreeSet::new(), read: false })
    }

    /// Mount points that came or went since the last call, relative to the source; at the first call all of them. One
    /// system call if nothing was mounted or unmounted anywhere.
    ///
    /// # Errors
    /// When the table cannot be read; the next call tries again.
    pub fn changes(&mut self) -> io::Result<Vec<PathBuf>> {
        // Check before reading: the next call then finds a change in between.
        if !sys::has_changed(&self.file)? && self.read {
            return Ok(Vec::new());
        }
        self.read = false;
        let mut text = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut text)?;
        let now = inside(&text, &self.source);
        self.read = true;
        let changes = self.inside.symmetric_difference(&now).cloned().collect();
        self.inside = now;
        Ok(changes)
    }

    /// Called when the last result of `changes` could not be saved: the next call returns it again.
    pub fn again(&mut self, changes: &[PathBuf]) {
        for point in changes {
            if !self.inside.remove(point) {
                self.inside.insert(point.clone());
            }
        }
        self.read = false;
    }

    /// Whether nothing is mounted inside the source.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inside.is_empty()
    }

    /// Whether `path`, relative to the source, is a mount point or below one.
    #[must_use]
    pub fn covers(&self, path: &Path) -> bool {
        path.ancestors().any(|at| self.inside.contains(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_once_and_then_when_it_changes() {
        let mut table = MountTable::open(Path::new("/")).unwrap();
        let first = table.changes().unwrap();
        assert!(first.iter().any(|point| point.starts_with("proc")), "{first:?}");
        assert!(table.covers(Path::new("proc/self/status")) && table.covers(Path::new("proc")));
        assert!(!table.covers(Path::new("process")) && !table.covers(Path::new("")));
        table.inside.insert("not/mounted".into());
        table.read = false;
        let again = table.changes().unwrap();
        assert!(again.contains(&PathBuf::from("not/mounted")), "one that went is told as well: {again:?}");
        table.again(&again);
        assert_eq!(table.changes().unwrap(), again, "told again");
    }
}

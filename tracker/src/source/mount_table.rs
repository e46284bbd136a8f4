//! Which mounts lie inside the source, as this process sees them, and whether that has changed. Mounting changes no inode, so
//! no mark tells of it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::sys;
use crate::mountinfo::{MOUNTINFO, inside};

/// The kernel's table of mounts, held open: it says by itself when it has changed.
#[derive(Debug)]
pub struct MountTable {
    file: File,
    source: PathBuf,
    /// Mount points, relative to the source.
    inside: BTreeSet<PathBuf>,
    read: bool,
}

impl MountTable {
    /// Of the mounts below `source`, an absolute path without symlinks.
    ///
    /// # Errors
    /// When there is no table, as without `/proc`.
    pub fn open(source: &Path) -> io::Result<MountTable> {
        let file = File::open(MOUNTINFO)?;
        Ok(MountTable { file, source: source.to_path_buf(), inside: BTreeSet::new(), read: false })
    }

    /// Mount points that came or went since the last call, relative to the source; at the first call all there are. One
    /// system call where nothing was mounted or unmounted anywhere.
    ///
    /// # Errors
    /// When the table cannot be read; the next call tries again.
    pub fn changes(&mut self) -> io::Result<Vec<PathBuf>> {
        // Asked before it is read: a change in between is found by the next call.
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

    /// What the last call of `changes` told could not be noted: the next one tells it again.
    pub fn again(&mut self, changes: &[PathBuf]) {
        for point in changes {
            if !self.inside.remove(point) {
                self.inside.insert(point.clone());
            }
        }
        self.read = false;
    }

    /// Whether nothing is mounted inside of the source.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inside.is_empty()
    }

    /// Whether `path`, relative to the source, is a mount point or lies below one.
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

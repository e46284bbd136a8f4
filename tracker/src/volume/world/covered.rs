//! Mounts inside the tree. A mounted file system is not part of the volume. The files that it covers still are, and stay as
//! committed: nobody can see them here, so nobody can say that they are gone.

use std::collections::BTreeSet;
use std::path::Path;

use engine::dirty::{DirtySet, Marks};
use engine::model::{FileId, Ino, Kind};
use engine::source::Stat;

use super::error::WorldError;
use super::parts::VolumeWorld;
use crate::source::Foreign;
use crate::volume::clock::now_ns;

/// Name of the note with the inodes of directories that hold names of other file systems, so that a process that lists
/// nothing (a restart that trusts its marks) knows them too.
const FOREIGN_IN: &str = "foreign in";
/// Most directories in that note; further ones are found when they are listed next.
const FOREIGN_IN_MAX: usize = 1000;

impl VolumeWorld {
    /// Marks the directories in which something was mounted or unmounted since the last call, and makes uncovered files
    /// wait for the flush.
    pub fn note_mounts(&mut self) -> Result<(), WorldError> {
        let Some(table) = &mut self.mounts else { return Ok(()) };
        let changes = match table.changes() {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(%error, "the table of mounts cannot be read");
                return Ok(());
            }
        };
        if changes.is_empty() {
            return Ok(());
        }
        let parents: BTreeSet<&Path> = changes.iter().filter_map(|point| point.parent()).collect();
        let mut marks = Vec::new();
        for parent in parents {
            // A directory that is covered itself is listed when its own cover goes.
            if let Ok(found) = self.root.stat(parent) {
                marks.push((found.stat.inode.ino, Marks::names()));
            }
        }
        self.foreign.retain(|path, why| *why != Foreign::MountPoint || !changes.contains(path));
        self.pending.uncover();
        let added = self.pending.add(&marks, now_ns());
        if let (Err(_), Some(table)) = (&added, &mut self.mounts) {
            table.again(&changes);
        }
        Ok(added?)
    }

    /// Takes marks of files under mounts out of `kept`: reading those files again before the unmount would fail again.
    pub fn take_covered(&self, kept: &mut DirtySet) -> Result<DirtySet, WorldError> {
        let mut covered = DirtySet::default();
        let Some(table) = self.mounts.as_ref().filter(|table| !table.is_empty()) else { return Ok(covered) };
        for (ino, waiting) in kept.iter() {
            let files = self.catalog.by_ino(ino)?;
            let mut out_of_sight = !files.is_empty();
            for file in files {
                out_of_sight &= self.catalog.path_of(file.id)?.is_some_and(|path| table.covers(&path));
            }
            if out_of_sight {
                covered.add(ino, &waiting.marks, waiting.since_ns);
            }
        }
        for (ino, _) in covered.iter() {
            kept.remove(ino);
        }
        Ok(covered)
    }

    /// The committed file at a name on which something is mounted; `None` if there is none.
    pub(crate) fn covered(&self, dir: FileId, name: &[u8]) -> Result<Option<Stat>, WorldError> {
        let Some(row) = self.catalog.child(dir, name)?.map(|id| self.catalog.file(id)).transpose()?.flatten() else {
            return Ok(None);
        };
        let meta = row.meta;
        Ok(Some(Stat {
            inode: row.inode,
            kind: meta.kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            rdev: meta.rdev,
            size: row.size,
            // Its link count cannot be seen while it is covered. Two, so that no other name of it is taken for a move.
            nlink: if meta.kind == Kind::Dir { 1 } else { 2 },
            mtime: meta.mtime,
            ctime: row.ctime.unwrap_or_default(),
        }))
    }

    /// Marks the directories that held names of other file systems when the note was last written.
    pub fn recall_foreign(&self) -> Result<(), WorldError> {
        let text = self.catalog.note(FOREIGN_IN)?.unwrap_or_default();
        let marks: Vec<(Ino, Marks)> =
            text.split(',').filter_map(|ino| ino.parse().ok()).map(|ino: Ino| (ino, Marks::names())).collect();
        Ok(self.pending.add(&marks, now_ns())?)
    }

    /// Writes the note of directories that hold names of other file systems, if it has changed.
    pub fn remember_foreign(&mut self) -> Result<(), WorldError> {
        let parents: BTreeSet<&Path> = self.foreign.keys().filter_map(|path| path.parent()).collect();
        if self
            .foreign_noted
            .as_ref()
            .is_some_and(|noted| parents.iter().copied().eq(noted.iter().map(|p| p.as_path())))
        {
            return Ok(());
        }
        let found = parents.iter().take(FOREIGN_IN_MAX).filter_map(|path| self.root.stat(path).ok());
        let text: Vec<String> = found.map(|found| found.stat.inode.ino.to_string()).collect();
        self.catalog.set_note(FOREIGN_IN, &text.join(","))?;
        self.foreign_noted = Some(parents.into_iter().map(Path::to_path_buf).collect());
        Ok(())
    }
}

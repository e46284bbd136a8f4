//! Names that come and go: links, removals, and symlinks that are replaced by a rename.

use super::files::{FILES_MAX, Files};
use super::world::SimWorld;
use crate::model::{FileId, InodeId, Kind};
use crate::source::{Attributes, FileError};
use crate::xattrs::ReadXattrs;

impl Files {
    /// `ln -sfn`: a new symlink takes the name of the one before by a rename.
    pub(super) fn relink(&mut self) {
        let Some(dir) = self.pick(Kind::Dir).filter(|_| self.inodes.len() < FILES_MAX + 2) else { return };
        let name = vec![b's' + self.rng.below(2) as u8];
        let old = self.entry(dir, &name);
        if old.is_some_and(|old| self.inodes.get(&old).is_some_and(|inode| inode.kind != Kind::Symlink)) {
            return;
        }
        let ino = self.new_inode(Kind::Symlink);
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.target = format!("to {}", self.clock).into_bytes();
        }
        match old {
            Some(old) => {
                self.replace(dir, &name, ino);
                self.drop_link(old);
            }
            None => self.insert(dir, name, ino),
        }
        self.meta_changed(ino);
        self.names_changed(dir);
    }

    pub(super) fn unlink(&mut self) {
        let Some((dir, at)) = self.pick_entry(None) else { return };
        let Some((name, ino)) = self.inodes.get(&dir).and_then(|inode| inode.entries.get(at)).cloned() else { return };
        if self.inodes.get(&ino).is_some_and(|inode| !inode.entries.is_empty()) {
            return;
        }
        self.remove(dir, &name);
        self.drop_link(ino);
        self.names_changed(dir);
    }

    pub(super) fn link(&mut self) {
        let Some((from, at)) = self.pick_entry(Some(Kind::File)) else { return };
        let Some(dir) = self.pick(Kind::Dir) else { return };
        let Some((_, ino)) = self.inodes.get(&from).and_then(|inode| inode.entries.get(at)).cloned() else { return };
        let name = vec![b'a' + self.rng.below(6) as u8];
        if self.entry(dir, &name).is_none() {
            self.insert(dir, name, ino);
            if let Some(inode) = self.inodes.get_mut(&ino) {
                inode.nlink += 1;
            }
            self.meta_changed(ino);
            self.names_changed(dir);
        }
    }
}

impl SimWorld {
    /// Attributes by name, which may lead to another file by now.
    pub(super) fn attributes_now(&mut self, id: FileId, inode: InodeId) -> Result<Attributes, FileError> {
        self.step().map_err(|_| FileError::Moved)?;
        let ino = self.resolve(id).ok_or(FileError::Moved)?;
        let mut inner = self.inner.borrow_mut();
        let stat = inner.looked_at(ino).filter(|stat| stat.inode == inode).ok_or(FileError::Moved)?;
        let target = inner.files.inodes.get(&ino).map_or(Vec::new(), |inode| inode.target.clone());
        Ok(Attributes { stat, target, xattrs: ReadXattrs::default() })
    }
}

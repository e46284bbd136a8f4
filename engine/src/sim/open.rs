//! What changes while the daemon works, and `FileOps` over an open file of it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::files::Files;
use crate::model::Ino;
use crate::source::{Exactly, FileError, FileOps, Stat};
use crate::xattrs::ReadXattrs;

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) files: Files,
    /// Calls until the daemon dies; `None`: it does not.
    pub(super) dies_in: Option<u64>,
    pub(super) dead: bool,
    pub(super) quiet: bool,
    /// Inodes that cannot be opened for reading, as on a bad disk.
    pub(super) unreadable: BTreeSet<Ino>,
    /// How often the catalog was asked about an inode.
    pub(super) asked: u64,
    /// Applications move once in so many calls; 0: up to twice at each.
    pub(super) calm: u64,
    /// .. and do what is seen least.
    pub(super) unseen: bool,
    /// .. in every flush.
    pub(super) only_unseen: bool,
    /// Steps that applications still make until a pause has reached them; `None`: they are not paused.
    pub(super) paused: Option<u64>,
    /// `statx` arms nothing, as before Linux 6.13.
    pub(super) unarmed: bool,
    /// Only files that can be stored to through a mapping are cleaned.
    pub(super) cleans_only_mapped: bool,
}

impl Inner {
    /// Makes one inode in three unreadable, until the next call.
    pub(super) fn some_unreadable(&mut self) {
        let files = &mut self.files;
        self.unreadable = files.inodes.keys().copied().filter(|_| files.rng.one_in(3)).collect();
    }

    /// `statx`.
    pub(super) fn looked_at(&mut self, ino: Ino) -> Option<Stat> {
        let stat = self.files.stat(ino)?;
        if !self.unarmed {
            self.files.arm(ino);
        }
        Some(stat)
    }

    /// A pause reaches applications late, and what they have begun in the kernel goes on during it.
    fn application_step(&mut self) {
        match &mut self.paused {
            Some(0) => return self.files.go_on_with_any(),
            Some(left) => *left -= 1,
            None => {}
        }
        if self.unseen { self.files.unseen_step() } else { self.files.step() }
    }

    /// Time passes; false when the daemon is dead.
    pub(super) fn step(&mut self) -> bool {
        if self.quiet || (self.calm > 0 && !self.files.rng.one_in(self.calm)) {
            // Nobody moves.
        } else {
            for _ in 0..self.files.rng.below(3) {
                self.application_step();
            }
        }
        match &mut self.dies_in {
            Some(0) => self.dead = true,
            Some(left) => *left -= 1,
            None => {}
        }
        !self.dead
    }
}

/// An open file: the inode, whatever happens to its name.
pub(super) struct SimFile {
    pub(super) inner: Rc<RefCell<Inner>>,
    pub(super) ino: Ino,
    /// Whether it is read past the pages in memory.
    pub(super) direct: bool,
}

impl SimFile {
    fn step(&mut self) -> Result<(), FileError> {
        if self.inner.borrow_mut().step() { Ok(()) } else { Err(FileError::Late) }
    }
}

impl FileOps for SimFile {
    fn statx(&mut self) -> Result<Stat, FileError> {
        self.step()?;
        self.inner.borrow_mut().looked_at(self.ino).ok_or(FileError::Moved)
    }

    fn xattrs(&mut self) -> Result<ReadXattrs, FileError> {
        Ok(ReadXattrs::default())
    }

    fn how_marked(&mut self) -> Exactly {
        self.inner.borrow_mut().files.how_marked(self.ino)
    }

    fn clean(&mut self) -> Result<(), FileError> {
        self.step()?;
        let mut inner = self.inner.borrow_mut();
        let mapped = inner.files.inodes.get(&self.ino).is_some_and(|inode| inode.mapped);
        if mapped || !inner.cleans_only_mapped {
            inner.files.clean(self.ino);
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), FileError> {
        self.step()?;
        self.inner.borrow_mut().files.barrier(self.ino);
        Ok(())
    }

    fn uncache(&mut self) -> Result<(), FileError> {
        self.step()?;
        self.inner.borrow_mut().files.drop_pages(self.ino);
        self.direct = true;
        Ok(())
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, FileError> {
        self.step()?;
        let inner = self.inner.borrow();
        let Some(inode) = inner.files.inodes.get(&self.ino) else { return Err(FileError::Moved) };
        let data = if self.direct { inode.data.clone() } else { inode.cached() };
        let rest = data.get(offset as usize..).unwrap_or(&[]);
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn data_ranges(&mut self, start: u64, end: u64) -> Result<Vec<(u64, u64)>, FileError> {
        let inner = self.inner.borrow();
        let Some(inode) = inner.files.inodes.get(&self.ino) else { return Err(FileError::Moved) };
        let block = crate::model::BLOCK_BYTES;
        let end = end.min(inode.data.len() as u64);
        Ok((start / block..end.div_ceil(block))
            .filter(|b| !inode.holes.contains(b) || (!self.direct && inode.stale.contains_key(b)))
            .map(|b| ((b * block).max(start), ((b + 1) * block).min(end)))
            .filter(|(a, b)| a < b)
            .collect())
    }
}

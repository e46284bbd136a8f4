//! The model's source tree: a listing is made in two halves, and every path is walked again.

use std::collections::BTreeMap;

use super::open::SimFile;
use super::places::is_in_tree;
use super::world::{SimError, SimWorld};
use crate::flush::Steps;
use crate::flush::read::read_file;
use crate::flush::world::{Moved, SourceTree};
use crate::model::{FileId, InodeId, Kind};
use crate::source::{Alive, Attributes, Entry, FileError, FileImage, Listed, Named, ReadJob};

impl SourceTree for SimWorld {
    type File = SimFile;

    fn list(&mut self, dir: FileId) -> Result<Listed, SimError> {
        self.step()?;
        let Some(ino) = self.directory(dir) else { return Ok(Listed::NotThere) };
        self.inner.borrow_mut().looked_at(ino);
        // Two halves of one pass: names that move between the halves are missed, or seen twice.
        let half = self.inner.borrow().files.inodes.get(&ino).map_or(0, |inode| inode.entries.len() / 2);
        let mut seen = Vec::new();
        let take = |world: &SimWorld, from: usize, to: usize, seen: &mut Vec<Entry>| {
            let mut inner = world.inner.borrow_mut();
            let Some(inode) = inner.files.inodes.get(&ino) else { return };
            for (name, child) in inode.entries.clone().iter().take(to).skip(from) {
                if let Some(stat) = inner.looked_at(*child) {
                    seen.push(Entry { name: name.clone(), stat });
                }
            }
        };
        take(self, 0, half, &mut seen);
        self.step()?;
        take(self, half, usize::MAX, &mut seen);
        let mut latest: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        let mut order = Vec::new();
        for entry in seen {
            if latest.insert(entry.name.clone(), entry.clone()).is_none() {
                order.push(entry.name);
            }
        }
        Ok(Listed::Entries(order.iter().filter_map(|name| latest.get(name).cloned()).collect()))
    }

    fn lookup(&mut self, dir: FileId, name: &[u8]) -> Result<Named, SimError> {
        self.step()?;
        let Some(ino) = self.directory(dir) else { return Ok(Named::NoDirectory) };
        let mut inner = self.inner.borrow_mut();
        let child =
            inner.files.inodes.get(&ino).and_then(|i| i.entries.iter().find(|(n, _)| n == name).map(|(_, c)| *c));
        Ok(child.and_then(|child| inner.looked_at(child)).map_or(Named::Nothing, Named::Entry))
    }

    fn alive(&mut self, id: FileId) -> Result<Alive, SimError> {
        self.step()?;
        let record = self.catalog.records.get(&id).filter(|_| self.has_generations());
        let Some(record) = record else { return Ok(Alive::Unknown) };
        let inner = self.inner.borrow();
        let Some(now) = inner.files.stat(record.inode.ino).filter(|stat| stat.inode == record.inode) else {
            return Ok(Alive::Gone);
        };
        let single = (now.kind == Kind::Dir || now.nlink == 1)
            && self.catalog.names.values().filter(|named| **named == id).count() == 1;
        let inside = self.tells_paths && single && is_in_tree(&inner.files, record.inode.ino);
        Ok(if inside { Alive::Inside } else { Alive::Yes })
    }

    fn place(&mut self, id: FileId, parent: FileId, name: &[u8], inode: InodeId) {
        self.placed.insert(id, (parent, name.to_vec(), inode));
    }

    fn moved(&mut self, places: &Moved) {
        self.moved.clone_from(places);
    }

    fn attributes(&mut self, id: FileId, inode: InodeId) -> Result<Attributes, FileError> {
        self.attributes_now(id, inode)
    }

    fn read_files(&mut self, jobs: &[ReadJob], steps: Steps) -> Vec<Result<FileImage, FileError>> {
        jobs.iter()
            .map(|job| self.open_at(job.id, job.inode).and_then(|mut file| read_file(&mut file, job, steps)))
            .collect()
    }

    fn open(&mut self, job: &ReadJob) -> Result<SimFile, FileError> {
        self.open_at(job.id, job.inode)
    }

    fn is_mapped(&mut self, file: &SimFile) -> bool {
        self.inner.borrow().files.inodes.get(&file.ino).is_some_and(|inode| inode.mapped)
    }
}

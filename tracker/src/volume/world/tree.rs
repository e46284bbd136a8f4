//! The protected tree as a flush sees it: listings, single names, attributes, and the reading of files.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use engine::flush::Steps;
use engine::flush::world::{Moved, SourceTree};
use engine::model::{FileId, InodeId};
use engine::source::{Alive, Attributes, Entry, FileError, FileImage, Listed, Named, ReadJob};

use super::error::WorldError;
use super::parts::VolumeWorld;
use super::paths::Paths;
use super::pool::Opener;
use crate::source::{self, Foreign, HowMarked, OpenFile, SourceError, SourceRoot};
use crate::test_switches;

fn unreadable(error: impl std::fmt::Display) -> FileError {
    FileError::Unreadable { cause: error.to_string() }
}

/// Opens by path and checks that it is the expected inode.
fn open(
    root: &SourceRoot,
    path: Option<&PathBuf>,
    inode: InodeId,
    how_marked: Option<&HowMarked>,
) -> Result<OpenFile, FileError> {
    let Some(path) = path else { return Err(FileError::Moved) };
    Ok(root.open_file(path, inode)?.with(how_marked.cloned()))
}

impl SourceTree for VolumeWorld {
    type File = OpenFile;

    fn list(&mut self, dir: FileId) -> Result<Listed, WorldError> {
        let Some((path, opened)) = self.directory(dir)? else { return Ok(Listed::NotThere) };
        match opened.and_then(|dir| dir.entries()) {
            Ok(mut found) => {
                self.foreign.retain(|foreign, _| foreign.parent() != Some(path.as_path()));
                for (name, why) in found.foreign {
                    if let (Foreign::MountPoint, Some(stat)) = (why, self.covered(dir, &name)?) {
                        found.entries.push(Entry { name: name.clone(), stat });
                    }
                    self.foreign.insert(path.join(OsStr::from_bytes(&name)), why);
                }
                Ok(match found.unknown {
                    unknown if unknown.is_empty() => Listed::Entries(found.entries),
                    unknown => Listed::Partly(found.entries, unknown),
                })
            }
            Err(error) => Ok(Listed::Unreadable(error.cause())),
        }
    }

    fn lookup(&mut self, dir: FileId, name: &[u8]) -> Result<Named, WorldError> {
        let Some((_, opened)) = self.directory(dir)? else { return Ok(Named::NoDirectory) };
        // A directory or name that cannot be looked up must not end the flush: the name is unknown.
        let Ok(found) = opened.and_then(|dir| dir.named(name)) else { return Ok(Named::NoDirectory) };
        let found = match found {
            Some(source::Named::Entry(stat)) => Some(stat),
            Some(source::Named::Foreign(Foreign::MountPoint)) => self.covered(dir, name)?,
            Some(source::Named::Foreign(Foreign::OtherDevice | Foreign::RestoreArea)) | None => None,
        };
        Ok(found.map_or(Named::Nothing, Named::Entry))
    }

    fn alive(&mut self, id: FileId) -> Result<Alive, WorldError> {
        let Some(handle) = self.catalog.handle(id)? else { return Ok(Alive::Unknown) };
        let alive = self.root.alive(&handle);
        // Of several committed names, this may be the one that the inode still has. Then another is missing, and really
        // gone.
        let several = alive == Alive::Inside && self.catalog.names_of(id)?.len() > 1;
        Ok(if several { Alive::Yes } else { alive })
    }

    fn place(&mut self, id: FileId, parent: FileId, name: &[u8], inode: InodeId) {
        self.set_place(id, parent, name, inode);
    }

    fn moved(&mut self, places: &Moved) {
        self.set_moved(places);
    }

    fn attributes(&mut self, id: FileId, inode: InodeId) -> Result<Attributes, FileError> {
        let path = self.path(id).map_err(unreadable)?.ok_or(FileError::Moved)?;
        match self.root.attributes(&path) {
            Ok(found) if found.stat.inode == inode => Ok(found),
            Ok(_) | Err(SourceError::Gone { .. } | SourceError::MountPoint { .. }) => Err(FileError::Moved),
            Err(error) => Err(unreadable(error.cause())),
        }
    }

    fn read_files(&mut self, jobs: &[ReadJob], steps: Steps) -> Vec<Result<FileImage, FileError>> {
        test_switches::hit("names");
        let mut paths = Paths::default();
        for job in jobs {
            // A file without a path counts as moved.
            let _ = self.find_path(job.id, &mut paths);
        }
        let root = Arc::clone(&self.root);
        let exactly = self.how_marked();
        let opener: Opener<OpenFile> =
            Arc::new(move |job| open(&root, paths.path(job.id).as_ref(), job.inode, exactly.as_ref()));
        let images = self.pool.read(jobs, steps, &opener);
        test_switches::hit("read");
        images
    }

    fn open(&mut self, job: &ReadJob) -> Result<OpenFile, FileError> {
        let path = self.path(job.id).map_err(unreadable)?;
        let exactly = self.how_marked();
        open(&self.root, path.as_ref(), job.inode, exactly.as_ref())
    }

    fn is_mapped(&mut self, file: &OpenFile) -> bool {
        let Ok(quiet) = self.quiet() else { return true };
        quiet.probe().quiet.is_mapped(file.as_fd()).unwrap_or(true)
    }
}

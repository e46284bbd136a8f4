//! A store in a local directory (or a mounted share).
//!
//! One object is one file. It is written beside its place under a temporary name, checked, made durable, and then gets
//! its name by `link(2)`, which fails when the name is taken: that is the exclusive step. All paths are resolved
//! beneath the directory opened at the start, so a symbolic link cannot lead out of it, and a directory that was
//! unmounted or replaced meanwhile is noticed instead of being taken for an empty store.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::from_errno;
use super::mem::{check_size, range_end};
use super::{Created, ErrorKind, Op, Page, Properties, Store, StoreError, key};

mod walk;

/// Folders whose entries up to the root are known to be durable; beyond it the set starts over (it only saves fsyncs).
const DURABLE_FOLDERS: usize = 4096;

/// The code of an error for a store that was used before and is absent or empty now.
pub const AWAY: &str = "Away";
/// The code of an error for a store below a directory that is not there.
pub const NO_PARENT: &str = "NoParent";

/// What [`Local::open`] makes of a directory that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Make {
    #[default]
    Nothing,
    /// The last part of the path. Its parent has to be there: where a disk is not mounted, the parent most often is not, and a
    /// store made there would fill the wrong disk.
    Last,
    /// The whole path.
    Parents,
}

#[derive(Debug)]
pub struct Local {
    path: PathBuf,
    root: OwnedFd,
    durable: Mutex<HashSet<String>>,
}

impl Local {
    /// Opens the directory; makes of it what `make` says when it is absent. Removes temporary files that are more than a day
    /// old, as far as they can be removed.
    ///
    /// # Errors
    /// `StoreAbsent` when there is no directory (with the code [`NO_PARENT`] where its parent is absent too and `make` is
    /// [`Make::Last`]), and as [`Store::create`] for making it.
    pub fn open(path: &Path, make: Make) -> Result<Local, StoreError> {
        let shown = path.to_string_lossy().into_owned();
        let fail = |errno| match errno {
            Errno::NOENT => StoreError::new(Op::Open, &shown, ErrorKind::StoreAbsent),
            errno => from_errno(Op::Open, &shown, errno, false),
        };
        let path = std::path::absolute(path)
            .map_err(|e| StoreError::new(Op::Open, &shown, ErrorKind::Misconfigured).with(e))?;
        match make {
            Make::Nothing => {}
            Make::Last if path.parent().is_some_and(is_absent) => {
                return Err(fail(Errno::NOENT).code(NO_PARENT));
            }
            Make::Last | Make::Parents => make_folders(&path).map_err(fail)?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty()).map_err(fail)?;
        let local = Local { path, root, durable: Mutex::default() };
        walk::sweep_temps(&local.root);
        Ok(local)
    }

    /// Opens something beneath the root. `EAGAIN` says that a rename elsewhere disturbed the resolution.
    fn beneath(&self, key: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.root, key, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if tries < 100 => tries += 1,
                done => return done,
            }
        }
    }

    /// `errno` as an error of this store: an entry that is not there may mean that the store is not there.
    fn error(&self, op: Op, key: &str, errno: Errno) -> StoreError {
        if matches!(errno, Errno::NOENT | Errno::STALE) && !self.is_present() {
            return StoreError::new(Op::Open, &self.path.to_string_lossy(), ErrorKind::StoreAbsent)
                .detail("the directory is gone, or another one is mounted in its place");
        }
        from_errno(op, key, errno, false)
    }

    /// Whether the path still leads to the directory that was opened.
    fn is_present(&self) -> bool {
        match (rustix::fs::fstat(&self.root), rustix::fs::stat(&self.path)) {
            (Ok(held), Ok(found)) => (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino),
            _ => false,
        }
    }

    /// Opens the object's file. A folder of that name is no object.
    fn object(&self, op: Op, key: &str) -> Result<(File, u64), StoreError> {
        key::check(op, key)?;
        // Without NONBLOCK a fifo put there by somebody would block the open.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = self.beneath(key, flags).map_err(|e| self.error(op, key, e))?;
        let stat = rustix::fs::fstat(&file).map_err(|e| self.error(op, key, e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok((File::from(file), stat.st_size as u64)),
            FileType::Directory => Err(self.error(op, key, Errno::NOENT)),
            _ => Err(StoreError::new(op, key, ErrorKind::Misconfigured).detail("not a regular file")),
        }
    }

    /// Opens the folder of an object, makes it when it is absent, and makes sure that its own entries up to the root
    /// are durable: the fsync of a folder says nothing about the folder's own name.
    fn folder(&self, folder: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if folder.is_empty() {
            return self.beneath(".", flags);
        }
        if self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(folder) {
            match self.beneath(folder, flags) {
                Err(Errno::NOENT) => {}
                done => return done,
            }
        }
        let mut parent = self.beneath(".", flags)?;
        let mut upto = String::new();
        for name in folder.split('/') {
            match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            // Also when it was there: whoever made it may not have come to this line.
            rustix::fs::fsync(&parent)?;
            if !upto.is_empty() {
                upto.push('/');
            }
            upto.push_str(name);
            parent = self.beneath(&upto, flags)?;
        }
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.len() >= DURABLE_FOLDERS {
            durable.clear();
        }
        durable.insert(folder.to_owned());
        Ok(parent)
    }
}

fn is_absent(path: &Path) -> bool {
    rustix::fs::stat(path).is_err_and(|e| e == Errno::NOENT)
}

/// Makes a directory and its missing parents, each made durable in the one above.
fn make_folders(path: &Path) -> Result<(), Errno> {
    let mut missing = Vec::new();
    let mut at = path;
    while is_absent(at) {
        missing.push(at);
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    for dir in missing.into_iter().rev() {
        match rustix::fs::mkdir(dir, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        if let Some(parent) = dir.parent() {
            rustix::fs::fsync(rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?)?;
        }
    }
    Ok(())
}

/// The folder and the name of a key.
fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or(("", key))
}

/// A temporary file beside its final place; removed when dropped, whatever happened.
struct Temp<'a> {
    folder: &'a OwnedFd,
    name: String,
    file: File,
}

impl<'a> Temp<'a> {
    fn new(folder: &'a OwnedFd, final_name: &str) -> Result<Temp<'a>, Errno> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| Errno::IO)?;
        let name = format!("{}{:016x}-{final_name}", key::TEMP_PREFIX, u64::from_ne_bytes(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, &name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Temp { folder, name, file: File::from(file) })
    }

    /// Writes all bytes, checks the length and makes them durable.
    fn fill(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let errno = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
        self.file.write_all(bytes).map_err(errno)?;
        if rustix::fs::fstat(&self.file)?.st_size as u64 != bytes.len() as u64 {
            return Err(Errno::IO);
        }
        rustix::fs::fsync(&self.file)
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        // A temporary file that stays is ignored by listings and swept by a later open.
        let _ = rustix::fs::unlinkat(self.folder, &self.name, AtFlags::empty());
    }
}

impl Store for Local {
    fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        const OP: Op = Op::Create;
        key::check(OP, key)?;
        check_size(OP, key, bytes.len() as u64)?;
        let (folder, name) = split(key);
        // Nothing has happened before the link, so an entry that vanished under our hands is worth another try.
        let early = |e| match self.error(OP, key, e) {
            e if e.kind == ErrorKind::NotFound => StoreError { kind: ErrorKind::Transient, ..e },
            e => e,
        };
        let folder = self.folder(folder).map_err(early)?;
        let mut temp = Temp::new(&folder, name).map_err(early)?;
        temp.fill(&bytes).map_err(early)?;
        let made = match rustix::fs::linkat(&folder, &temp.name, &folder, name, AtFlags::empty()) {
            Ok(()) => Created::Yes,
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(early)?;
                let own = rustix::fs::fstat(&temp.file).map_err(early)?;
                if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino) {
                    // A network file system repeated the link after a lost reply of its own.
                    Created::Yes
                } else {
                    if FileType::from_raw_mode(there.st_mode) != FileType::RegularFile {
                        return Err(StoreError::new(OP, key, ErrorKind::Misconfigured)
                            .detail("something that is not a regular file has this name"));
                    }
                    Created::Exists
                }
            }
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                return Err(StoreError::new(OP, key, ErrorKind::Misconfigured)
                    .code("NoHardLinks")
                    .detail("this file system has no hard links, which the store needs"));
            }
            Err(e) => return Err(early(e)),
        };
        drop(temp);
        // From here on the object is visible; its name is not durable yet. The same holds for one that was found: its
        // maker may have died before this step, and the caller may recognise it as its own and rely on it.
        rustix::fs::fsync(&folder).map_err(|e| from_errno(OP, key, e, true))?;
        Ok(made)
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let (file, size) = self.object(Op::Get, key)?;
        check_size(Op::Get, key, size)?;
        let mut bytes = Vec::with_capacity(size as usize);
        let failed = |e| StoreError::new(Op::Get, key, ErrorKind::Transient).with(e);
        // One more than announced, so that a growing file is seen.
        file.take(size + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 != size {
            return Err(StoreError::new(Op::Get, key, ErrorKind::Corrupt)
                .detail(format!("{} bytes read of an object of {size}", bytes.len())));
        }
        Ok(bytes)
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        key::check(Op::GetRange, key)?;
        if len == 0 {
            return Ok(Vec::new());
        }
        let (file, size) = self.object(Op::GetRange, key)?;
        range_end(key, offset, len, size)?;
        check_size(Op::GetRange, key, len)?;
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, offset).map_err(|e| {
            let short = e.kind() == std::io::ErrorKind::UnexpectedEof;
            let kind = if short { ErrorKind::Corrupt } else { ErrorKind::Transient };
            StoreError::new(Op::GetRange, key, kind).with(e)
        })?;
        Ok(bytes)
    }

    fn exists(&self, key: &str) -> Result<bool, StoreError> {
        match self.object(Op::Exists, key) {
            Ok(_) => Ok(true),
            Err(e) if e.kind == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        const OP: Op = Op::Delete;
        key::check(OP, key)?;
        let (folder, name) = split(key);
        let folder = if folder.is_empty() { "." } else { folder };
        let folder = match self.beneath(folder, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(e) => {
                return match self.error(OP, key, e) {
                    e if e.kind == ErrorKind::NotFound => Ok(()),
                    e => Err(e),
                };
            }
        };
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) => rustix::fs::fsync(&folder).map_err(|e| from_errno(OP, key, e, true)),
            // A folder of that name is no object.
            Err(Errno::NOENT | Errno::ISDIR) if self.is_present() => Ok(()),
            Err(e) => Err(self.error(OP, key, e)),
        }
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        key::check_prefix(Op::List, prefix)?;
        if !self.is_present() {
            return Err(self.error(Op::List, prefix, Errno::NOENT));
        }
        walk::page(self.root.as_fd(), prefix, after).map_err(|e| self.error(Op::List, prefix, e))
    }

    fn describe(&self) -> String {
        format!("directory {}", self.path.display())
    }

    fn properties(&self) -> Properties {
        Properties { fenced: true, remote: false }
    }
}

#[cfg(test)]
mod tests;

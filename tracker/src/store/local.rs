//! A store in a local directory (or a mounted share).
//!
//! One object is one file. It is written beside its final place under a temporary name, checked, made durable, and then
//! gets its name by `link(2)`, which fails if the name is taken: that is the exclusive step. All paths are resolved beneath
//! an open directory, so a symbolic link cannot lead out of it. Each call first checks whether the directory was unmounted
//! or replaced, and accepts another one only if it is known to be the same store (`root`).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::contract::{check_size, range_end};
use super::error::{AWAY, NO_PARENT, OTHER_STORE, from_errno};
use super::options::Make;
use super::{Created, ErrorKind, Op, Page, Properties, Store, StoreError, key};

mod root;
mod walk;

use root::{Marks, Root};

#[derive(Debug)]
pub struct Local {
    path: PathBuf,
    /// `None` while its path leads elsewhere: holding it open would keep a file system from being unmounted.
    root: RwLock<Option<Arc<Root>>>,
    marks: Marks,
}

impl Local {
    /// Opens the directory; if it is absent, creates what `make` says. Removes temporary files that are more than a day
    /// old, as far as possible.
    ///
    /// # Errors
    /// `StoreAbsent` if there is no directory (with the code [`NO_PARENT`] if its parent is absent too and `make` is
    /// [`Make::Last`]), and as [`Store::create`] for creating it.
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
        let root = Root::open(&path).map_err(fail)?;
        walk::sweep_temps(root.fd());
        Ok(Local { path, root: RwLock::new(Some(Arc::new(root))), marks: Marks::default() })
    }

    /// The directory that the store's path leads to now.
    ///
    /// # Errors
    /// If there is none, or it is not known to be this store: nothing is read or created there.
    fn root(&self, op: Op, key: &str) -> Result<Arc<Root>, StoreError> {
        let held = self.root.read().clone();
        if let Some(held) = held {
            if held.is_at(&self.path) {
                return Ok(held);
            }
            if self.marks.are_known() {
                *self.root.write() = None;
            }
        }
        let shown = self.path.to_string_lossy();
        let away = |text: &str| StoreError::new(Op::Open, &shown, ErrorKind::StoreAbsent).code(AWAY).detail(text);
        let found = Root::open(&self.path).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => away("the directory is gone"),
            errno => from_errno(op, key, errno, false),
        })?;
        let verdict = self.marks.compare(&found).map_err(|errno| from_errno(op, key, errno, false))?;
        match verdict {
            root::Verdict::Same => {}
            root::Verdict::Unmarked => return Err(away("another directory is at its path")),
            root::Verdict::Lacks(key) => {
                return Err(away(&format!("the directory that is at its path now has no {key:?}")));
            }
            root::Verdict::Other(key) => {
                let error = StoreError::new(Op::Open, &shown, ErrorKind::StoreAbsent).code(OTHER_STORE);
                return Err(error.detail(format!("{key:?} is another one there than when the store was opened")));
            }
        }
        tracing::debug!(store = %shown, "the directory was mounted anew and is the same store");
        let found = Arc::new(found);
        *self.root.write() = Some(Arc::clone(&found));
        Ok(found)
    }

    /// Converts `errno` to an error of this store: a missing entry may mean that the store itself is missing.
    fn error(&self, root: &Root, op: Op, key: &str, errno: Errno) -> StoreError {
        root.note(errno);
        if errno == Errno::NOENT && !root.is_at(&self.path) {
            return StoreError::new(Op::Open, &self.path.to_string_lossy(), ErrorKind::StoreAbsent)
                .code(AWAY)
                .detail("the directory is gone, or another one is mounted in its place");
        }
        from_errno(op, key, errno, false)
    }

    /// Opens the object's file. A folder of that name is not an object.
    fn object(&self, op: Op, key: &str) -> Result<(File, u64), StoreError> {
        key::check(op, key)?;
        let root = self.root(op, key)?;
        match root.object(key) {
            Ok(root::Object::File(file, bytes)) => Ok((file, bytes)),
            Ok(root::Object::Folder) => Err(self.error(&root, op, key, Errno::NOENT)),
            Ok(root::Object::Other) => {
                Err(StoreError::new(op, key, ErrorKind::Misconfigured).detail("not a regular file"))
            }
            Err(errno) => Err(self.error(&root, op, key, errno)),
        }
    }
}

fn is_absent(path: &Path) -> bool {
    rustix::fs::stat(path).is_err_and(|e| e == Errno::NOENT)
}

/// Creates a directory and its missing parents, each made durable in its parent.
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

/// A temporary file beside its final place; always removed when dropped.
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
        // If it stays, listings ignore it and a later open removes it.
        let _ = rustix::fs::unlinkat(self.folder, &self.name, AtFlags::empty());
    }
}

impl Store for Local {
    fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        const OP: Op = Op::Create;
        key::check(OP, key)?;
        check_size(OP, key, bytes.len() as u64)?;
        let (folder, name) = split(key);
        // Nothing has happened before the link, so it is worth retrying if an entry vanished meanwhile.
        let root = self.root(OP, key)?;
        let early = |e| match self.error(&root, OP, key, e) {
            e if e.kind == ErrorKind::NotFound => StoreError { kind: ErrorKind::Transient, ..e },
            e => e,
        };
        let folder = root.folder(folder).map_err(early)?;
        let mut temp = Temp::new(&folder, name).map_err(early)?;
        temp.fill(&bytes).map_err(early)?;
        let made = match rustix::fs::linkat(&folder, &temp.name, &folder, name, AtFlags::empty()) {
            Ok(()) => Created::Yes,
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(early)?;
                let own = rustix::fs::fstat(&temp.file).map_err(early)?;
                if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino) {
                    // A network file system repeated the link after it lost a reply itself.
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
        // From here on the object is visible, but its name is not durable yet. The same holds for an existing object: its
        // writer may have died before this step, and the caller may recognise it as its own and rely on it.
        rustix::fs::fsync(&folder).map_err(|e| {
            root.note(e);
            from_errno(OP, key, e, true)
        })?;
        if made == Created::Yes {
            self.marks.note(key, &bytes);
        }
        Ok(made)
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let (file, size) = self.object(Op::Get, key)?;
        check_size(Op::Get, key, size)?;
        let mut bytes = Vec::with_capacity(size as usize);
        let failed = |e| StoreError::new(Op::Get, key, ErrorKind::Transient).with(e);
        // One more than announced, to detect a file that grows.
        file.take(size + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 != size {
            return Err(StoreError::new(Op::Get, key, ErrorKind::Corrupt)
                .detail(format!("{} bytes read of an object of {size}", bytes.len())));
        }
        self.marks.note(key, &bytes);
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
        let root = self.root(OP, key)?;
        let folder = match root.beneath(folder, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(e) => {
                return match self.error(&root, OP, key, e) {
                    e if e.kind == ErrorKind::NotFound => Ok(()),
                    e => Err(e),
                };
            }
        };
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) => rustix::fs::fsync(&folder).map_err(|e| from_errno(OP, key, e, true)),
            // A folder of that name is not an object.
            Err(Errno::NOENT | Errno::ISDIR) if root.is_at(&self.path) => Ok(()),
            Err(e) => Err(self.error(&root, OP, key, e)),
        }
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        key::check_prefix(Op::List, prefix)?;
        let root = self.root(Op::List, prefix)?;
        walk::page(root.fd(), prefix, after).map_err(|e| self.error(&root, Op::List, prefix, e))
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

//! The directory of a local store: open while it is used, opened anew by its path when that leads elsewhere.
//!
//! A share that was unmounted and mounted again, or whose server died, is another directory to the kernel than the one that was
//! opened; the old one fails for ever (`ENOTCONN`, `ESTALE`), or takes writes that nobody will find. What is at the path then
//! is taken for the same store when it has the `format` objects that were seen in it, byte for byte: each of them holds the
//! random id of a volume. An empty mount point has none.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use engine::format::Key;
use parking_lot::Mutex;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Folders whose entries up to the root are known to be durable; beyond it the set starts over (it only saves fsyncs).
const DURABLE_FOLDERS: usize = 4096;
/// `format` objects that are remembered, one a volume; those of more volumes are not asked for.
const MARKS: usize = 64;
/// A `format` object is some tens of bytes; more is read of none.
const MARK_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    durable: Mutex<HashSet<String>>,
    /// A call said that what lies below is gone for good. The kernel may go on giving cached attributes of it.
    dead: AtomicBool,
}

/// What has the name of an object.
pub(super) enum Object {
    /// With its length in bytes.
    File(File, u64),
    Folder,
    Other,
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Root, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Root { fd, durable: Mutex::default(), dead: AtomicBool::new(false) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether `path` still leads to this directory, and it is alive.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        match (rustix::fs::fstat(&self.fd), rustix::fs::stat(path)) {
            (Ok(held), Ok(found)) => {
                (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino) && !self.dead.load(Relaxed)
            }
            _ => false,
        }
    }

    /// Notes a failure that no later call on this directory can heal.
    pub(super) fn note(&self, errno: Errno) {
        if matches!(errno, Errno::NOTCONN | Errno::STALE) {
            self.dead.store(true, Relaxed);
        }
    }

    /// Opens something beneath the root. `EAGAIN` says that a rename elsewhere disturbed the resolution.
    pub(super) fn beneath(&self, key: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.fd, key, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if tries < 100 => tries += 1,
                done => return done,
            }
        }
    }

    /// Opens what has the name of an object.
    pub(super) fn object(&self, key: &str) -> Result<Object, Errno> {
        // Without NONBLOCK a fifo put there by somebody would block the open.
        let file = self.beneath(key, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&file)?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Object::File(File::from(file), stat.st_size as u64),
            FileType::Directory => Object::Folder,
            _ => Object::Other,
        })
    }

    /// Opens the folder of an object, makes it when it is absent, and makes sure that its own entries up to the root
    /// are durable: the fsync of a folder says nothing about the folder's own name.
    pub(super) fn folder(&self, folder: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if folder.is_empty() {
            return self.beneath(".", flags);
        }
        if self.durable.lock().contains(folder) {
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
        let mut durable = self.durable.lock();
        if durable.len() >= DURABLE_FOLDERS {
            durable.clear();
        }
        durable.insert(folder.to_owned());
        Ok(parent)
    }
}

/// The `format` objects that were seen in a store, by their hashes.
#[derive(Debug, Default)]
pub(super) struct Marks(Mutex<BTreeMap<String, blake3::Hash>>);

/// Whether a directory is the store that was opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    /// Nothing is known of the store to tell it by.
    Unmarked,
    /// This object is not there.
    Lacks(String),
    /// This object is there with other bytes.
    Other(String),
}

impl Marks {
    /// Remembers an object that was read or made, if it is one by which a store is told. The last bytes count: the first ones
    /// may have been damaged on their way.
    pub(super) fn note(&self, key: &str, bytes: &[u8]) {
        if key.rsplit('/').next() != Some(Key::Format.to_string().as_str()) {
            return;
        }
        let mut marks = self.0.lock();
        if marks.len() < MARKS || marks.contains_key(key) {
            marks.insert(key.to_owned(), blake3::hash(bytes));
        }
    }

    pub(super) fn are_known(&self) -> bool {
        !self.0.lock().is_empty()
    }

    /// Holds a directory against what is known of the store.
    pub(super) fn compare(&self, root: &Root) -> Result<Verdict, Errno> {
        let marks = self.0.lock().clone();
        if marks.is_empty() {
            return Ok(Verdict::Unmarked);
        }
        for (key, hash) in marks {
            let file = match root.object(&key) {
                Ok(Object::File(file, _)) => file,
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Verdict::Lacks(key)),
                Err(errno) => return Err(errno),
            };
            let mut bytes = Vec::new();
            let read = file.take(MARK_BYTES).read_to_end(&mut bytes);
            read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            if blake3::hash(&bytes) != hash {
                return Ok(Verdict::Other(key));
            }
        }
        Ok(Verdict::Same)
    }
}

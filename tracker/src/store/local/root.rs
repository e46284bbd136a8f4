//! The directory of a local store: held open while it is used, and opened again by its path if that leads elsewhere.
//!
//! A share that was unmounted and mounted again, or whose server died, is a different directory to the kernel than the one
//! that was opened. The old one fails forever (`ENOTCONN`, `ESTALE`), or accepts writes that nobody will find. The
//! directory now at the path counts as the same store if it has the `format` objects seen before, byte for byte: each of
//! them holds the random id of a volume. An empty mount point has none.

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

/// Most folders that are remembered as durable up to the root; beyond that the set starts over (it only saves fsyncs).
const DURABLE_FOLDERS: usize = 4096;
/// Most `format` objects that are remembered, one per volume; those of further volumes are not checked.
const MARKS: usize = 64;
/// A `format` object has some tens of bytes; larger ones are not read.
const MARK_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    durable: Mutex<HashSet<String>>,
    /// A call failed because the file system below is gone for good. The kernel may still return cached attributes of it.
    dead: AtomicBool,
}

/// What is at the path of an object.
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

    /// Whether `path` still leads to this directory, and it is not dead.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        match (rustix::fs::fstat(&self.fd), rustix::fs::stat(path)) {
            (Ok(held), Ok(found)) => {
                (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino) && !self.dead.load(Relaxed)
            }
            _ => false,
        }
    }

    /// Records a failure that no later call on this directory can recover from.
    pub(super) fn note(&self, errno: Errno) {
        if matches!(errno, Errno::NOTCONN | Errno::STALE) {
            self.dead.store(true, Relaxed);
        }
    }

    /// Opens a path beneath the root. `EAGAIN` means that a rename elsewhere disturbed the resolution.
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

    /// Opens what is at the path of an object.
    pub(super) fn object(&self, key: &str) -> Result<Object, Errno> {
        // Without NONBLOCK, a fifo that somebody put there would block the open.
        let file = self.beneath(key, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&file)?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Object::File(File::from(file), stat.st_size as u64),
            FileType::Directory => Object::Folder,
            _ => Object::Other,
        })
    }

    /// Opens the folder of an object, creating it if absent, and makes its own entries durable up to the root: the fsync of
    /// a folder does not cover the folder's own name.
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
            // Also if it existed: whoever created it may have died before this line.
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

/// The `format` objects that were seen in a store, as hashes.
#[derive(Debug, Default)]
pub(super) struct Marks(Mutex<BTreeMap<String, blake3::Hash>>);

/// Whether a directory is the store that was opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    /// No `format` object was seen, so the store cannot be recognised.
    Unmarked,
    /// This object is missing.
    Lacks(String),
    /// This object has other bytes.
    Other(String),
}

impl Marks {
    /// Remembers an object that was read or created, if it identifies the store. The last bytes count: earlier ones may
    /// have been damaged in transfer.
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

    /// Compares a directory with what is known of the store.
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

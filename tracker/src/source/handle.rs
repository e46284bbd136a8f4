//! Files by handle: whether an inode still exists, and where it is now, whatever names it had.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use engine::flush::world::Alive;
use engine::model::{InodeId, Kind};
use rustix::fs::{Mode, OFlags, openat};

use super::beneath::Beneath;
use super::stat::stat_fd;
use super::{SourceError, SourceRoot, sys};

/// What a handle leads to.
enum Led {
    /// The inode (O_PATH), and the root of the file system that it was found on.
    To { fd: OwnedFd, root: OwnedFd },
    /// No such inode.
    Stale,
    /// No right to ask, or no sense in the handle.
    Unknown,
}

impl SourceRoot {
    /// A handle of `inode` at `rel`; `None` where the file system has none, or another inode is there.
    pub fn handle(&self, rel: &Path, inode: InodeId) -> Result<Option<Vec<u8>>, SourceError> {
        let found = self.find(rel)?;
        if found.stat.stat.inode != inode {
            return Ok(None);
        }
        match sys::name_to_handle(&found.fd) {
            Ok(handle) => Ok(Some(handle)),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(source) => Err(SourceError::Io { path: rel.to_path_buf(), source }),
        }
    }

    fn follow(&self, handle: &[u8]) -> Led {
        // The descriptor only names the file system; on overlayfs handles were taken from the upper layer first.
        let above = self.upper.as_ref().and_then(|upper| upper.beneath()).map(Beneath::root);
        let mut led = Led::Unknown;
        for root in above.into_iter().chain([self.beneath.root()]) {
            let Ok(root) = openat(root, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else { continue };
            match sys::open_by_handle(&root, handle) {
                Ok(fd) => return Led::To { fd, root },
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => led = Led::Stale,
                Err(_) => return Led::Unknown,
            }
        }
        led
    }

    /// Whether the inode of a handle still exists with a name, and whether that is its only one and below the source.
    /// Needs CAP_DAC_READ_SEARCH; `Unknown` without.
    pub fn alive(&self, handle: &[u8]) -> Alive {
        let (fd, root) = match self.follow(handle) {
            Led::To { fd, root } => (fd, root),
            Led::Stale => return Alive::Gone,
            Led::Unknown => return Alive::Unknown,
        };
        match stat_fd(&fd) {
            Ok(found) if found.stat.nlink == 0 => Alive::Gone,
            Ok(found) if found.stat.kind != Kind::Dir && found.stat.nlink > 1 => Alive::Yes,
            // Where the kernel last saw its name; for a file that nobody has looked up lately it may not know.
            Ok(_) => match sys::path_below(&fd, &root) {
                Ok(Some(_)) => Alive::Inside,
                _ => Alive::Yes,
            },
            Err(_) => Alive::Unknown,
        }
    }

    /// Where the inode of a handle is now, relative to the source: by one of its names, if the kernel has one in mind that
    /// lies below the source. Good for a try: it may move again before it is opened. `None`: not known.
    pub fn whereabouts(&self, handle: &[u8], inode: InodeId) -> Option<PathBuf> {
        let Led::To { fd, root } = self.follow(handle) else { return None };
        let found = stat_fd(&fd).ok()?;
        let path: io::Result<Option<PathBuf>> = sys::path_below(&fd, &root);
        path.ok().flatten().filter(|_| found.stat.inode == inode)
    }
}

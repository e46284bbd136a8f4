//! One open file of the source: the primitive steps of a flush. `engine::flush::read` decides their order.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::model::{Ino, InodeId, Kind};
use engine::source::{Exactly, FileError, FileOps, Stat};
use engine::xattrs::ReadXattrs;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::clean_times::CleanTimes;
use super::error::{OpenError, SourceError};
use super::fs_type::FsType;
use super::hot::Hot;
use super::root::SourceRoot;
use super::stat::{Births, SourceStat, proc_path};
use super::unwritten::Unwritten;
use super::xattrs::{self, Layer};
use super::{flags, sys};

/// How to write back a file's dirty pages, so that the next store through a mapping faults again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanBy {
    /// `sync_file_range` with all three flags: waits for the data, not for the journal or the disk's cache.
    WriteBack,
    /// `fdatasync`: where `sync_file_range` has no effect (overlayfs), is not enough (ext4 with journalled data), or is not
    /// known to work.
    DataSync,
}

/// Tells how the writes of an open file are marked: exactly from now on, if that is possible and the second argument says so.
pub type HowMarked = Arc<dyn Fn(BorrowedFd<'_>, bool) -> Exactly + Send + Sync>;

/// A regular file of the source, open for reading.
pub struct OpenFile {
    fd: OwnedFd,
    clean_by: CleanBy,
    layer: Layer,
    fs: FsType,
    births: Births,
    ino: Ino,
    cleans: Arc<CleanTimes>,
    unwritten: Arc<Unwritten>,
    hot: Arc<Hot>,
    /// Whether `FileOps::read` goes past the pages in memory.
    direct: bool,
    how_marked: Option<HowMarked>,
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFile").field("fd", &self.fd).field("ino", &self.ino).finish_non_exhaustive()
    }
}

impl SourceRoot {
    /// Opens the regular file at `rel` if it is the expected inode. Uses O_NOATIME if allowed; never follows a symlink.
    /// Another file in its place is not opened: opening a fifo wakes its writers, and opening a device may have any effect.
    /// So the inode is first found by O_PATH, which opens nothing, and then exactly that inode is opened.
    pub fn open_file(&self, rel: &Path, expect: InodeId) -> Result<OpenFile, OpenError> {
        let found = self.find(rel)?;
        check(&found.stat, expect)?;
        // NONBLOCK: if there is a lease, the open fails at once instead of waiting for its holder.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = proc_path(&found.fd);
        let fd = match rustix::fs::open(&path, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => rustix::fs::open(&path, flags, Mode::empty()),
            other => other,
        };
        let fd = fd.map_err(|errno| SourceError::at(rel, errno))?;
        let fs = self.fs_of(found.upper);
        let clean_by = clean_by(fs, self.data_journal(found.upper), &fd);
        let (layer, births) = (self.layer(found.upper), self.births_of(found.upper));
        Ok(OpenFile {
            fd,
            clean_by,
            layer,
            fs,
            births,
            ino: expect.ino,
            cleans: Arc::clone(&self.cleans),
            unwritten: Arc::clone(&self.unwritten),
            hot: Arc::clone(&self.hot),
            direct: false,
            how_marked: None,
        })
    }

    /// Files that the next flush is to write back, although nothing was written to them.
    pub fn take_unwritten(&self) -> Vec<Ino> {
        let now = Instant::now();
        self.hot.forget(now);
        self.unwritten.take_due(now)
    }

    /// Whether `take_unwritten` gave this file, and it was not written back since.
    pub fn is_owed(&self, ino: Ino) -> bool {
        self.unwritten.is_due(ino)
    }

    /// How long writing files back took since the last call, by inode number.
    pub fn take_cleans(&self) -> HashMap<Ino, Duration> {
        std::mem::take(&mut *self.cleans.0.lock())
    }
}

fn check(found: &SourceStat, expect: InodeId) -> Result<(), OpenError> {
    if found.stat.inode != expect {
        return Err(OpenError::Mismatch { expected: expect, found: found.stat.inode });
    }
    if found.stat.kind != Kind::File {
        return Err(OpenError::NotAFile { kind: found.stat.kind });
    }
    Ok(())
}

fn clean_by(fs: FsType, data_journal: bool, fd: &OwnedFd) -> CleanBy {
    match fs {
        FsType::Ext4 => {
            // A single file can have its data journalled too (`chattr +j`).
            let journalled =
                rustix::fs::ioctl_getflags(fd).is_ok_and(|flags| flags.contains(rustix::fs::IFlags::JOURNALING));
            if data_journal || journalled { CleanBy::DataSync } else { CleanBy::WriteBack }
        }
        FsType::Xfs | FsType::Btrfs => CleanBy::WriteBack,
        FsType::Tmpfs | FsType::Overlay | FsType::Other(_) => CleanBy::DataSync,
    }
}

/// Bytes by which direct reads are aligned, in the file and in memory: no disk has larger logical blocks.
const DIRECT_ALIGN: usize = 64 << 10;

/// No file is this large.
const BEHIND_EVERY_END: u64 = 1 << 62;

impl OpenFile {
    pub fn clean_by(&self) -> CleanBy {
        self.clean_by
    }

    /// With what tells how its writes are marked.
    #[must_use]
    pub fn with(self, how_marked: Option<HowMarked>) -> OpenFile {
        OpenFile { how_marked, ..self }
    }

    /// `statx` of the open inode, whatever is at its path now.
    pub fn source_stat(&self) -> Result<SourceStat, FileError> {
        self.births.stat_fd(&self.fd).map_err(unreadable)
    }

    /// Reads at `offset` until the buffer is full or the file ends.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, FileError> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&self.fd, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(unreadable(errno)),
            }
        }
        Ok(done)
    }

    /// As `read_at`, past the pages in memory.
    fn read_direct(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let align = DIRECT_ALIGN as u64;
        let most = buffer.len().next_multiple_of(DIRECT_ALIGN) + DIRECT_ALIGN;
        let mut space = vec![0; most + DIRECT_ALIGN];
        let aligned = space.as_ptr().align_offset(DIRECT_ALIGN);
        let Some(space) = space.get_mut(aligned..aligned + most) else { return Err(Errno::INVAL) };
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let skip = (at % align) as usize;
            let want = (skip + buffer.len() - done).next_multiple_of(DIRECT_ALIGN);
            let got = match rustix::io::pread(&self.fd, &mut space[..want], at - skip as u64) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let Some(fresh) = space.get(skip..got).filter(|fresh| !fresh.is_empty()) else { break };
            let len = fresh.len().min(buffer.len() - done);
            buffer[done..done + len].copy_from_slice(&fresh[..len]);
            done += len;
        }
        Ok(done)
    }

    fn set_direct(&mut self, on: bool) -> Result<(), Errno> {
        let mut flags = rustix::fs::fcntl_getfl(&self.fd)?;
        flags.set(OFlags::DIRECT, on);
        rustix::fs::fcntl_setfl(&self.fd, flags)?;
        self.direct = on;
        Ok(())
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl FileOps for OpenFile {
    fn statx(&mut self) -> Result<Stat, FileError> {
        Ok(self.source_stat()?.stat)
    }

    fn xattrs(&mut self) -> Result<ReadXattrs, FileError> {
        Ok(xattrs::read(&self.fd, self.layer, Some(flags::read(&self.fd, self.fs))))
    }

    fn how_marked(&mut self) -> Exactly {
        // What is journalled becomes dirty in another way, and is told of in another way.
        let now = Instant::now();
        let how = match (&self.how_marked, self.clean_by) {
            (Some(how_marked), CleanBy::WriteBack) => how_marked(self.fd.as_fd(), self.hot.is_hot(self.ino, now)),
            _ => Exactly::No,
        };
        if how == Exactly::Already && !self.unwritten.may_wait(self.ino, now) {
            return Exactly::FromNow;
        }
        how
    }

    fn clean(&mut self) -> Result<(), FileError> {
        let began = Instant::now();
        let done = match self.clean_by {
            CleanBy::WriteBack => sys::write_back(&self.fd),
            CleanBy::DataSync => rustix::fs::fdatasync(&self.fd).map_err(Into::into),
        };
        self.cleans.add(self.ino, began.elapsed());
        if done.is_ok() {
            self.unwritten.written(self.ino);
            if self.how_marked.is_some() && self.clean_by == CleanBy::WriteBack {
                self.hot.written(self.ino, began);
            }
        }
        done.map_err(|error| FileError::WriteBack { cause: error.to_string() })
    }

    fn barrier(&mut self) -> Result<(), FileError> {
        match rustix::fs::seek(&self.fd, SeekFrom::Hole(0)) {
            // ENXIO: an empty file. EINVAL: this file system has no such seek, so it takes no lock either.
            Ok(_) | Err(Errno::NXIO | Errno::INVAL) => {}
            Err(errno) => return Err(unreadable(errno)),
        }
        // On xfs the seek takes no lock, but a read does. Without it the size could be that of a half-done clone, which has
        // already marked and grows the file without another mark. Read beyond every end, so that no page is loaded.
        match rustix::io::pread(&self.fd, &mut [0u8; 1], BEHIND_EVERY_END) {
            Ok(_) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(unreadable(errno)),
        }
    }

    fn uncache(&mut self) -> Result<(), FileError> {
        // So that others, and the scrub, see the same. Pages that somebody has mapped stay.
        let _ = rustix::fs::fadvise(&self.fd, 0, None, rustix::fs::Advice::DontNeed);
        match self.set_direct(true) {
            // This file system reads no file directly.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(unreadable(errno)),
        }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, FileError> {
        if self.direct {
            match self.read_direct(offset, buffer) {
                // The disk has larger blocks, or this file is not read directly.
                Err(Errno::INVAL) => self.set_direct(false).map_err(unreadable)?,
                other => return other.map_err(unreadable),
            }
        }
        self.read_at(offset, buffer)
    }

    fn data_ranges(&mut self, start: u64, end: u64) -> Result<Vec<(u64, u64)>, FileError> {
        let mut out = Vec::new();
        let mut at = start;
        while at < end {
            let data = match rustix::fs::seek(&self.fd, SeekFrom::Data(at)) {
                Ok(data) => data,
                // No data from here to the end of the file.
                Err(Errno::NXIO) => break,
                // The file system cannot report holes: everything is data.
                Err(Errno::INVAL) => return Ok(vec![(start, end)]),
                Err(errno) => return Err(unreadable(errno)),
            };
            if data >= end {
                break;
            }
            let hole = match rustix::fs::seek(&self.fd, SeekFrom::Hole(data)) {
                Ok(hole) => hole.min(end),
                // The file was truncated in between: what follows `data` is unknown, so treat it as data up to the end.
                Err(Errno::NXIO) => end,
                Err(errno) => return Err(unreadable(errno)),
            };
            if hole > data {
                out.push((data, hole));
            }
            at = hole.max(data + 1);
        }
        Ok(out)
    }
}

fn unreadable(errno: Errno) -> FileError {
    FileError::Unreadable { cause: errno.to_string() }
}

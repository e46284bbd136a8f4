//! One file being restored: ranges are written under a temporary name, the rename is last.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use engine::model::Meta;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{Target, TargetError, io};

/// A regular file that has no name of its own yet. Dropped before [`TargetFile::finish`], it leaves nothing.
#[derive(Debug)]
pub struct TargetFile<'a> {
    target: &'a Target,
    rel: PathBuf,
    dir: OwnedFd,
    fd: OwnedFd,
    /// `None` once it is in place.
    temporary: Option<OsString>,
    size: u64,
}

impl Target {
    /// Begins a file of `size` bytes, all hole.
    pub fn create_file(&self, rel: &Path, size: u64) -> Result<TargetFile<'_>, TargetError> {
        let place = self.place(rel)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = std::cell::OnceCell::new();
        let temporary = self
            .temporary(|name| {
                let fd = rustix::fs::openat(&place.dir, name, flags, Mode::RUSR | Mode::WUSR)?;
                opened.set(fd).map_err(|_| Errno::EXIST)
            })
            .map_err(io("create", rel))?;
        let fd = opened.into_inner().ok_or(Errno::BADF).map_err(io("create", rel))?;
        let file =
            TargetFile { target: self, rel: rel.to_path_buf(), dir: place.dir, fd, temporary: Some(temporary), size };
        rustix::fs::ftruncate(&file.fd, size).map_err(io("set the size of", rel))?;
        Ok(file)
    }
}

impl TargetFile<'_> {
    /// Writes all of `bytes` at `offset`; may be called from several threads for ranges that do not overlap.
    pub fn write_at(&self, mut offset: u64, mut bytes: &[u8]) -> Result<(), TargetError> {
        while !bytes.is_empty() {
            match rustix::io::pwrite(&self.fd, bytes, offset) {
                Ok(0) => return Err(io("write", &self.rel)(Errno::NOSPC)),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(io("write", &self.rel)(errno)),
            }
        }
        Ok(())
    }

    /// Makes a range a hole again. A range nothing was written to is one already.
    pub fn punch(&self, offset: u64, len: u64) -> Result<(), TargetError> {
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.fd, flags, offset, len) {
            Err(Errno::NOTSUP) => self.zero(offset, len),
            other => other.map_err(io("punch a hole into", &self.rel)),
        }
    }

    /// The next best where the file system has no holes to punch: the bytes are right, the space is taken.
    fn zero(&self, mut offset: u64, len: u64) -> Result<(), TargetError> {
        let zeros = [0; 65_536];
        let end = offset.saturating_add(len).min(self.size);
        while offset < end {
            let step = (end - offset).min(zeros.len() as u64);
            self.write_at(offset, zeros.get(..step as usize).unwrap_or(&zeros))?;
            offset += step;
        }
        Ok(())
    }

    /// Reads back what was written; fewer bytes than asked only at the end.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, TargetError> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&self.fd, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(io("read back", &self.rel)(errno)),
            }
        }
        Ok(done)
    }

    /// Gives the attributes, then the name, over what is there unless that is a directory. Nothing is under the name
    /// before everything else was done.
    pub fn finish(mut self, meta: &Meta) -> Result<(), TargetError> {
        self.target.give(&self.rel, self.fd.as_fd(), meta)?;
        if self.target.options.sync {
            rustix::fs::fsync(&self.fd).map_err(io("sync", &self.rel))?;
        }
        let Some(temporary) = &self.temporary else { return Ok(()) };
        let Some(name) = self.rel.file_name() else {
            return Err(TargetError::BadPath { path: self.rel.clone() });
        };
        rustix::fs::renameat(&self.dir, temporary, &self.dir, name).map_err(io("move into place", &self.rel))?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for TargetFile<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing can be done about a failure here; the leftover's name tells what it is.
            let _ = rustix::fs::unlinkat(&self.dir, temporary, AtFlags::empty());
        }
    }
}

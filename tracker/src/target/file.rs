//! One file being restored: its ranges are written in the area, its names come last.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::model::Meta;
use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::target::area::Area;
use crate::target::error::{TargetError, io};
use crate::target::flags;
use crate::target::place::{Made, Unplaced};
use crate::target::state::Target;

/// A regular file without its final name. Dropped before [`TargetFile::finish`], it leaves nothing.
#[derive(Debug)]
pub struct TargetFile<'a> {
    target: &'a Target,
    rel: PathBuf,
    area: Arc<Area>,
    fd: OwnedFd,
    /// Its name in the area.
    name: OsString,
    size: u64,
}

impl Target {
    /// Begins a file of `size` bytes, all hole, that will be at `rel` with `meta`.
    pub fn create_file(&self, rel: &Path, size: u64, meta: &Meta) -> Result<TargetFile<'_>, TargetError> {
        let area = self.area_of(rel)?;
        let (name, fd) = new_file(&area, meta).map_err(io("create", rel))?;
        let file = TargetFile { target: self, rel: rel.to_path_buf(), area, fd, name, size };
        rustix::fs::ftruncate(&file.fd, size).map_err(io("set the size of", rel))?;
        Ok(file)
    }

    /// Makes a copy of an open file in an area, with its holes.
    pub(crate) fn copy_in(&self, area: &Area, made: &Made<'_>, rel: &Path) -> Result<(OsString, OwnedFd), TargetError> {
        let (name, to) = new_file(area, made.meta).map_err(io("create", rel))?;
        if let Err(errno) = copy(made.fd, to.as_fd()) {
            area.discard(&name);
            return Err(io("copy", rel)(errno));
        }
        Ok((name, to))
    }
}

fn new_file(area: &Area, meta: &Meta) -> Result<(OsString, OwnedFd), Errno> {
    let name = area.name();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(area.dir(), &name, flags, Mode::RUSR | Mode::WUSR)?;
    flags::early(&fd, meta);
    Ok((name, fd))
}

fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let size = u64::try_from(rustix::fs::fstat(from)?.st_size).unwrap_or_default();
    rustix::fs::ftruncate(to, size)?;
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?.min(size);
        at = start;
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let read = rustix::io::pread(from, buffer.get_mut(..len).unwrap_or_default(), at)?;
            let mut part = buffer.get(..read).unwrap_or_default();
            if part.is_empty() {
                return Err(Errno::IO);
            }
            while !part.is_empty() {
                let written = rustix::io::pwrite(to, part, at)?;
                part = part.get(written..).unwrap_or_default();
                at += written as u64;
            }
        }
    }
    Ok(())
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

    /// Makes a range a hole again. Ranges that were never written are holes already.
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

    /// The fallback if the file system cannot punch holes: the bytes are right, but take space.
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

    /// Reads back what was written; returns fewer bytes than requested only at the end.
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

    /// Sets the attributes, then gives the file its names, replacing what is there, then sets the inode flags, some of
    /// which would forbid naming it. No name exists before everything else is done. Returns the names that it could not be
    /// given.
    pub fn finish(self, meta: &Meta, names: &[&Path]) -> Result<Vec<Unplaced>, TargetError> {
        self.target.give(&self.rel, self.fd.as_fd(), meta);
        if self.target.options.sync {
            rustix::fs::fsync(&self.fd).map_err(io("sync", &self.rel))?;
        }
        let made = Made { area: &self.area, name: self.name.clone(), fd: self.fd.as_fd(), meta };
        let failed = self.target.put(&made, names);
        // With a flag that forbids it, the name left in the area could not be removed.
        if failed.len() < names.len() && self.area.discard(&self.name) {
            self.target.give_flags(&self.rel, self.fd.as_fd(), meta);
        }
        Ok(failed)
    }
}

impl Drop for TargetFile<'_> {
    fn drop(&mut self) {
        self.area.discard(&self.name);
    }
}

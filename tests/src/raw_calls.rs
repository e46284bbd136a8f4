//! Calls of the matrix that no safe crate offers: ioctls, splices, writes into another address space, accounting, io_uring.
//! Each does one thing and waits for its end; the matrix decides what is written where.
#![expect(unsafe_code, reason = "ioctls, splices, accounting and io_uring of the matrix, which no safe crate offers")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use io_uring::{IoUring, opcode, squeue, types};

use crate::raw_io::Mapping;

/// One ioctl whose argument is a struct, given as words; afterwards they hold what the kernel wrote back.
///
/// # Errors
/// The kernel's.
pub fn ioctl(file: &File, request: u64, words: &mut [u64]) -> io::Result<i32> {
    // SAFETY: the words are at least as long as the struct of each request that the matrix uses.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, words.as_mut_ptr()) }.into()).map(|value| value as i32)
}

/// How many pages of the file are dirty in memory (`cachestat`, since Linux 6.5).
///
/// # Errors
/// The kernel's.
pub fn dirty_pages(file: &File) -> io::Result<u64> {
    const CACHESTAT: libc::c_long = 451;
    // Offset and length, 0 for the end; pages in memory, dirty, under write-back, and two counts of those that left.
    let (range, mut counts) = ([0u64; 2], [0u64; 5]);
    // SAFETY: both structs have as many words, and outlive the call.
    let done = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0) };
    check(done)?;
    Ok(counts[1])
}

/// `sendfile` of `len` bytes to the position of `to`.
///
/// # Errors
/// The kernel's, and a short transfer.
pub fn sendfile(to: &File, from: &File, len: usize) -> io::Result<()> {
    // SAFETY: two open descriptors and no offset.
    let sent = unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), std::ptr::null_mut(), len) };
    whole(sent as i64, len)
}

/// Puts `bytes` into a pipe, by `vmsplice` with gifted pages or by a write, and splices them to `offset` of the file.
///
/// # Errors
/// The kernel's, and a short transfer.
pub fn splice(to: &File, bytes: &[u8], offset: u64, gift: bool) -> io::Result<()> {
    let (out, into) = pipe()?;
    let mut at = offset as i64;
    // SAFETY: the vector and the offset are live locals; gifted pages are not touched again.
    unsafe {
        let filled = if gift {
            let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            libc::vmsplice(into.as_raw_fd(), &raw const vector, 1, libc::SPLICE_F_GIFT)
        } else {
            libc::write(into.as_raw_fd(), bytes.as_ptr().cast(), bytes.len())
        };
        whole(filled as i64, bytes.len())?;
        let flags = if gift { libc::SPLICE_F_MOVE } else { 0 };
        let null = std::ptr::null_mut();
        whole(libc::splice(out.as_raw_fd(), null, to.as_raw_fd(), &raw mut at, bytes.len(), flags) as i64, bytes.len())
    }
}

/// Reading and writing end.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: an array of two; the descriptors are new and owned from here on.
    unsafe {
        check(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC).into())?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// Reads `len` bytes of `file`, opened for direct I/O, into the mapping at `at`: the kernel writes into the mapped pages.
///
/// # Errors
/// The kernel's.
pub fn read_into(file: &File, mapping: &Mapping, at: usize, len: usize) -> io::Result<()> {
    // SAFETY: `address` checks that the range lies in the mapping.
    let read = unsafe { libc::pread(file.as_raw_fd(), mapping.address(at, len).cast(), len, 0) };
    whole(read as i64, len)
}

/// Stores `bytes` at `at` of the mapping by `process_vm_writev` on this process itself.
///
/// # Errors
/// The kernel's.
pub fn store_from_afar(mapping: &Mapping, at: usize, bytes: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: mapping.address(at, bytes.len()).cast(), iov_len: bytes.len() };
    // SAFETY: both vectors are live and lie in mapped memory.
    let written = unsafe { libc::process_vm_writev(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    whole(written as i64, bytes.len())
}

/// `truncate` by name.
///
/// # Errors
/// The kernel's.
pub fn truncate(path: &CStr, size: i64) -> io::Result<()> {
    // SAFETY: a string that lives through the call.
    check(unsafe { libc::truncate(path.as_ptr(), size) }.into()).map(drop)
}

/// Starts process accounting into `path`, or stops it.
///
/// # Errors
/// The kernel's.
pub fn accounting(path: Option<&Path>) -> io::Result<()> {
    let path = path.map(text).transpose()?;
    // SAFETY: null, or a string that lives through the call.
    check(unsafe { libc::acct(path.as_ref().map_or(std::ptr::null(), |path| path.as_ptr())) }.into()).map(drop)
}

/// How a ring is operated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the submitter, as far as it does not block.
    Plain,
    /// By a kernel worker.
    Worker,
    /// By the kernel's polling thread.
    Poll,
    /// As `Poll`, with the file registered as the ring's first.
    PollFixedFile,
    /// The bytes lie in a registered buffer.
    FixedBuffer,
}

/// Writes through io_uring in one of its ways.
///
/// # Errors
/// The kernel's, and a short write.
pub fn uring_write(file: &File, bytes: &[u8], offset: u64, way: Way) -> io::Result<()> {
    let poll = matches!(way, Way::Poll | Way::PollFixedFile);
    let mut ring = if poll { IoUring::builder().setup_sqpoll(50).build(4)? } else { IoUring::new(4)? };
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let fd = types::Fd(file.as_raw_fd());
    let entry = match way {
        Way::PollFixedFile => {
            ring.submitter().register_files(&[file.as_raw_fd()])?;
            opcode::Write::new(types::Fixed(0), bytes.as_ptr(), len).offset(offset).build()
        }
        Way::FixedBuffer => {
            let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            // SAFETY: the buffer outlives the ring.
            unsafe { ring.submitter().register_buffers(&[vector])? };
            opcode::WriteFixed::new(fd, bytes.as_ptr(), len, 0).offset(offset).build()
        }
        _ => opcode::Write::new(fd, bytes.as_ptr(), len).offset(offset).build(),
    };
    let flags = if way == Way::Worker { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
    whole(push(&mut ring, &entry.flags(flags))?.into(), bytes.len())
}

/// A request of io_uring for names, attributes or ranges.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    Rename(&'a Path, &'a Path),
    Unlink(&'a Path),
    MakeDirectory(&'a Path),
    /// Target, then name.
    Symlink(&'a Path, &'a Path),
    Link(&'a Path, &'a Path),
    SetAttribute(&'a Path, &'a str, &'a [u8]),
    SetAttributeOf(&'a File, &'a str, &'a [u8]),
    Truncate(&'a File, u64),
    /// Flags of `fallocate`, offset, length.
    Allocate(&'a File, i32, u64, u64),
    /// `open` with these flags.
    Open(&'a Path, i32),
}

/// Executes it through io_uring, and waits.
///
/// # Errors
/// The kernel's.
pub fn uring(request: Request<'_>) -> io::Result<()> {
    let here = types::Fd(libc::AT_FDCWD);
    // Data that the entry points to; kept until the end.
    let mut kept: Vec<CString> = Vec::new();
    let mut keep = |text: CString| {
        let pointer = text.as_ptr();
        kept.push(text);
        pointer
    };
    let entry = match request {
        Request::Rename(from, to) => opcode::RenameAt::new(here, keep(text(from)?), here, keep(text(to)?)).build(),
        Request::Unlink(path) => opcode::UnlinkAt::new(here, keep(text(path)?)).build(),
        Request::MakeDirectory(path) => opcode::MkDirAt::new(here, keep(text(path)?)).mode(0o755).build(),
        Request::Symlink(target, name) => opcode::SymlinkAt::new(here, keep(text(target)?), keep(text(name)?)).build(),
        Request::Link(from, to) => opcode::LinkAt::new(here, keep(text(from)?), here, keep(text(to)?)).build(),
        Request::SetAttribute(path, name, value) => {
            let (name, path) = (keep(CString::new(name)?), keep(text(path)?));
            opcode::SetXattr::new(name, value.as_ptr().cast(), path, value.len() as u32).build()
        }
        Request::SetAttributeOf(file, name, value) => {
            let (fd, name) = (types::Fd(file.as_raw_fd()), keep(CString::new(name)?));
            opcode::FSetXattr::new(fd, name, value.as_ptr().cast(), value.len() as u32).build()
        }
        Request::Truncate(file, size) => opcode::Ftruncate::new(types::Fd(file.as_raw_fd()), size).build(),
        Request::Allocate(file, mode, offset, len) => {
            opcode::Fallocate::new(types::Fd(file.as_raw_fd()), len).offset(offset).mode(mode).build()
        }
        Request::Open(path, flags) => opcode::OpenAt::new(here, keep(text(path)?)).flags(flags).mode(0o644).build(),
    };
    let mut ring = IoUring::new(2)?;
    let value = push(&mut ring, &entry)?;
    if let Request::Open(..) = request {
        // SAFETY: a descriptor that the kernel has just given.
        drop(unsafe { OwnedFd::from_raw_fd(value) });
    }
    Ok(())
}

/// Submits one request, waits for it, and returns its result.
fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<i32> {
    // SAFETY: callers keep what the entry points to until this returns.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().map_or(-libc::EIO, |completion| completion.result());
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn whole(done: i64, len: usize) -> io::Result<()> {
    if check(done)? == len as i64 { Ok(()) } else { Err(io::Error::other(format!("{done} bytes of {len}"))) }
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

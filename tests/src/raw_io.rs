//! Ways to write a file that the standard library lacks: mappings, kernel AIO, io_uring, faults that wait.
#![expect(
    unsafe_code,
    reason = "mappings, kernel AIO, io_uring and userfaultfd of the cases, which no safe crate offers"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A buffer aligned for direct I/O.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Pages<const N: usize>(pub [u8; N]);

/// Writes two pages at `offset`, of which the second cannot be read, so that a direct write fails partway. Returns the
/// result of the call.
///
/// # Errors
/// The kernel's, including those of the write.
pub fn torn_write(file: &File, byte: u8, offset: u64) -> io::Result<usize> {
    const PAGE: usize = 4096;
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice, whose first page alone is touched, and which ends here.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), 2 * PAGE, rights, flags, -1, 0);
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        std::ptr::write_bytes(at.cast::<u8>(), byte, PAGE);
        libc::mprotect(at.byte_add(PAGE), PAGE, libc::PROT_NONE);
        let written = libc::pwrite(file.as_raw_fd(), at, 2 * PAGE, offset as libc::off_t);
        let error = io::Error::last_os_error();
        libc::munmap(at, 2 * PAGE);
        usize::try_from(written).map_err(|_| error)
    }
}

/// Writes through `io_submit`, and waits.
///
/// # Errors
/// The kernel's.
pub fn aio_write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    // struct iocb: data, key and flags, opcode and priority, descriptor, buffer, bytes, offset, reserved, flags and eventfd.
    const PWRITE: u64 = 1;
    let mut iocb = [0u64; 8];
    iocb[2] = PWRITE | (file.as_raw_fd() as u64) << 32;
    iocb[3] = bytes.as_ptr() as u64;
    iocb[4] = bytes.len() as u64;
    iocb[5] = offset;
    let mut context = 0u64;
    let mut event = [0u64; 4];
    let list = [iocb.as_ptr()];
    // SAFETY: every pointer is to a live local of the size the call uses, and the request ends before they do.
    let (submitted, reaped) = unsafe {
        check(libc::syscall(libc::SYS_io_setup, 1, &raw mut context))?;
        let submitted = libc::syscall(libc::SYS_io_submit, context, 1, list.as_ptr());
        let reaped = if submitted == 1 {
            libc::syscall(libc::SYS_io_getevents, context, 1, 1, event.as_mut_ptr(), std::ptr::null_mut::<u8>())
        } else {
            0
        };
        libc::syscall(libc::SYS_io_destroy, context);
        (submitted, reaped)
    };
    if submitted != 1 || reaped != 1 || event[2] != bytes.len() as u64 {
        return Err(io::Error::other(format!(
            "aio: submitted {submitted}, reaped {reaped}, result {}",
            event[2] as i64
        )));
    }
    Ok(())
}

/// Writes through io_uring; with `worker` a kernel worker does it.
///
/// # Errors
/// The kernel's.
pub fn uring_write(file: &File, bytes: &[u8], offset: u64, worker: bool) -> io::Result<()> {
    let mut ring = io_uring::IoUring::new(2)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let entry = io_uring::opcode::Write::new(io_uring::types::Fd(file.as_raw_fd()), bytes.as_ptr(), length)
        .offset(offset)
        .build();
    let flags = if worker { io_uring::squeue::Flags::ASYNC } else { io_uring::squeue::Flags::empty() };
    submit(&mut ring, &entry.flags(flags), length as i32)
}

/// Truncates through io_uring, which always uses a kernel worker.
///
/// # Errors
/// The kernel's.
pub fn uring_truncate(file: &File, size: u64) -> io::Result<()> {
    let mut ring = io_uring::IoUring::new(2)?;
    let entry = io_uring::opcode::Ftruncate::new(io_uring::types::Fd(file.as_raw_fd()), size).build();
    submit(&mut ring, &entry, 0)
}

fn submit(ring: &mut io_uring::IoUring, entry: &io_uring::squeue::Entry, expected: i32) -> io::Result<()> {
    // SAFETY: what the entry points to outlives the completion that is waited for here.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    let result = loop {
        match ring.submit_and_wait(1) {
            // The wait ends early when this thread is paused, also after it has submitted something.
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        if let Some(completion) = ring.completion().next() {
            break completion.result();
        }
    };
    if result == expected { Ok(()) } else { Err(io::Error::other(format!("io_uring: {result}"))) }
}

/// Makes `len` bytes at `to` share the blocks of those at `from`, in the same file.
///
/// # Errors
/// The kernel's; `EOPNOTSUPP` if the file system has no clones.
pub fn clone_range(file: &File, from: u64, len: u64, to: u64) -> io::Result<()> {
    // _IOW(0x94, 13, struct file_clone_range): source descriptor, source offset, length, offset.
    const CLONE_RANGE: u64 = 0x4020_940d;
    let argument = [file.as_raw_fd() as u64, from, len, to];
    // SAFETY: the argument lives through the call and has the layout that the kernel documents.
    check(unsafe { libc::ioctl(file.as_raw_fd(), CLONE_RANGE, argument.as_ptr()) }.into()).map(drop)
}

/// Starts the write-back of all dirty pages without waiting for it.
///
/// # Errors
/// The kernel's.
pub fn start_write_back(file: &File) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) }.into()).map(drop)
}

/// A file system whose writes wait until this is dropped.
#[derive(Debug)]
pub struct Frozen<'a>(&'a File);

impl<'a> Frozen<'a> {
    /// Freezes the file system of an open file.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(file: &'a File) -> io::Result<Self> {
        const FREEZE: u64 = 0xc004_5877;
        // SAFETY: the call takes no argument.
        check(unsafe { libc::ioctl(file.as_raw_fd(), FREEZE, 0) }.into())?;
        Ok(Self(file))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        const THAW: u64 = 0xc004_5878;
        // SAFETY: the call takes no argument.
        let thawed = check(unsafe { libc::ioctl(self.0.as_raw_fd(), THAW, 0) }.into());
        thawed.expect("a file system that was frozen is thawed");
    }
}

/// A shared, writable mapping of a whole file.
#[derive(Debug)]
pub struct Mapping {
    at: *mut u8,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes of the file.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(file: &File, len: usize) -> io::Result<Self> {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, rights, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { at: at.cast(), len }) }
    }

    /// The address of byte `offset` of the mapping, which has `len` bytes from there.
    pub(crate) fn address(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset + len <= self.len);
        self.at.wrapping_add(offset)
    }

    /// One byte as it is in memory; causes a read fault if the page is not mapped yet.
    #[must_use]
    pub fn load(&self, offset: usize) -> u8 {
        assert!(offset < self.len);
        // SAFETY: within the mapping.
        unsafe { std::ptr::read_volatile(self.at.add(offset)) }
    }

    /// Stores one byte.
    pub fn store(&self, offset: usize, byte: u8) {
        assert!(offset < self.len);
        // SAFETY: within the mapping.
        unsafe { std::ptr::write_volatile(self.at.add(offset), byte) };
    }

    /// Stores eight bytes at once, at a multiple of eight.
    pub fn store_word(&self, offset: usize, word: u64) {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len);
        // SAFETY: within the mapping, and aligned, since a mapping begins at a page.
        unsafe { std::ptr::write_volatile(self.at.add(offset).cast(), word) };
    }
}

// SAFETY: plain memory, accessed one volatile byte at a time; it may be moved to another thread.
unsafe impl Send for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, and nobody has a reference into it.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// Two pages of memory of which the second is missing: a reader of it waits until `fill`.
#[derive(Debug)]
pub struct SlowSource {
    at: *mut u8,
    uffd: OwnedFd,
}

// SAFETY: plain memory that is only read, through `bytes`.
unsafe impl Sync for SlowSource {}
// SAFETY: as above.
unsafe impl Send for SlowSource {}

const PAGE: usize = 4096;

impl SlowSource {
    /// Makes the pages; the first is full of `byte`.
    ///
    /// # Errors
    /// The kernel's, for instance when userfaultfd is not allowed.
    pub fn new(byte: u8) -> io::Result<Self> {
        const API: u64 = 0xc018_aa3f;
        const REGISTER: u64 = 0xc020_aa00;
        const MISSING: u64 = 1;
        // SAFETY: a new anonymous mapping; the arguments of the calls are live locals of the layout the kernel documents.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(std::ptr::null_mut(), 2 * PAGE, rights, flags, -1, 0);
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let at = at.cast::<u8>();
            std::ptr::write_bytes(at, byte, PAGE);
            let uffd = OwnedFd::from_raw_fd(check(libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC))? as i32);
            let mut api = [0xaau64, 0, 0];
            check(libc::ioctl(uffd.as_raw_fd(), API, api.as_mut_ptr()).into())?;
            let mut register = [at as u64 + PAGE as u64, PAGE as u64, MISSING, 0];
            check(libc::ioctl(uffd.as_raw_fd(), REGISTER, register.as_mut_ptr()).into())?;
            Ok(Self { at, uffd })
        }
    }

    /// Both pages.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped and never unmapped (a test's leak of two pages); reading the second page waits for `fill`.
        unsafe { std::slice::from_raw_parts(self.at, 2 * PAGE) }
    }

    /// Waits until a thread has reached the second page.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self) -> io::Result<()> {
        let mut message = [0u64; 4];
        // SAFETY: the buffer has the size of the message.
        check(unsafe { libc::read(self.uffd.as_raw_fd(), message.as_mut_ptr().cast(), 32) } as i64).map(drop)
    }

    /// Fills the second page with `byte`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn fill(&self, byte: u8) -> io::Result<()> {
        const COPY: u64 = 0xc028_aa03;
        let page = Pages([byte; PAGE]);
        let mut copy = [self.at as u64 + PAGE as u64, page.0.as_ptr() as u64, PAGE as u64, 0, 0];
        // SAFETY: source and destination are pages of this process.
        check(unsafe { libc::ioctl(self.uffd.as_raw_fd(), COPY, copy.as_mut_ptr()) }.into()).map(drop)
    }
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

//! What capture is compared with: an empty program on the same tracepoints, inotify, fanotify. Each is active until it is
//! dropped.
#![expect(unsafe_code, reason = "an empty program, inotify and fanotify, which no safe crate offers")]

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_ENABLE_STATS: libc::c_int = 32;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const RAW_TRACEPOINT: u32 = 17;

/// The result of the call, if it is not an error.
fn ask(command: libc::c_int, attributes: &mut [u64]) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes the array within the length that is passed; what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    libc::c_int::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

fn bpf(command: libc::c_int, attributes: &mut [u64]) -> io::Result<OwnedFd> {
    let fd = ask(command, attributes)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `return 0` on each of these tracepoints: the cost of being called at all.
pub(super) struct EmptyPrograms {
    _all: Vec<OwnedFd>,
}

impl EmptyPrograms {
    /// Tracepoints that this kernel does not have are left out.
    pub(super) fn attach<'a>(tracepoints: impl Iterator<Item = &'a str>) -> io::Result<EmptyPrograms> {
        // r0 = 0; exit
        let code: [u64; 2] = [0xb7, 0x95];
        let mut load = [0u64; 16];
        load[0] = u64::from(RAW_TRACEPOINT) | (code.len() as u64) << 32;
        load[1] = code.as_ptr() as u64;
        load[2] = c"GPL".as_ptr() as u64;
        let program = bpf(BPF_PROG_LOAD, &mut load)?;
        let mut all = Vec::new();
        for name in tracepoints {
            let name = std::ffi::CString::new(name)?;
            if let Ok(link) =
                bpf(BPF_RAW_TRACEPOINT_OPEN, &mut [name.as_ptr() as u64, program.as_raw_fd() as u64, 0, 0])
            {
                all.push(link);
            }
        }
        if all.is_empty() {
            Err(io::Error::other("no tracepoint took the program"))
        } else {
            Ok(EmptyPrograms { _all: all })
        }
    }
}

/// Run times of programs by the kernel's own clock (`BPF_ENABLE_STATS`); ends when dropped.
pub(super) struct ProgramTimes {
    foreign: HashSet<u32>,
    _enabled: OwnedFd,
}

impl ProgramTimes {
    /// For programs that are loaded from now on.
    pub(super) fn begin() -> io::Result<ProgramTimes> {
        // BPF_STATS_RUN_TIME
        Ok(ProgramTimes { foreign: programs()?.into_iter().collect(), _enabled: bpf(BPF_ENABLE_STATS, &mut [0])? })
    }

    /// Nanoseconds and runs so far.
    pub(super) fn sum(&self) -> io::Result<(u64, u64)> {
        let mut sum = (0, 0);
        for id in programs()?.into_iter().filter(|id| !self.foreign.contains(id)) {
            let program = bpf(BPF_PROG_GET_FD_BY_ID, &mut [u64::from(id)])?;
            // The first 208 bytes of bpf_prog_info (include/uapi/linux/bpf.h, the same since 5.1); run_time_ns and run_cnt
            // are the last two of these.
            let mut info = [0u64; 26];
            let about = program.as_raw_fd() as u64 | (size_of_val(&info) as u64) << 32;
            ask(BPF_OBJ_GET_INFO_BY_FD, &mut [about, info.as_mut_ptr() as u64])?;
            (sum.0, sum.1) = (sum.0 + info[24], sum.1 + info[25]);
        }
        Ok(sum)
    }
}

/// Ids of all programs that are loaded.
fn programs() -> io::Result<Vec<u32>> {
    let mut all = Vec::new();
    loop {
        // start_id and next_id, open_flags
        let mut attributes = [u64::from(all.last().copied().unwrap_or(0)), 0];
        match ask(BPF_PROG_GET_NEXT_ID, &mut attributes) {
            Ok(_) => all.push((attributes[0] >> 32) as u32),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
            Err(error) => return Err(error),
        }
    }
}

/// A thread that reads events as they arrive, as a watching program has to.
pub(super) struct Reader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    bytes: Arc<AtomicU64>,
}

impl Reader {
    fn start(fd: OwnedFd) -> Reader {
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, read) = (Arc::clone(&stop), Arc::clone(&bytes));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0u8; 256 << 10];
            while !ended.load(Ordering::Relaxed) {
                let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one valid structure, and a buffer of the length that is passed.
                let got = unsafe {
                    if libc::poll(&raw mut poll, 1, 50) <= 0 {
                        continue;
                    }
                    libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
                };
                read.fetch_add(u64::try_from(got).unwrap_or(0), Ordering::Relaxed);
            }
        });
        Reader { stop, thread: Some(thread), bytes }
    }

    /// Bytes of events so far; 0 would mean that nothing was watched.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Events for changes in a directory and to its files.
    pub(super) fn inotify(directory: &Path) -> io::Result<Reader> {
        let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
        let mask = libc::IN_MODIFY | libc::IN_ATTRIB | libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVE;
        // SAFETY: a path that ends with a zero; the descriptor is new and owned by nobody else.
        unsafe {
            let fd = check(libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK))?;
            let fd = OwnedFd::from_raw_fd(fd);
            check(libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), mask))?;
            Ok(Reader::start(fd))
        }
    }

    /// Events for the whole file system of `directory`, with file handles and names.
    pub(super) fn fanotify(directory: &Path) -> io::Result<Reader> {
        let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
        let report = libc::FAN_REPORT_FID | libc::FAN_REPORT_DIR_FID | libc::FAN_REPORT_NAME;
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | report;
        let mask = libc::FAN_MODIFY | libc::FAN_ATTRIB | libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVE;
        // SAFETY: a path that ends with a zero; the descriptor is new and owned by nobody else.
        unsafe {
            let fd = check(libc::fanotify_init(flags, libc::O_RDONLY as u32))?;
            let fd = OwnedFd::from_raw_fd(fd);
            let how = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
            check(libc::fanotify_mark(fd.as_raw_fd(), how, mask | libc::FAN_ONDIR, libc::AT_FDCWD, path.as_ptr()))?;
            Ok(Reader::start(fd))
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It returns nothing.
            let _ = thread.join();
        }
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Writes the file's dirty pages back, so that its next writes find clean ones.
pub(super) fn clean(file: &std::fs::File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: no memory is passed.
    check(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) }).map(drop)
}

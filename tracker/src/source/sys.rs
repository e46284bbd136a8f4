//! The system calls for which there is no safe wrapper here: file handles, `sync_file_range`, `poll`, extended inode flags
//! and one store through a mapping. The only `unsafe` code of `source`.
#![expect(
    unsafe_code,
    reason = "file handles, sync_file_range, extended inode flags and mappings have no safe wrapper"
)]

use std::ffi::{c_int, c_long, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl;

/// `MAX_HANDLE_SZ` of the kernel.
const HANDLE_BYTES: usize = 128;

/// `struct file_handle` with room for the largest handle.
#[repr(C)]
struct RawHandle {
    bytes: c_uint,
    kind: c_int,
    handle: [u8; HANDLE_BYTES],
}

/// Stores one byte at `offset` (a multiple of the page size) through a shared mapping that exists only for this call.
///
/// # Errors
/// When the file cannot be mapped. Truncating the file meanwhile ends the process with SIGBUS: use only with files that
/// nobody else can reach.
pub fn store_mapped(file: &std::fs::File, offset: u64, byte: u8) -> io::Result<()> {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    const LEN: usize = 4096;
    // SAFETY: a new mapping at an address of the kernel's choice; it is unmapped before the function returns, and nothing
    // else refers to it. The store stays inside of it.
    unsafe {
        let at = mmap(std::ptr::null_mut(), LEN, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, offset)?;
        at.cast::<u8>().write_volatile(byte);
        munmap(at, LEN)?;
    }
    Ok(())
}

/// A file handle as bytes for storage: the type (4 bytes, little endian) and the handle itself.
pub(super) fn name_to_handle(fd: impl AsFd) -> io::Result<Vec<u8>> {
    name_to_handle_at(fd, b"")
}

/// As [`name_to_handle`], of `name` in the directory `fd`; does not follow a symlink.
pub(super) fn name_to_handle_at(fd: impl AsFd, name: &[u8]) -> io::Result<Vec<u8>> {
    let name = std::ffi::CString::new(name)?;
    let mut raw = RawHandle { bytes: HANDLE_BYTES as c_uint, kind: 0, handle: [0; HANDLE_BYTES] };
    let mut mount: c_int = 0;
    // SAFETY: `raw` and `mount` live across the call; `raw.bytes` says how many bytes the kernel may write to it, and
    // `name` is a C string; an empty one is `fd` itself by AT_EMPTY_PATH.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_fd().as_raw_fd(),
            name.as_ptr(),
            &raw mut raw,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    check(result)?;
    let handle = raw.handle.get(..raw.bytes as usize).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut out = raw.kind.to_le_bytes().to_vec();
    out.extend_from_slice(handle);
    Ok(out)
}

/// Opens (O_PATH) the file of a handle made by [`name_to_handle`] on the file system of `mount`. ESTALE: no such inode.
pub(super) fn open_by_handle(mount: impl AsFd, handle: &[u8]) -> io::Result<OwnedFd> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let (kind, handle) = handle.split_first_chunk::<4>().ok_or_else(invalid)?;
    let mut raw = RawHandle {
        bytes: c_uint::try_from(handle.len()).map_err(|_| invalid())?,
        kind: c_int::from_le_bytes(*kind),
        handle: [0; HANDLE_BYTES],
    };
    raw.handle.get_mut(..handle.len()).ok_or_else(invalid)?.copy_from_slice(handle);
    // SAFETY: `raw` lives across the call, and `raw.bytes` is at most the size of its array.
    let result = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_fd().as_raw_fd(),
            &raw mut raw,
            libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC,
        )
    };
    let fd = c_int::try_from(check(result)?).map_err(|_| invalid())?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the kernel's path of `fd` is below that of `dir`, both seen through the same mount.
pub(super) fn is_below(fd: impl AsFd, dir: impl AsFd) -> bool {
    let path = |fd: i32| std::fs::read_link(format!("/proc/self/fd/{fd}"));
    match (path(fd.as_fd().as_raw_fd()), path(dir.as_fd().as_raw_fd())) {
        // For an open file the kernel still reports a name that was removed.
        (Ok(path), Ok(_)) if path.as_os_str().as_encoded_bytes().ends_with(b" (deleted)") => false,
        (Ok(path), Ok(dir)) => path != dir && path.starts_with(&dir),
        _ => false,
    }
}

/// Writes all dirty pages of the file back and waits for them (all three flags): later stores through mappings fault again.
/// Flushes neither the disk's cache nor the metadata.
pub(super) fn write_back(fd: impl AsFd) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: no memory is passed.
    let result = unsafe { libc::sync_file_range(fd.as_fd().as_raw_fd(), 0, 0, flags) };
    check(c_long::from(result)).map(|_| ())
}

/// Whether the mount table has changed since the last call for this open file.
pub(super) fn has_changed(table: &std::fs::File) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: table.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
    // SAFETY: one valid structure, which outlives the call.
    let result = unsafe { libc::poll(&raw mut poll, 1, 0) };
    check(c_long::from(result))?;
    Ok(poll.revents & (libc::POLLPRI | libc::POLLERR) != 0)
}

/// `f_fsid` of `statfs`; 0 where the file system has none.
pub(super) fn fs_id(fd: impl AsFd) -> io::Result<u64> {
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel fills the structure, whose type fits the call, when it answers 0.
    let result = unsafe { libc::fstatfs(fd.as_fd().as_raw_fd(), found.as_mut_ptr()) };
    check(c_long::from(result))?;
    // SAFETY: the call succeeded. `fsid_t` is two 32-bit words in every libc for Linux, private in the binding.
    Ok(unsafe { std::mem::transmute::<libc::fsid_t, u64>(found.assume_init().f_fsid) })
}

/// The UUID of the file system of `fd`, which must be open for reading: FS_IOC_GETFSUUID of include/uapi/linux/fs.h,
/// Linux 6.9 and later.
pub(super) fn fs_uuid(fd: impl AsFd) -> io::Result<Vec<u8>> {
    const GET_FS_UUID: libc::c_ulong = 0x8011_1500;
    let mut uuid = [0u8; 17];
    // SAFETY: the kernel writes `struct fsuuid2`, 17 bytes: a length and 16 bytes.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), GET_FS_UUID as _, &raw mut uuid) };
    check(c_long::from(result))?;
    let found = uuid.get(1..=usize::from(uuid[0])).filter(|found| found.iter().any(|byte| *byte != 0));
    found.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// `struct fsxattr` of include/uapi/linux/fs.h. Only flags and project are used; the rest is written back unchanged.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct FsXattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

impl FsXattr {
    pub(super) fn project(&self) -> u32 {
        self.project
    }

    pub(super) fn with_flags(self, set: u32, clear: u32) -> FsXattr {
        FsXattr { flags: self.flags & !clear | set, ..self }
    }

    pub(super) fn with_project(self, project: u32) -> FsXattr {
        FsXattr { project, ..self }
    }
}

/// `FS_IOC_FSGETXATTR`; `fd` must not be O_PATH.
pub(super) fn get_xflags(fd: impl AsFd) -> Result<FsXattr, Errno> {
    const FSGETXATTR: ioctl::Opcode = ioctl::opcode::read::<FsXattr>(b'X', 31);
    // SAFETY: the kernel writes a `struct fsxattr`, which the type is, all of it numbers.
    unsafe { ioctl::ioctl(fd, ioctl::Getter::<FSGETXATTR, FsXattr>::new()) }
}

/// `FS_IOC_FSSETXATTR`; `fd` must not be O_PATH.
pub(super) fn set_xflags(fd: impl AsFd, to: FsXattr) -> Result<(), Errno> {
    const FSSETXATTR: ioctl::Opcode = ioctl::opcode::write::<FsXattr>(b'X', 32);
    // SAFETY: the kernel reads a `struct fsxattr`, which the type is.
    unsafe { ioctl::ioctl(fd, ioctl::Setter::<FSSETXATTR, FsXattr>::new(to)) }
}

/// The number of the mount of `fd`, which no other mount of this boot gets (STATX_MNT_ID_UNIQUE, Linux 6.8 and later).
pub(super) fn unique_mount(fd: impl AsFd) -> Option<u64> {
    const MNT_ID_UNIQUE: u32 = 0x4000;
    let flags = rustix::fs::AtFlags::EMPTY_PATH;
    let found = rustix::fs::statx(fd, c"", flags, rustix::fs::StatxFlags::from_bits_retain(MNT_ID_UNIQUE)).ok()?;
    (found.stx_mask & MNT_ID_UNIQUE != 0).then_some(found.stx_mnt_id)
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

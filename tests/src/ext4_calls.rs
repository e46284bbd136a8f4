//! Calls that only ext4 has, made as `linux/fs/ext4/ext4.h` numbers them (Linux 6.1 to 6.18).
#![expect(unsafe_code, reason = "two ioctls of ext4 alone, which no safe crate offers")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `struct move_extent`.
#[repr(C)]
struct MoveExtent {
    reserved: u32,
    donor_fd: u32,
    orig_start: u64,
    donor_start: u64,
    len: u64,
    moved_len: u64,
}

/// `EXT4_IOC_MOVE_EXT`: `_IOWR('f', 15, struct move_extent)`.
const MOVE_EXT: u64 = 0xc028_660f;
/// `EXT4_IOC_SWAP_BOOT`: `_IO('f', 17)`.
const SWAP_BOOT: u64 = 0x6611;

/// Exchanges the disk blocks of `file` and `donor` for `len` blocks at `start`; `file` keeps its content in its new blocks,
/// and the donor gets the old ones as unwritten, so that it has zeros there. Its pages in memory keep its old content. Both
/// starts must be equal. Returns how many blocks were moved.
///
/// # Errors
/// The kernel's.
pub fn move_extents(file: &File, donor: &File, start: u64, len: u64) -> io::Result<u64> {
    let mut request = MoveExtent {
        reserved: 0,
        donor_fd: donor.as_raw_fd() as u32,
        orig_start: start,
        donor_start: start,
        len,
        moved_len: 0,
    };
    // SAFETY: the request is a live local of the layout that this call reads and writes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), MOVE_EXT, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request.moved_len) }
}

/// Exchanges the content of `file` with that of the file system's boot loader inode.
///
/// # Errors
/// The kernel's.
pub fn swap_boot(file: &File) -> io::Result<()> {
    // SAFETY: this call has no argument.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), SWAP_BOOT) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

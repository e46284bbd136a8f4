//! Which x86-64 system calls explain a timestamp tick on btrfs, where truncate, punch and clone have no tracepoint.
//!
//! Only certain cases are listed; a tick from anything else widens the file. It is not known whether the task runs in
//! 32-bit mode, so a number may be listed only if its 32-bit meaning changes no file content either: 92 and 93 (`chown`,
//! `fchown`) mean `truncate` and `ftruncate` there, and are therefore not listed.

/// What a tick means, seen from the system call that was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Content was written through the page cache or by direct I/O: other hooks marked the range.
    Data,
    /// Names, attributes or times only.
    Metadata,
    /// The size was set to the second argument of the call: everything after it may have changed.
    Truncate,
    /// Anything else: the whole content may have changed.
    Unknown,
}

/// `pt_regs.orig_ax` of an exception; if a tick follows, it is a page fault.
pub const FAULT: u64 = u64::MAX;

/// The cause behind system call number `number` of the x86-64 table.
#[must_use]
#[inline(always)]
pub const fn cause(number: u64) -> Cause {
    match number {
        // write, pwrite64, writev, pwritev, pwritev2
        1 | 18 | 20 | 296 | 328 | FAULT => Cause::Data,
        // truncate, ftruncate
        76 | 77 => Cause::Truncate,
        // rename, mkdir, rmdir
        82..=84
        // link, unlink, symlink
        | 86..=88
        // chmod, fchmod, lchown
        | 90 | 91 | 94
        // utime, mknod
        | 132 | 133
        // setxattr, lsetxattr, fsetxattr
        | 188..=190
        // removexattr, lremovexattr, fremovexattr
        | 197..=199
        // utimes
        | 235
        // mkdirat, mknodat, fchownat, futimesat
        | 258..=261
        // unlinkat, renameat, linkat, symlinkat
        | 263..=266
        // fchmodat, utimensat, renameat2, fchmodat2
        | 268 | 280 | 316 | 452
        // setxattrat, removexattrat
        | 463 | 466 => Cause::Metadata,
        _ => Cause::Unknown,
    }
}

/// Whether a system call may be `ioctl`: its x86-64 number, the 32-bit one, or that of x32. On a file, none of the others
/// with these numbers does anything.
#[must_use]
#[inline(always)]
pub const fn is_ioctl(number: u64) -> bool {
    matches!(number, 16 | 54 | 0x4000_0202)
}

/// Whether a system call is the x86-64 `open_by_handle_at`.
#[must_use]
#[inline(always)]
pub const fn is_open_by_handle(number: u64) -> bool {
    number == 304
}

/// `super_block.s_magic` of ext4, ext3 and ext2.
pub const EXT4_MAGIC: u64 = 0xef53;
/// `super_block.s_magic` of XFS.
pub const XFS_MAGIC: u64 = 0x5846_5342;
/// `super_block.s_magic` of btrfs.
pub const BTRFS_MAGIC: u64 = 0x9123_683e;
/// `super_block.s_magic` of overlayfs.
pub const OVERLAY_MAGIC: u64 = 0x794c_7630;
/// `super_block.s_magic` of tmpfs.
pub const TMPFS_MAGIC: u64 = 0x0102_1994;

#[cfg(test)]
mod tests {
    use super::{Cause, FAULT, cause};

    #[test]
    fn calls_that_can_change_content_without_a_dirty_page_are_never_excused() {
        // open, creat, openat, openat2 (O_TRUNC), ioctl (clone), fallocate, copy_file_range, io_uring_enter, the value of a
        // kernel thread (0), and the 32-bit numbers of truncate, ftruncate, truncate64, ftruncate64.
        for number in [2, 85, 257, 437, 16, 285, 326, 426, 0, 92, 93, 193, 194] {
            assert_eq!(cause(number), Cause::Unknown, "{number}");
        }
        // 32-bit: ioctl 54, copy_file_range 377, fallocate 324, open 5, creat 8, openat 295, openat2 437, ftruncate via x32.
        for number in [54, 377, 324, 5, 8, 295, 0x4000_0000 | 77, 0x4000_0000 | 1] {
            assert_eq!(cause(number), Cause::Unknown, "{number}");
        }
    }

    #[test]
    fn writes_and_faults_are_data() {
        for number in [1, 18, 20, 296, 328, FAULT] {
            assert_eq!(cause(number), Cause::Data);
        }
        assert_eq!(cause(90), Cause::Metadata);
        assert_eq!((cause(76), cause(77)), (Cause::Truncate, Cause::Truncate));
    }
}

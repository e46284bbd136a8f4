//! Inode flags (`chattr`) and the project number of an open file or directory: which are part of the tree, read and set.
//!
//! Flags that a user may set are kept. Flags by which a file system describes its own work (extents, index, encryption,
//! verity, inline data) are not part of a mirror, nor are the flags `s` and `u`, which no file system implements.
//!
//! Each file that is read costs one `FS_IOC_GETFLAGS` and, where there can be projects, one `FS_IOC_FSGETXATTR`: about 0.3
//! microseconds each on ext4 (Linux 6.18), against 3 for the list of its extended attributes and 2 for opening it. `statx`,
//! which is called anyway, has neither no-COW nor the project.

use std::os::fd::{AsFd, OwnedFd};

use engine::model::InodeFlags;
use engine::xattrs::Flags;
use rustix::fs::{AtFlags, IFlags, Mode, OFlags, StatxAttributes, StatxFlags, ioctl_getflags, ioctl_setflags, statx};
use rustix::io::Errno;

use super::fs_type::FsType;
use super::stat::proc_path;
use super::sys;

/// A flag: its bit in the store, its name, its bit in `FS_IOC_GETFLAGS`, and in `FS_IOC_FSGETXATTR` (0: none).
type Row = (u32, &'static str, u32, u32);

/// Numbers from include/uapi/linux/fs.h.
const TABLE: [Row; 15] = [
    (InodeFlags::IMMUTABLE, "immutable", 0x10, 0x8),
    (InodeFlags::APPEND, "append-only", 0x20, 0x10),
    (InodeFlags::NODUMP, "no-dump", 0x40, 0x80),
    (InodeFlags::NOATIME, "no-atime", 0x80, 0x40),
    (InodeFlags::SYNC, "sync", 0x8, 0x20),
    (InodeFlags::DIRSYNC, "dirsync", 0x1_0000, 0),
    (InodeFlags::NOCOW, "no-cow", 0x80_0000, 0),
    (InodeFlags::COMPRESS, "compress", 0x4, 0),
    (InodeFlags::NOCOMPRESS, "no-compress", 0x400, 0),
    (InodeFlags::JOURNAL_DATA, "journal-data", 0x4000, 0),
    (InodeFlags::NOTAIL, "no-tail", 0x8000, 0),
    (InodeFlags::TOPDIR, "topdir", 0x2_0000, 0),
    (InodeFlags::DAX, "dax", 0x200_0000, 0x8000),
    (InodeFlags::PROJECT_INHERIT, "project-inherit", 0x2000_0000, 0x200),
    (InodeFlags::CASEFOLD, "casefold", 0x4000_0000, 0),
];

/// With one of these flags, a file's content (except appends), attributes and names cannot be changed until the flag is
/// removed.
pub(crate) const SEALS: u32 = InodeFlags::IMMUTABLE | InodeFlags::APPEND;

/// The names of these flags, as shown by `ls` and a restore.
pub fn flag_names(bits: u32) -> Vec<&'static str> {
    TABLE.iter().filter(|row| bits & row.0 != 0).map(|row| row.1).collect()
}

/// A descriptor of the same file or directory, for calls that do not take O_PATH. Not for devices and fifos, which react to
/// an open.
///
/// # Errors
/// If it may not be read.
pub(crate) fn reopen(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(proc_path(fd), flags, Mode::empty())
}

/// The flags of a regular file or directory that is open for reading; all 0 if its file system has none.
///
/// # Errors
/// If the file system has flags but they cannot be read.
pub(crate) fn read(fd: impl AsFd, fs: FsType) -> Result<Flags, Errno> {
    let Some(bits) = bits(&fd)? else { return Ok(Flags::default()) };
    let project = match fs {
        FsType::Btrfs | FsType::Tmpfs => 0,
        _ => project(&fd)?.unwrap_or_default(),
    };
    Ok(Flags { bits, project })
}

/// As [`read`], without the project; `None` if the file system has no flags.
pub(crate) fn bits(fd: impl AsFd) -> Result<Option<u32>, Errno> {
    let found = if_known(ioctl_getflags(fd))?;
    Ok(found.map(|found| TABLE.iter().filter(|row| found.bits() & row.2 != 0).fold(0, |bits, row| bits | row.0)))
}

/// The project; `None` if the file system has none.
pub(crate) fn project(fd: impl AsFd) -> Result<Option<u32>, Errno> {
    Ok(if_known(sys::get_xflags(fd))?.map(|found| found.project()))
}

/// Whether the file is immutable or append-only, by any kind of descriptor. `false` if the file system does not tell.
pub(crate) fn is_sealed(fd: impl AsFd) -> bool {
    let seals = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    let found = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE);
    found.is_ok_and(|found| found.stx_attributes.intersects(seals))
}

fn if_known<T>(answer: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(errno) if is_unknown(errno) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The file system has no such call, or no such flag.
fn is_unknown(errno: Errno) -> bool {
    matches!(errno, Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)
}

/// Sets and clears flags; the two sets are disjoint.
///
/// Each change uses `FS_IOC_FSSETXATTR` if possible: with the other call btrfs chooses the compression method of a
/// compressed file again (`btrfs_fileattr_set`, Linux 6.18).
///
/// # Errors
/// That of the first call that failed: earlier flags may be set.
pub(crate) fn change(fd: impl AsFd, set: u32, clear: u32) -> Result<(), Errno> {
    let fd = fd.as_fd();
    let extended: u32 = TABLE.iter().filter(|row| row.3 != 0).fold(0, |bits, row| bits | row.0);
    change_plain(fd, set & !extended, clear & !extended)?;
    let (set, clear) = (set & extended, clear & extended);
    if set | clear == 0 {
        return Ok(());
    }
    let of = |bits: u32| TABLE.iter().filter(|row| bits & row.0 != 0).fold(0, |out, row| out | row.3);
    match sys::get_xflags(fd).and_then(|now| sys::set_xflags(fd, now.with_flags(of(set), of(clear)))) {
        Err(errno) if is_unknown(errno) => change_plain(fd, set, clear),
        other => other,
    }
}

fn change_plain(fd: impl AsFd, set: u32, clear: u32) -> Result<(), Errno> {
    if set | clear == 0 {
        return Ok(());
    }
    let of = |bits: u32| TABLE.iter().filter(|row| bits & row.0 != 0).fold(0, |out, row| out | row.2);
    let now = ioctl_getflags(&fd)?.bits();
    ioctl_setflags(&fd, IFlags::from_bits_retain(now & !of(clear) | of(set)))
}

/// Sets the project of the file.
///
/// # Errors
/// Those of the call; EINVAL also in a user namespace other than the first.
pub(crate) fn set_project(fd: impl AsFd, project: u32) -> Result<(), Errno> {
    sys::set_xflags(&fd, sys::get_xflags(&fd)?.with_project(project))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_the_model_has_numbers_and_a_name_of_its_own() {
        let mut all = (0, 0, 0);
        for (ours, name, kernel, extended) in TABLE {
            assert!(ours.is_power_of_two() && kernel.is_power_of_two() && !name.is_empty());
            assert!(extended == 0 || extended.is_power_of_two());
            assert_eq!((all.0 & ours, all.1 & kernel, all.2 & extended), (0, 0, 0), "{name}");
            all = (all.0 | ours, all.1 | kernel, all.2 | extended);
        }
        assert_eq!(all.0, InodeFlags::ALL);
        assert_eq!(flag_names(InodeFlags::NODUMP | SEALS), ["immutable", "append-only", "no-dump"]);
        for (named, kernel) in [(InodeFlags::NOCOW, IFlags::NOCOW), (InodeFlags::TOPDIR, IFlags::TOPDIR)] {
            assert_eq!(TABLE.iter().find(|row| row.0 == named).unwrap().2, kernel.bits());
        }
    }

    #[test]
    fn flags_are_set_and_cleared_beside_others() {
        let file = tempfile::tempfile().unwrap();
        let Ok(Some(0)) = bits(&file) else {
            println!("SKIP flags_are_set_and_cleared_beside_others: no flags here");
            return;
        };
        change(&file, InodeFlags::NODUMP | InodeFlags::NOATIME, 0).unwrap();
        assert_eq!(bits(&file).unwrap(), Some(InodeFlags::NODUMP | InodeFlags::NOATIME));
        change(&file, 0, InodeFlags::NOATIME).unwrap();
        let found = read(&file, FsType::Other(0)).unwrap();
        assert_eq!(found, Flags { bits: InodeFlags::NODUMP, project: 0 });
        assert!(!is_sealed(&file));
    }

    #[test]
    fn what_has_no_flags_has_none() {
        let proc = std::fs::File::open("/proc/self/status").unwrap();
        assert_eq!(read(&proc, FsType::Other(0)).unwrap(), Flags::default());
        assert!(change(&proc, InodeFlags::NODUMP, 0).is_err());
    }
}

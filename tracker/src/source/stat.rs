//! What the kernel reports of one inode, in the engine's types.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use engine::model::{Dev, Ino, InodeId, Kind, Time};
use engine::source::Stat;
use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;

use super::sys;

/// A `statx`, with further fields that the engine does not need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStat {
    pub stat: Stat,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// `st_dev` as major << 32 | minor; on btrfs the subvolume's, on overlayfs perhaps a layer's.
    pub device: Dev,
    /// Whether this is the root of a mount: then the directory below it is not visible.
    pub mount_root: bool,
}

/// What is used as the generation of an inode on one file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Births {
    /// The birth time; if there is none, the file handle, which contains the file system's generation.
    Lasting,
    /// Nothing: every mount numbers inodes anew, so that not even a birth time identifies a file.
    OfOneMount,
    /// An overlay with this device. An inode with another device has a layer's number, and another layer may use the same
    /// number for a file born in the same clock tick (fs/overlayfs/inode.c, `ovl_map_dev_ino`, 6.18).
    OfLayers(Dev),
}

impl Births {
    /// `statx` of `path`. If it is the root of a mount, this waits for whoever serves it.
    pub(crate) fn stat_path(self, path: &OsStr) -> Result<SourceStat, Errno> {
        self.stat(rustix::fs::CWD, path.as_bytes(), AtFlags::empty())
    }

    /// `statx` of `name` in `dir`, never through a symlink and never triggering an automount. A file system mounted on the
    /// name is not asked: its attributes and generation are the last known ones, or none.
    pub(crate) fn stat_at(self, dir: impl AsFd, name: &OsStr) -> Result<SourceStat, Errno> {
        // A mounted file system may never answer (FUSE without its server, a network that is away): query without asking it
        // first.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let unasked = statx(&dir, name.as_bytes(), flags, StatxFlags::BASIC_STATS)?;
        if unasked.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return from_statx(&unasked);
        }
        self.stat(dir.as_fd(), name.as_bytes(), AtFlags::empty())
    }

    pub(crate) fn stat_fd(self, fd: impl AsFd) -> Result<SourceStat, Errno> {
        self.stat(fd.as_fd(), b"", AtFlags::EMPTY_PATH)
    }

    fn stat(self, dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<SourceStat, Errno> {
        let flags = flags | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let statx = statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
        let mut found = from_statx(&statx)?;
        let of_a_layer = matches!(self, Births::OfLayers(device) if device != found.device);
        let generation = &mut found.stat.inode.generation;
        match self {
            Births::OfOneMount => *generation = 0,
            Births::OfLayers(_) if of_a_layer => *generation = 0,
            Births::Lasting | Births::OfLayers(_) if *generation == 0 => {
                // ESTALE and the like: the file was removed meanwhile. Whoever needs it queries it again.
                let handle = sys::name_to_handle_at(dir, name);
                *generation = handle.map_or(0, |handle| generation_of(&handle));
            }
            Births::Lasting | Births::OfLayers(_) => {}
        }
        Ok(found)
    }
}

/// A file handle as a generation: never 0.
fn generation_of(handle: &[u8]) -> u64 {
    let hash = blake3::hash(handle);
    hash.as_bytes().iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte)).max(1)
}

/// `statx` of an open file for everything but its identity.
pub(crate) fn stat_fd(fd: impl AsFd) -> Result<SourceStat, Errno> {
    Births::OfOneMount.stat_fd(fd)
}

/// Whether the file's inode has room for a birth time.
pub(super) fn has_birth(fd: impl AsFd) -> Result<bool, Errno> {
    let found = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
    Ok(found.stx_mask & StatxFlags::BTIME.bits() != 0)
}

fn from_statx(found: &Statx) -> Result<SourceStat, Errno> {
    let mode = u32::from(found.stx_mode);
    let kind = kind_of(FileType::from_raw_mode(mode)).ok_or(Errno::NOTSUP)?;
    let born = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    let rdev = match kind {
        Kind::CharDevice | Kind::BlockDevice => rustix::fs::makedev(found.stx_rdev_major, found.stx_rdev_minor),
        _ => 0,
    };
    Ok(SourceStat {
        stat: Stat {
            inode: InodeId {
                ino: Ino(found.stx_ino),
                generation: if born { nanoseconds(&found.stx_btime) } else { 0 },
            },
            kind,
            mode: mode & 0o7777,
            uid: found.stx_uid,
            gid: found.stx_gid,
            rdev,
            size: found.stx_size,
            nlink: found.stx_nlink,
            mtime: time(&found.stx_mtime),
            ctime: time(&found.stx_ctime),
        },
        blocks: found.stx_blocks,
        device: device_of(found)?,
        mount_root: found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

/// `st_dev`.
pub(crate) fn device_of(found: &Statx) -> Result<Dev, Errno> {
    Dev::new(found.stx_dev_major, found.stx_dev_minor).ok_or(Errno::OVERFLOW)
}

pub(crate) fn kind_of(found: FileType) -> Option<Kind> {
    Some(match found {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => return None,
    })
}

fn time(stamp: &StatxTimestamp) -> Time {
    // The format holds less than a second here, whatever a FUSE file system returns.
    Time { sec: stamp.tv_sec, nsec: stamp.tv_nsec.min(999_999_999) }
}

/// Nanoseconds since 1970, wrapping: only compared for equality.
fn nanoseconds(stamp: &StatxTimestamp) -> u64 {
    (stamp.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(u64::from(stamp.tv_nsec))
}

/// A path that leads to the open inode itself, also for O_PATH descriptors of symlinks.
pub(crate) fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

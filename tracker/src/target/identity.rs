//! The identity of a directory: device, mount, inode and birth.

use std::os::fd::AsFd;

use engine::model::{Dev, Ino};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use crate::source::stat::device_of;

/// The identity of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: Dev,
    /// 0 before Linux 5.8.
    mount: u64,
    ino: Ino,
    born: (i64, u32),
}

impl Identity {
    pub(crate) fn of(fd: impl AsFd) -> Result<Identity, Errno> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
        let found = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, wanted)?;
        let has = |flag: StatxFlags| found.stx_mask & flag.bits() != 0;
        let born = (found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
        Ok(Identity {
            device: device_of(&found)?,
            mount: if has(StatxFlags::MNT_ID) { found.stx_mnt_id } else { 0 },
            ino: Ino(found.stx_ino),
            born: if has(StatxFlags::BTIME) { born } else { (0, 0) },
        })
    }

    /// A rename is possible between two directories for which this is equal.
    pub(crate) fn file_system(self) -> (Dev, u64) {
        (self.device, self.mount)
    }
}

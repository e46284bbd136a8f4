//! The numbers by which the kernel knows files and file systems.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// Number of an inode: names a file on one file system, while it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// No inode is known yet. No file system gives this number.
    pub const NONE: Ino = Ino(0);
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Ino {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Ino, ParseIntError> {
        text.parse().map(Ino)
    }
}

/// Bits of a minor number, and of a major number above it, in the kernel's own encoding.
const MINOR_BITS: u32 = 20;
const MAJOR_BITS: u32 = 12;

/// Number of a device: of a superblock as the kernel's marks carry it, or what `stat` says of a file. On btrfs the two differ,
/// since each subvolume has one of its own.
///
/// It is written in four ways: as the kernel counts inside (`s_dev`), as major and minor number (`statx`, mountinfo), as
/// `makedev` mixes the two (`st_dev`), and in the halves of a 64-bit word (the note of a source). Only the conversions here
/// know them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dev(u32);

impl Dev {
    /// No device. No file system has this number.
    pub const NONE: Dev = Dev(0);

    /// Of major and minor number; `None` if no kernel has such a device.
    pub fn new(major: u32, minor: u32) -> Option<Dev> {
        (major < 1 << MAJOR_BITS && minor < 1 << MINOR_BITS).then_some(Dev(major << MINOR_BITS | minor))
    }

    /// Of the kernel's own encoding, `major << 20 | minor`.
    pub const fn of_kernel(dev: u32) -> Dev {
        Dev(dev)
    }

    /// In the kernel's own encoding.
    pub const fn kernel(self) -> u32 {
        self.0
    }

    /// Of `st_dev` as programs see it (`makedev` of the C library), which has room for more than a kernel ever gives.
    pub const fn of_stat(st_dev: u64) -> Dev {
        let (major, minor) = (st_dev >> 8 & 0xfff, st_dev & 0xff | st_dev >> 12 & 0xf_ff00);
        Dev((major << MINOR_BITS | minor) as u32)
    }

    /// Of a word with both in its halves, `major << 32 | minor`; `None` if no kernel has such a device.
    pub fn of_halves(word: u64) -> Option<Dev> {
        Dev::new((word >> 32) as u32, word as u32)
    }

    /// As a word with both in its halves.
    pub fn halves(self) -> u64 {
        let (major, minor) = (self.0 >> MINOR_BITS, self.0 & ((1 << MINOR_BITS) - 1));
        u64::from(major) << 32 | u64::from(minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_one_number_in_all_encodings() {
        for (major, minor) in [(0, 0), (8, 1), (254, 3), (4095, 1_048_575)] {
            let dev = Dev::new(major, minor).unwrap();
            assert_eq!(dev.kernel(), major << 20 | minor);
            assert_eq!(Dev::of_kernel(dev.kernel()), dev);
            let mixed = (u64::from(minor) & !0xff) << 12 | u64::from(major) << 8 | u64::from(minor) & 0xff;
            assert_eq!(Dev::of_stat(mixed), dev);
            assert_eq!(dev.halves(), u64::from(major) << 32 | u64::from(minor));
            assert_eq!(Dev::of_halves(dev.halves()), Some(dev));
        }
        assert_eq!((Dev::new(1 << 12, 0), Dev::new(0, 1 << 20)), (None, None));
        assert_eq!((Dev::of_halves(1 << 44), Dev::of_halves(1 << 20)), (None, None));
    }

    #[test]
    fn an_inode_number_is_written_as_a_number() {
        assert_eq!(Ino(7).to_string(), "7");
        assert_eq!("7".parse(), Ok(Ino(7)));
    }
}

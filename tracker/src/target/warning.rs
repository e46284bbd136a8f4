//! What a restored tree lacks, and why.

use std::path::PathBuf;

/// What was left out or not fully restored, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub path: PathBuf,
    pub what: Shortfall,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// Owner or group not restored. Setuid and setgid bits are then left out too: they would serve another user.
    Owner {
        uid: u32,
        gid: u32,
    },
    Mode {
        mode: u32,
        cause: String,
    },
    /// The modification time.
    Time {
        cause: String,
    },
    Xattr {
        name: Vec<u8>,
        cause: String,
    },
    /// Inode flags, by their names.
    Flags {
        names: Vec<&'static str>,
        cause: String,
    },
    Project {
        project: u32,
        cause: String,
    },
    /// An entry of an existing tree that is immutable or append-only and has other attributes than it should.
    Sealed,
    /// A device that was not made, for lack of rights.
    Device,
    /// A second name of a file became a separate file with the same content: the file system has no hard links.
    Copy,
    /// `untrusted`: a device left out.
    DeviceUnwanted,
    /// `untrusted`: setuid, setgid or a file capability left out.
    Privilege,
    /// `untrusted`: flags that only root may remove, and the project unless it is 0.
    FlagsUnwanted {
        names: Vec<&'static str>,
        project: u32,
    },
}

impl Shortfall {
    /// Whether `untrusted` requested it.
    pub(crate) fn by_wish(&self) -> bool {
        matches!(self, Shortfall::DeviceUnwanted | Shortfall::Privilege | Shortfall::FlagsUnwanted { .. })
    }
}

/// The first of many, and their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounded<T> {
    pub first: Vec<T>,
    pub count: u64,
}

/// How many [`Bounded::first`] holds at most.
pub const BOUNDED_MAX: usize = 1_000;

impl<T> Bounded<T> {
    pub fn push(&mut self, item: T) {
        self.count += 1;
        if self.first.len() < BOUNDED_MAX {
            self.first.push(item);
        }
    }
}

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Bounded { first: Vec::new(), count: 0 }
    }
}

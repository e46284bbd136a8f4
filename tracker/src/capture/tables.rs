//! The kernel's maps: their names, creating those that grow, opening the pinned ones, and their memory.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use common::maps::{GroupKey, GroupMarks, Inflight, InodeKey, InodeMark, LastWrite, WriterKey};

use super::{
    config::{CaptureConfig, MapEntries},
    error::CaptureError,
    pin_files::map_path,
    plain::Plain,
    sys::{self, Table},
};

/// Names of the maps that are pinned.
pub(super) const MAPS: [&str; 15] = [
    "DIRTY0",
    "DIRTY1",
    "INODE0",
    "INODE1",
    "OVERFLOW0",
    "OVERFLOW1",
    "CTRL",
    "COUNTERS",
    "SUPERS",
    "WATCH",
    "INFLIGHT",
    "CHANGES",
    "WRITERS",
    "WRITES",
    "NEAR",
];

/// Maps whose entries are allocated on demand, if the kernel supports it.
const GROWING: [&str; 5] = ["DIRTY0", "DIRTY1", "INODE0", "INODE1", "WATCH"];

/// The map with the owner of the pins. No program uses it.
pub(super) const OWNER: &str = "OWNER";

/// The maps, opened.
#[derive(Debug)]
pub(super) struct Maps {
    pub(super) dirty: [Table<GroupKey, GroupMarks>; 2],
    pub(super) inode: [Table<InodeKey, InodeMark>; 2],
    pub(super) overflow: [Table<u32, u64>; 2],
    pub(super) ctrl: Table<u32, u64>,
    pub(super) counters: OwnedFd,
    pub(super) supers: Table<u32, u32>,
    pub(super) watch: Table<InodeKey, u64>,
    pub(super) inflight: Table<u64, Inflight>,
    pub(super) changes: Table<u32, u64>,
    pub(super) writers: Table<WriterKey, u64>,
    /// Only the programs read and write these.
    writes: Table<u32, LastWrite>,
    near: Table<u32, u64>,
}

impl Maps {
    pub(super) fn open(pin_dir: &Path) -> Result<Self, CaptureError> {
        Ok(Self {
            dirty: [table(pin_dir, "DIRTY0")?, table(pin_dir, "DIRTY1")?],
            inode: [table(pin_dir, "INODE0")?, table(pin_dir, "INODE1")?],
            overflow: [table(pin_dir, "OVERFLOW0")?, table(pin_dir, "OVERFLOW1")?],
            ctrl: table(pin_dir, "CTRL")?,
            counters: open_pin(&map_path(pin_dir, "COUNTERS"))?,
            supers: table(pin_dir, "SUPERS")?,
            watch: table(pin_dir, "WATCH")?,
            inflight: table(pin_dir, "INFLIGHT")?,
            changes: table(pin_dir, "CHANGES")?,
            writers: table(pin_dir, "WRITERS")?,
            writes: table(pin_dir, "WRITES")?,
            near: table(pin_dir, "NEAR")?,
        })
    }

    pub(super) fn entries(&self) -> MapEntries {
        MapEntries {
            dirty: self.dirty[0].entries(),
            inode: self.inode[0].entries(),
            watch: self.watch.entries(),
            inflight: self.inflight.entries(),
        }
    }

    pub(super) fn fds(&self) -> [BorrowedFd<'_>; 15] {
        [
            self.dirty[0].fd(),
            self.dirty[1].fd(),
            self.inode[0].fd(),
            self.inode[1].fd(),
            self.overflow[0].fd(),
            self.overflow[1].fd(),
            self.ctrl.fd(),
            self.counters.as_fd(),
            self.supers.fd(),
            self.watch.fd(),
            self.inflight.fd(),
            self.changes.fd(),
            self.writers.fd(),
            self.writes.fd(),
            self.near.fd(),
        ]
    }
}

fn table<K: Plain, V: Plain>(pin_dir: &Path, map: &'static str) -> Result<Table<K, V>, CaptureError> {
    let fd = open_pin(&map_path(pin_dir, map))?;
    Table::new(fd).map_err(|source| CaptureError::Map { what: "sizes", map, source })
}

pub(super) fn open_pin(path: &Path) -> Result<OwnedFd, CaptureError> {
    sys::open_pin(path).map_err(|source| CaptureError::File { what: "open pin", path: path.to_owned(), source })
}

/// Creates, pins and returns the maps that need no preallocation. Since Linux 6.1 the kernel keeps memory ready for entries
/// that programs insert in any context; before, only preallocated maps are safe.
pub(super) fn make_growing_maps(config: &CaptureConfig, release: &str) -> Result<Vec<&'static str>, CaptureError> {
    if !allocates_safely(release) {
        return Ok(Vec::new());
    }
    let entries = &config.entries;
    let make = |name: &'static str| -> io::Result<OwnedFd> {
        Ok(match name {
            "DIRTY0" | "DIRTY1" => {
                Table::<GroupKey, GroupMarks>::hash_without_preallocation(entries.dirty, name)?.into_fd()
            }
            "INODE0" | "INODE1" => {
                Table::<InodeKey, InodeMark>::hash_without_preallocation(entries.inode, name)?.into_fd()
            }
            _ => Table::<InodeKey, u64>::hash_without_preallocation(entries.watch, name)?.into_fd(),
        })
    };
    for name in GROWING {
        let failed = |source| CaptureError::Map { what: "making", map: name, source };
        let fd = make(name).map_err(failed)?;
        sys::pin(&map_path(&config.pin_dir, name), fd.as_fd()).map_err(failed)?;
    }
    Ok(GROWING.to_vec())
}

/// Whether a kernel of this release allocates entries of hash maps safely in every program.
fn allocates_safely(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(1))
}

pub(super) fn memory_of(fd: BorrowedFd<'_>) -> u64 {
    use std::os::fd::AsRawFd;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap_or_default();
    info.lines().find_map(|line| line.strip_prefix("memlock:")).and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kernels_that_allocate_safely_get_maps_that_grow() {
        for release in ["6.1.0-28-amd64", "6.12.5", "6.18.44-fc", "7.0.0-rc1", "10.0"] {
            assert!(allocates_safely(release), "{release}");
        }
        for release in ["6.0.9", "5.15.0-130-generic", "4.19", "", "next"] {
            assert!(!allocates_safely(release), "{release}");
        }
    }
}

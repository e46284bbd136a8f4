//! Which superblocks and inodes are marked.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;

use common::limits::{SLOT_OF_ALL, SLOT_OF_NONE};
use common::maps::{InodeKey, ctrl, mode, watched};
use engine::model::{Dev, Ino};

use super::error::CaptureError;
use super::running::Capture;
use super::sys;

/// How often and how long to wait for memory for an entry before the watch set counts as full.
const MEMORY_WAITS: u32 = 100;
const MEMORY_WAIT: std::time::Duration = std::time::Duration::from_millis(2);

/// The result of a request to watch inodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchOutcome {
    /// All are watched.
    Watching,
    /// The WATCH map is full: every inode of these superblocks is marked now. A degradation, not a loss.
    Full {
        /// Their devices.
        widened: Vec<Dev>,
    },
}

impl Capture {
    /// Marks changes on superblock `dev` from now on, of watched inodes or of all. If all its inodes are already marked,
    /// that stays so: its watch set was full, and inodes that did not fit would no longer be marked.
    ///
    /// On a superblock that was not tracked before, a direct write may be in flight whose begin no hook saw. From now on
    /// completions without a known begin are marked, including those of reads, until `forget_earlier_dio`.
    ///
    /// # Errors
    /// When the map refuses, for instance because too many superblocks are tracked.
    pub fn track(&self, dev: Dev, all_inodes: bool) -> Result<(), CaptureError> {
        let all = all_inodes || self.is_widened(dev)?;
        let mode = if all { mode::ALL } else { mode::WATCHED };
        let before = self.maps.supers.get(dev.kernel());
        if before.map_err(|source| CaptureError::Map { what: "reading", map: "SUPERS", source })?.is_none() {
            self.mark_earlier_dio(1)?;
        }
        self.maps.supers.set(dev.kernel(), mode).map_err(|source| CaptureError::Map {
            what: "insert",
            map: "SUPERS",
            source,
        })
    }

    /// Called when the direct writes that were under way when their superblock was first tracked have ended.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn forget_earlier_dio(&self) -> Result<(), CaptureError> {
        self.mark_earlier_dio(0)
    }

    fn mark_earlier_dio(&self, value: u64) -> Result<(), CaptureError> {
        let set = self.maps.ctrl.set(ctrl::MARK_EARLIER_DIO, value);
        set.map_err(|source| CaptureError::Map { what: "setting", map: "CTRL", source })
    }

    /// Stops marking on superblock `dev`.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn untrack(&self, dev: Dev) -> Result<(), CaptureError> {
        self.maps.supers.remove(dev.kernel()).map_err(|source| CaptureError::Map {
            what: "delete",
            map: "SUPERS",
            source,
        })
    }

    /// Whether all inodes of superblock `dev` are marked.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn is_widened(&self, dev: Dev) -> Result<bool, CaptureError> {
        let found = self.maps.supers.get(dev.kernel());
        let found = found.map_err(|source| CaptureError::Map { what: "reading", map: "SUPERS", source })?;
        Ok(found == Some(mode::ALL))
    }

    /// Tracked superblocks, each with whether all its inodes are marked.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn tracked(&self) -> Result<Vec<(Dev, bool)>, CaptureError> {
        let all = self.maps.supers.read_all();
        let (devs, modes) = all.map_err(|source| CaptureError::Map { what: "reading", map: "SUPERS", source })?;
        Ok(devs.into_iter().zip(modes).map(|(dev, mode)| (Dev::of_kernel(dev), mode == mode::ALL)).collect())
    }

    /// Marks changes of these inodes (superblock device, inode number) from now on, and counts them for no volume.
    ///
    /// # Errors
    /// When the map fails for another reason than being full.
    pub fn watch(&self, inodes: &[(Dev, Ino)]) -> Result<WatchOutcome, CaptureError> {
        self.watch_in(SLOT_OF_NONE, inodes)
    }

    /// Marks changes of these inodes (superblock device, inode number) from now on, and counts them in `slot`. An inode that
    /// another slot has already is counted for all volumes.
    ///
    /// # Errors
    /// When the map fails in another way than by being full.
    pub fn watch_in(&self, slot: u32, inodes: &[(Dev, Ino)]) -> Result<WatchOutcome, CaptureError> {
        let mut widened = BTreeSet::new();
        for &(dev, ino) in inodes {
            // What found no room is marked all the same there, and counted for all volumes.
            if widened.contains(&dev) {
                continue;
            }
            match self.add_when_there_is_memory(InodeKey::new(dev.kernel(), ino.0), slot) {
                Ok(()) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM)) => {
                    self.track(dev, true)?;
                    widened.insert(dev);
                }
                Err(source) => return Err(CaptureError::Map { what: "insert", map: "WATCH", source }),
            }
        }
        if widened.is_empty() {
            Ok(WatchOutcome::Watching)
        } else {
            Ok(WatchOutcome::Full { widened: widened.into_iter().collect() })
        }
    }

    /// The kernel fetches memory for more entries in the background.
    fn add_when_there_is_memory(&self, key: InodeKey, slot: u32) -> io::Result<()> {
        for _ in 0..MEMORY_WAITS {
            match self.add_to_slot(key, slot) {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => std::thread::sleep(MEMORY_WAIT),
                other => return other,
            }
        }
        self.add_to_slot(key, slot)
    }

    fn add_to_slot(&self, key: InodeKey, slot: u32) -> io::Result<()> {
        if self.maps.watch.add(key, slot.into())? {
            return Ok(());
        }
        match slot_of_both(self.maps.watch.get(key)?.map(watched::slot), slot) {
            Some(both) => self.set_slot(key, both),
            None => Ok(()),
        }
    }

    /// What is known of its pages stays: they may be dirty, and no flush may know why.
    fn set_slot(&self, key: InodeKey, slot: u32) -> io::Result<()> {
        let arguments = [u64::from(key.dev), key.ino, u64::from(slot)];
        match sys::run_once(self.set_slot.as_fd(), &arguments)? {
            0 => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(()),
        }
    }

    /// Stops marking these inodes, unless all inodes of their superblock are marked.
    ///
    /// # Errors
    /// When the map fails.
    pub fn unwatch(&self, inodes: &[(Dev, Ino)]) -> Result<(), CaptureError> {
        let keys: Vec<_> = inodes.iter().map(|&(dev, ino)| InodeKey::new(dev.kernel(), ino.0)).collect();
        self.maps.watch.remove_all(&keys).map_err(|source| CaptureError::Map { what: "delete", map: "WATCH", source })
    }
}

/// Skips the leading inodes whose superblock needs no watching any more.
fn slot_of_both(there: Option<u32>, slot: u32) -> Option<u32> {
    match there {
        None | Some(SLOT_OF_NONE) => Some(slot),
        Some(there) if there == slot || there == SLOT_OF_ALL || slot == SLOT_OF_NONE => None,
        Some(_) => Some(SLOT_OF_ALL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_of_two_volumes_counts_for_all() {
        assert_eq!(slot_of_both(None, 5), Some(5));
        assert_eq!(slot_of_both(Some(SLOT_OF_NONE), 5), Some(5));
        assert_eq!(slot_of_both(Some(5), 5), None);
        assert_eq!(slot_of_both(Some(5), 6), Some(SLOT_OF_ALL));
        assert_eq!(slot_of_both(Some(SLOT_OF_ALL), 6), None);
        assert_eq!(slot_of_both(Some(5), SLOT_OF_NONE), None, "a file of a self-test is counted for its volume still");
    }
}

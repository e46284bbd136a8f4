//! Which superblocks and inodes are marked.

use std::collections::BTreeSet;

use common::maps::{InodeKey, ctrl, mode};
use engine::model::{Dev, Ino};

use super::error::CaptureError;
use super::running::Capture;

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
        let all = all.map_err(|source| CaptureError::Map { what: "reading", map: "SUPERS", source })?;
        Ok(all.into_iter().map(|(dev, mode)| (Dev::of_kernel(dev), mode == mode::ALL)).collect())
    }

    /// Marks changes of these inodes (superblock device, inode number) from now on.
    ///
    /// # Errors
    /// When the map fails for another reason than being full.
    pub fn watch(&self, inodes: &[(Dev, Ino)]) -> Result<WatchOutcome, CaptureError> {
        let keys: Vec<_> = inodes.iter().map(|&(dev, ino)| InodeKey::new(dev.kernel(), ino.0)).collect();
        let mut rest = keys.as_slice();
        let mut widened = BTreeSet::new();
        let mut waits = 0;
        while !rest.is_empty() {
            let (done, result) = self.maps.watch.insert_all(rest, 1);
            if done > 0 {
                waits = 0;
            }
            match result {
                Ok(()) => break,
                // Meanwhile the kernel allocates memory for more entries.
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && waits < MEMORY_WAITS => {
                    waits += 1;
                    rest = rest.get(done..).unwrap_or(&[]);
                    std::thread::sleep(MEMORY_WAIT);
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM)) => {
                    // The inode that did not fit. Later ones of other superblocks may be in the map already.
                    if let Some(key) = rest.get(done)
                        && widened.insert(key.dev)
                    {
                        self.track(Dev::of_kernel(key.dev), true)?;
                    }
                    rest = rest.get(done + 1..).unwrap_or(&[]);
                    rest = skip_widened(rest, &widened);
                }
                Err(source) => return Err(CaptureError::Map { what: "insert", map: "WATCH", source }),
            }
        }
        if widened.is_empty() {
            Ok(WatchOutcome::Watching)
        } else {
            Ok(WatchOutcome::Full { widened: widened.into_iter().map(Dev::of_kernel).collect() })
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
fn skip_widened<'a>(mut rest: &'a [InodeKey], widened: &BTreeSet<u32>) -> &'a [InodeKey] {
    while let Some((first, tail)) = rest.split_first()
        && widened.contains(&first.dev)
    {
        rest = tail;
    }
    rest
}

//! Who changes a volume: the cgroups whose tasks made changes, as the programs have recorded them.

use std::collections::BTreeMap;

use common::limits::WRITERS_ENTRIES;

use super::error::CaptureError;
use super::running::Capture;
use crate::cgroups::KERNEL;

const _: () = assert!(KERNEL == common::maps::writer::KERNEL);

/// Changes of one volume by the kernel's id of the cgroup that made them, since the maps were made.
pub type Writers = BTreeMap<u64, u64>;

/// From so many entries on, those of cgroups that are gone are removed.
const CROWDED: usize = WRITERS_ENTRIES as usize / 4 * 3;

impl Capture {
    /// The cgroups that changed what is counted in `slot`. Who changes what counts for every volume is not among them: that may be
    /// any writer of the file system.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn writers(&self, slot: u32) -> Result<Writers, CaptureError> {
        let all = self.all_writers()?.into_iter().filter(|(of, ..)| *of == slot);
        Ok(all.map(|(_, cgroup, changes)| (cgroup, changes)).collect())
    }

    /// Whether there is little room for more of them.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn writers_are_crowded(&self) -> Result<bool, CaptureError> {
        Ok(self.all_writers()?.len() >= CROWDED)
    }

    /// Forgets what cgroups other than `living` changed. A program that counts for one of them meanwhile may count for the next
    /// cgroup that gets its place.
    ///
    /// # Errors
    /// When the map fails.
    pub fn forget_writers_except(&self, living: impl Fn(u64) -> bool) -> Result<(), CaptureError> {
        let failed = |source| CaptureError::Map { what: "clearing", map: "WRITERS", source };
        let (keys, _) = self.maps.writers.read_all().map_err(failed)?;
        let gone: Vec<_> = keys.into_iter().filter(|key| key.cgroup != KERNEL && !living(key.cgroup)).collect();
        if gone.is_empty() { Ok(()) } else { self.maps.writers.remove_all(&gone).map_err(failed) }
    }

    fn all_writers(&self) -> Result<Vec<(u32, u64, u64)>, CaptureError> {
        let failed = |source| CaptureError::Map { what: "reading", map: "WRITERS", source };
        let (keys, counts) = self.maps.writers.read_all().map_err(failed)?;
        Ok(keys.into_iter().zip(counts).map(|(key, changes)| (key.slot, key.cgroup, changes)).collect())
    }
}

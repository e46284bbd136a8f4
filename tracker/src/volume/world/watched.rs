//! The watch set of a volume: the inodes whose changes the kernel marks.

use engine::flush::world::WatchSet;
use engine::model::Ino;

use super::error::WorldError;
use super::parts::VolumeWorld;
use crate::capture::WatchOutcome;

impl WatchSet for VolumeWorld {
    fn watch(&mut self, inodes: &[Ino]) -> Result<(), WorldError> {
        if inodes.is_empty() {
            return Ok(());
        }
        self.pending.add_fresh(inodes);
        if let Some((dispatcher, dev)) = &self.dispatcher {
            self.watch_full |= dispatcher.watch(*dev, inodes)? != WatchOutcome::Watching;
        }
        Ok(())
    }

    fn unwatch(&mut self, inodes: &[Ino]) -> Result<(), WorldError> {
        if let Some((dispatcher, dev)) = &self.dispatcher {
            dispatcher.unwatch(&self.pending, *dev, inodes)?;
        }
        Ok(())
    }
}

impl VolumeWorld {
    /// Watches all inodes of the catalog.
    pub fn watch_all(&mut self) -> Result<(), WorldError> {
        let Some((dispatcher, dev)) = &self.dispatcher else { return Ok(()) };
        let full = &mut self.watch_full;
        self.catalog.each_inodes(|inodes| {
            *full |= dispatcher.watch(*dev, inodes)? != WatchOutcome::Watching;
            Ok(())
        })
    }
}

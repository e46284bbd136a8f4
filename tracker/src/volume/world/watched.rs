//! The watch set of a volume: the inodes whose changes the kernel marks.

use std::time::{Duration, Instant};

use engine::flush::world::{Count, Live, WatchSet};
use engine::model::Ino;

use super::error::WorldError;
use super::parts::VolumeWorld;
use super::urgent::Urgent;
use crate::capture::WatchOutcome;
use crate::volume::marks::dispatcher::DispatcherError;
use crate::volume::marks::live::Probe;

impl WatchSet for VolumeWorld {
    fn watch(&mut self, inodes: &[Ino]) -> Result<(), WorldError> {
        if inodes.is_empty() {
            return Ok(());
        }
        self.pending.add_fresh(inodes);
        if let Some((dispatcher, dev)) = &self.dispatcher {
            self.watch_full |= dispatcher.watch(&self.pending, *dev, inodes)? != WatchOutcome::Watching;
        }
        Ok(())
    }

    fn unwatch(&mut self, inodes: &[Ino]) -> Result<(), WorldError> {
        if let Some((dispatcher, dev)) = &self.dispatcher {
            dispatcher.unwatch(&self.pending, *dev, inodes)?;
        }
        Ok(())
    }

    fn count(&mut self) -> Result<Count, WorldError> {
        let quiet = self.quiet()?;
        Ok(Count { changes: quiet.probe.quiet.changes(quiet.slot), at_us: quiet.clock_us() })
    }

    fn live(&mut self) -> Result<Live, WorldError> {
        let Some((dispatcher, dev)) = self.dispatcher.clone() else { return Err(DispatcherError::Ended.into()) };
        Ok(dispatcher.live(&self.pending, dev)?)
    }

    fn is_sure(&mut self) -> Result<bool, WorldError> {
        let Some((dispatcher, _)) = self.dispatcher.clone() else { return Ok(false) };
        Ok(dispatcher.is_sure(&self.quiet()?.probe)?)
    }

    fn hurry(&mut self, looking: bool) {
        self.urgent = looking.then(Urgent::begin).flatten();
    }

    fn try_again(&mut self, tries: u32) -> Result<bool, WorldError> {
        let quiet = self.quiet()?;
        if quiet.began.elapsed() > LOOKED_FOR {
            return Ok(false);
        }
        std::thread::sleep(GAP.saturating_mul(1 << tries.min(5)));
        Ok(true)
    }
}

/// How long one flush looks for a moment in which nothing changes.
const LOOKED_FOR: Duration = Duration::from_millis(250);
/// The pause between the first two looks; it doubles up to the sixth.
const GAP: Duration = Duration::from_micros(50);

/// The search for a quiet moment of one flush.
pub(super) struct Quiet {
    pub(super) probe: Probe,
    slot: u32,
    began: Instant,
}

impl Quiet {
    fn clock_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl VolumeWorld {
    /// What looks for a quiet moment in this flush: since the first call.
    pub(super) fn quiet(&mut self) -> Result<&Quiet, WorldError> {
        let Some((dispatcher, _)) = &self.dispatcher else { return Err(DispatcherError::Ended.into()) };
        if self.quiet.is_none() {
            let (probe, slot) = dispatcher.quiet_probe(&self.pending)?;
            self.quiet = Some(Quiet { probe, slot, began: Instant::now() });
        }
        self.quiet.as_ref().ok_or_else(|| DispatcherError::Ended.into())
    }

    /// Watches all inodes of the catalog.
    pub fn watch_all(&mut self) -> Result<(), WorldError> {
        let Some((dispatcher, dev)) = &self.dispatcher else { return Ok(()) };
        let (full, pending) = (&mut self.watch_full, &self.pending);
        self.catalog.each_inodes(|inodes| {
            *full |= dispatcher.watch(pending, *dev, inodes)? != WatchOutcome::Watching;
            Ok(())
        })
    }
}

//! The watch set of a volume: the inodes whose changes the kernel marks, and whether any of them changes now.

use std::sync::Arc;

use engine::flush::world::{Count, Live, Paused, WatchSet};
use engine::model::Ino;

use super::error::WorldError;
use super::parts::VolumeWorld;
use super::quiet::Quiet;
use crate::capture::WatchOutcome;
use crate::capture::writers::Writers;
use crate::source::HowMarked;
use crate::urgent::Urgent;
use crate::volume::marks::dispatcher::DispatcherError;

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
        Ok(self.quiet()?.count())
    }

    fn live(&mut self) -> Result<Live, WorldError> {
        let Some((dispatcher, dev)) = self.dispatcher.clone() else { return Err(DispatcherError::Ended.into()) };
        let pending = self.pending.clone();
        Ok(dispatcher.live(&pending, dev, &mut self.quiet()?.before)?)
    }

    fn is_sure(&mut self) -> Result<bool, WorldError> {
        let Some((dispatcher, _)) = self.dispatcher.clone() else { return Ok(false) };
        // Marks that the catalog could not save are in the kernel's retired set, where no look reads them.
        if self.pending.unsaved() > 0 {
            return Ok(false);
        }
        Ok(dispatcher.is_sure(self.quiet()?.probe())?)
    }

    fn hurry(&mut self, looking: bool) {
        self.urgent = looking.then(|| Urgent::begin(Urgent::LOOK)).flatten();
    }

    fn try_again(&mut self, tries: u32) -> Result<bool, WorldError> {
        Ok(self.quiet()?.try_again(tries))
    }

    fn is_late(&self) -> bool {
        self.quiet.as_ref().is_some_and(Quiet::is_late)
    }

    fn freeze(&mut self) -> Result<Paused, WorldError> {
        self.pause_writers()
    }

    fn thaw(&mut self) -> Result<u32, WorldError> {
        self.let_writers_go_on()
    }
}

impl VolumeWorld {
    /// What looks for a quiet moment in this flush.
    pub(super) fn quiet(&mut self) -> Result<&mut Quiet, WorldError> {
        let Some((dispatcher, _)) = &self.dispatcher else { return Err(DispatcherError::Ended.into()) };
        if self.quiet.is_none() {
            let may_pause = !self.pause.is_zero();
            let writers = if may_pause { dispatcher.writers(&self.pending)? } else { Writers::new() };
            let time = self.searches.time(self.instant_is_waited_for);
            self.quiet = Some(Quiet::new(dispatcher.quiet_probe(&self.pending)?, time, writers));
        }
        self.quiet.as_mut().ok_or_else(|| DispatcherError::Ended.into())
    }

    /// Whether a quiet moment can be looked for at all.
    pub fn can_look(&mut self) -> bool {
        let Some((dispatcher, _)) = &self.dispatcher else { return false };
        let counts = dispatcher.counts_every_change().map_err(WorldError::from);
        let found = counts.and_then(|counts| self.quiet().map(|_| counts));
        found.inspect_err(|error| tracing::debug!(%error, "no quiet moment can be looked for")).unwrap_or(false)
    }

    /// What tells how the writes of a file are marked.
    pub(super) fn how_marked(&mut self) -> Option<HowMarked> {
        if self.how_marked.is_none() {
            let (dispatcher, _) = self.dispatcher.as_ref()?;
            let probe = dispatcher.exact_probe().ok()?;
            self.how_marked = Some(Arc::new(move |file, may_begin| probe.ask(file, may_begin)));
        }
        self.how_marked.clone()
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

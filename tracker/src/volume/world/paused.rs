//! Pausing the writers of the volume while it is looked for an instant.

use std::time::Instant;

use engine::flush::world::Paused;

use super::error::WorldError;
use super::parts::VolumeWorld;
use crate::capture::writers::Writers;
use crate::pause::{self, Held};
use crate::test_switches;

impl VolumeWorld {
    /// Pauses those who have written since this search was prepared.
    pub(super) fn pause_writers(&mut self) -> Result<Paused, WorldError> {
        let Some((dispatcher, _)) = self.dispatcher.clone().filter(|_| !self.pause.is_zero()) else {
            return Ok(Paused::No);
        };
        let now = dispatcher.writers(&self.pending)?;
        let before = &self.quiet()?.writers;
        let since = |(id, count): (&u64, &u64)| (*id, count - before.get(id).unwrap_or(&0).min(count));
        let wrote: Writers = now.iter().map(since).filter(|(_, changes)| *changes > 0).collect();
        let groups = match pause::choose(&wrote.keys().copied().collect(), self.store_dir.as_deref()) {
            Ok(groups) if groups.is_empty() => return Ok(Paused::No),
            Ok(groups) => groups,
            Err(refused) => {
                tracing::debug!(%refused, ?wrote, "writers are not paused");
                return Ok(Paused::Cannot);
            }
        };
        if !self.worth.is_worth_it() {
            return Ok(Paused::No);
        }
        match Held::begin(&groups, self.pause, &self.pause_note) {
            Ok(held) => {
                test_switches::hit("paused");
                self.held = Some(held);
                let until = Instant::now() + self.pause;
                self.quiet()?.paused_until = Some(until);
                Ok(Paused::Yes)
            }
            Err(error) => {
                tracing::warn!(%error, "writers could not be paused");
                Ok(Paused::Cannot)
            }
        }
    }

    /// Returns for how many microseconds they were paused.
    pub(super) fn let_writers_go_on(&mut self) -> Result<u32, WorldError> {
        let Some(held) = self.held.take() else { return Ok(0) };
        let paused = held.end().map_err(|error| WorldError::Paused { cause: error.to_string() })?;
        // A look that had found what it wanted would have ended the pause before.
        self.worth.ended(paused >= self.pause);
        self.quiet()?.paused_until = None;
        tracing::debug!(?paused, "writers were paused");
        Ok(u32::try_from(paused.as_micros()).unwrap_or(u32::MAX).max(1))
    }
}

//! What a person has said, and what waits for one.

use std::time::Instant;

use engine::dirty::DirtySet;
use engine::flush::Report;

use super::Runner;
use crate::volume::mass_delete::Held;
use crate::volume::world::WorldError;
use crate::volume::world::write_back::WriteBack;

impl Runner {
    pub(super) fn take_confirmation(&mut self) {
        let confirmed = self.shared.progress().confirm;
        if let Some(removals) = confirmed {
            tracing::warn!(volume = %self.opened.name, removals, "a person has confirmed removals");
            self.guard.confirm(removals);
            self.shared.update(|progress| progress.confirm = None);
        }
    }

    /// Updates which removals wait for a person, and when they are checked again, after a flush.
    pub(super) fn note_held(&mut self, report: &Report, kept: &DirtySet, settled: bool, rested: bool, began: Instant) {
        let now = Instant::now();
        if report.removals_held == 0 && rested && !self.waits.is_empty() {
            // The removals were not checked in this flush, and still wait.
            return;
        }
        self.guard.note(report, settled, began, now);
        self.waits = crate::volume::mass_delete::resting(report, kept).into_iter().collect();
        let (volume, removals, of) = (self.opened.name.clone(), report.removals_held, report.files_before);
        let held = (removals > 0).then_some(Held { volume, removals, of });
        let before = self.shared.progress().held.clone();
        if let Some(held) = held.as_ref().filter(|held| before.as_ref() != Some(*held)) {
            tracing::warn!(volume = held.volume, "{held}");
        }
        self.shared.update(|progress| progress.held = held);
    }

    pub(super) fn take_acknowledgement(&self) -> Result<(), WorldError> {
        if self.shared.progress().acknowledge {
            WriteBack::forget(&self.opened.world.catalog)?;
            self.shared.update(|progress| {
                progress.acknowledge = false;
                progress.write_back = None;
            });
        }
        Ok(())
    }
}

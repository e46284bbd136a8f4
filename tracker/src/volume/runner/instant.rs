//! Whether a flush of this volume is to look for one instant, and if not, why it cannot.

use engine::model::NotInstant;

use super::Runner;
use crate::capture::BackEnd;
use crate::config::ConsistencyMode;
use crate::source::FsType;

impl Runner {
    /// `None`: nobody asks for it. `resting`: marks that wait because their mapped files are written back for long.
    pub(super) fn instant(&mut self, resting: usize) -> Option<Result<(), NotInstant>> {
        match self.options.consistency {
            ConsistencyMode::Live => None,
            ConsistencyMode::Instant => Some(self.can_be_instant(resting)),
        }
    }

    fn can_be_instant(&mut self, resting: usize) -> Result<(), NotInstant> {
        let world = &mut self.opened.world;
        let back_end = world.dispatcher.as_ref().map_or(BackEnd::Scan, |(dispatcher, _)| dispatcher.back_end());
        // Nothing tells of a store through a mapping on tmpfs, and a scan tells of nothing.
        let hides = back_end == BackEnd::Scan || matches!(world.root.fs(), FsType::Tmpfs | FsType::Other(_));
        // Where change times stand still within a second, no event tells of a second write to a dirty page.
        if hides || !world.root.has_fine_times() {
            return Err(NotInstant::FileSystem);
        }
        if !self.trusted || self.opened.compare {
            return Err(NotInstant::FirstPass);
        }
        if resting > 0 {
            return Err(NotInstant::Mapped);
        }
        world.instant_is_waited_for = self.shared.progress().instants.is_waited_for();
        if world.can_look() { Ok(()) } else { Err(NotInstant::Kernel) }
    }

    /// Somebody waits for a commit of one instant, and the newest one is none: a flush looks for one though nothing has changed.
    pub(super) fn instant_is_waited_for(&self) -> bool {
        let wanted = self.options.consistency == ConsistencyMode::Instant;
        wanted && self.trusted && self.shared.progress().instants.is_waited_for()
    }

    /// The newest commit says that it is of no instant: a flush that finds one says so though nothing has changed.
    pub(super) fn head_is_live(&self) -> bool {
        self.trusted && self.shared.progress().instants.said.is_some_and(|said| !said.is_instant())
    }
}

//! Which cgroups change a volume, and how much.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::capture::writers::Writers;
use crate::cgroups::Hierarchy;
use crate::volume::marks::dispatcher::{Dispatcher, DispatcherError};
use crate::volume::marks::waiting::Pending;

impl Dispatcher {
    /// Changes of the volume of `pending` by cgroup, since the maps were made.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn writers(&self, pending: &Arc<Pending>) -> Result<Writers, DispatcherError> {
        let crowded = self.inner().capture()?.writers_are_crowded()?;
        if crowded {
            self.forget_writers_that_are_gone()?;
        }
        let mut inner = self.inner();
        let slot = inner.slot_of(pending);
        Ok(inner.capture()?.writers(slot)?)
    }

    fn forget_writers_that_are_gone(&self) -> Result<(), DispatcherError> {
        let Some(hierarchy) = Hierarchy::find() else { return Ok(()) };
        let mut living = BTreeSet::new();
        let complete = hierarchy.each(|id, _| {
            living.insert(id);
            true
        });
        if complete {
            self.inner().capture()?.forget_writers_except(|id| living.contains(&id))?;
        }
        Ok(())
    }
}

//! What changed in one volume since the last drain, while the kernel goes on marking: for a commit of one instant.

use std::sync::Arc;

use common::limits::SLOT_OF_ALL;
use engine::dirty::DirtySet;
use engine::flush::world::Live;
use engine::model::{Dev, Ino};

use crate::capture::exact::ExactProbe;
use crate::capture::quiet::QuietProbe;
use crate::volume::clock::now_ns;
use crate::volume::marks::dispatcher::{Dispatcher, DispatcherError};
use crate::volume::marks::retired::marks_of;
use crate::volume::marks::waiting::Pending;

/// The probe of the capture in operation, and which of this process's captures that is.
#[derive(Clone, Debug)]
pub struct Probe {
    pub quiet: Arc<QuietProbe>,
    failovers: u64,
}

impl Dispatcher {
    /// What tells whether the volume of `pending` is quiet, as long as the capture stays the same, and the slot of its changes.
    ///
    /// # Errors
    /// When there is no capture, or its counters cannot be read.
    pub fn quiet_probe(&self, pending: &Arc<Pending>) -> Result<(Probe, u32), DispatcherError> {
        let mut inner = self.inner();
        let (failovers, slot) = (inner.failovers, inner.slot_of(pending));
        Ok((Probe { quiet: Arc::new(inner.capture()?.quiet_probe()?), failovers }, slot))
    }

    /// What tells how the writes of a file are marked.
    ///
    /// # Errors
    /// When there is no capture.
    pub fn exact_probe(&self) -> Result<ExactProbe, DispatcherError> {
        Ok(self.inner().capture()?.exact_probe()?)
    }

    /// Whether the kernel can be made to count every change.
    ///
    /// # Errors
    /// When there is no capture.
    pub fn counts_every_change(&self) -> Result<bool, DispatcherError> {
        Ok(self.inner().capture()?.counts_every_change())
    }

    /// Everything that is marked of the volume of `pending`, and not taken: in the kernel, and by drains of other volumes. No
    /// drain is under way when this returns, so nothing is between the two.
    ///
    /// # Errors
    /// When the kernel or the catalog cannot be asked.
    pub fn live(&self, pending: &Arc<Pending>, dev: Dev) -> Result<Live, DispatcherError> {
        let mut inner = self.inner();
        let slot = inner.slot_of(pending);
        let capture = inner.capture()?;
        let found = capture.read_live()?;
        let is_ours = |ino: Ino| -> Result<bool, DispatcherError> {
            Ok(match capture.slot(dev, ino)? {
                Some(of) if of == slot => true,
                // Of several volumes, or of one whose watch set is full.
                Some(SLOT_OF_ALL) | None => pending.knows(ino)?,
                Some(_) => false,
            })
        };
        let mut marks = DirtySet::default();
        let now = now_ns();
        for ((_, ino), of) in found.inodes.iter().filter(|((on, _), _)| *on == dev) {
            if is_ours(*ino)? {
                marks.add(*ino, &marks_of(of), now);
            }
        }
        let mut direct = false;
        for write in found.inflight.iter().filter(|write| write.dev == dev) {
            direct |= is_ours(write.ino)?;
        }
        marks.add_all(&pending.waiting());
        Ok(Live { marks, direct })
    }

    /// Whether `probe` has seen every change since the last drain.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn is_sure(&self, probe: &Probe) -> Result<bool, DispatcherError> {
        let mut inner = self.inner();
        Ok(inner.failovers == probe.failovers && inner.capture()?.is_sure()?)
    }
}

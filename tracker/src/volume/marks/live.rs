//! What changed in one volume since the last drain, while the kernel goes on marking: for a commit of one instant.

use std::collections::HashSet;
use std::sync::Arc;

use common::{limits::SLOT_OF_ALL, maps::watched};
use engine::dirty::{DirtySet, Marks};
use engine::flush::world::Live;
use engine::model::{Dev, Ino};

use crate::capture::exact::ExactProbe;
use crate::capture::looked::Looked;
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

/// What the look before saw, in the same flush.
#[derive(Debug, Default)]
pub struct Before {
    looked: Looked,
    arrivals: Option<u64>,
}

impl Dispatcher {
    /// What tells whether the volume of `pending` is quiet, as long as the capture stays the same, and the slot of its changes.
    ///
    /// # Errors
    /// When there is no capture, or its counters cannot be read.
    pub fn quiet_probe(&self, pending: &Arc<Pending>) -> Result<(Probe, u32), DispatcherError> {
        let mut inner = self.inner();
        let (failovers, slot) = (self.failovers(), inner.slot_of(pending));
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
    /// drain is under way when this returns, so nothing is between the two. `before`: what the call before in this flush has left there.
    ///
    /// # Errors
    /// When the kernel or the catalog cannot be asked.
    pub fn live(&self, pending: &Arc<Pending>, dev: Dev, before: &mut Before) -> Result<Live, DispatcherError> {
        let mut inner = self.inner();
        let slot = inner.slot_of(pending);
        let capture = inner.capture()?;
        let found = capture.read_live()?;
        let is_ours = |ino: Ino, value: Option<u64>| -> Result<bool, DispatcherError> {
            Ok(match value.map(watched::slot) {
                Some(of) if of == slot => true,
                // Of several volumes, or of one whose watch set is full.
                Some(SLOT_OF_ALL) | None => pending.knows(ino)?,
                Some(_) => false,
            })
        };
        let mut ours = Vec::new();
        let mut exact = HashSet::new();
        for ((_, ino), of) in found.inodes.iter().filter(|((on, _), _)| *on == dev) {
            let value = capture.watched(dev, *ino)?;
            if is_ours(*ino, value)? {
                ours.push((*ino, marks_of(of)));
                exact.extend(value.filter(|value| watched::is_exact(*value)).map(|_| *ino));
            }
        }
        let mut direct = false;
        for write in found.inflight.iter().filter(|write| write.dev == dev) {
            direct |= is_ours(write.ino, capture.watched(dev, write.ino)?)?;
        }
        let again = before.looked.marked_since(&found, |on, ino| on == dev && exact.contains(&ino));
        let (mut marks, mut newer, now) = (DirtySet::default(), DirtySet::default(), now_ns());
        for (ino, all) in ours {
            marks.add(ino, &all, now);
            let again = again.get(&(dev, ino)).cloned();
            newer.add(
                ino,
                &again.map_or_else(|| all.clone(), |blocks| Marks { blocks, meta: true, ..all.clone() }),
                now,
            );
        }
        let (waiting, arrivals) = pending.waiting();
        marks.add_all(&waiting);
        for (ino, of) in waiting.iter() {
            // What drains of other volumes have brought since, and everything of files that may change without another mark.
            let is_known = before.arrivals == Some(arrivals) && again.contains_key(&(dev, ino));
            newer.add(ino, &if is_known { Marks::meta() } else { of.marks.clone() }, now);
        }
        before.arrivals = Some(arrivals);
        Ok(Live { marks, newer, direct })
    }

    /// Whether `probe` has seen every change since the last drain.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn is_sure(&self, probe: &Probe) -> Result<bool, DispatcherError> {
        let mut inner = self.inner();
        Ok(self.failovers() == probe.failovers && inner.capture()?.is_sure()?)
    }
}

//! The model's watch set, and the drain of its kernel maps.

use std::collections::BTreeMap;

use super::folios::Rules;
use super::world::{SimError, SimWorld};
use crate::dirty::{DirtySet, Marks};
use crate::flush::DrainWorld;
use crate::flush::world::{Count, Live, Paused, WatchSet};
use crate::model::Ino;

impl WatchSet for SimWorld {
    fn watch(&mut self, inodes: &[Ino]) -> Result<(), SimError> {
        self.step()?;
        self.inner.borrow_mut().files.kernel.watch.extend(inodes);
        Ok(())
    }

    fn unwatch(&mut self, inodes: &[Ino]) -> Result<(), SimError> {
        for ino in inodes {
            self.inner.borrow_mut().files.kernel.watch.remove(ino);
            self.inner.borrow_mut().files.kernel.exact.remove(ino);
        }
        Ok(())
    }

    fn count(&mut self) -> Result<Count, SimError> {
        self.step()?;
        Ok(self.counted())
    }

    fn live(&mut self) -> Result<Live, SimError> {
        self.step()?;
        let mut inner = self.inner.borrow_mut();
        let always = inner.files.large == Some(Rules::AlwaysExact);
        let kernel = &mut inner.files.kernel;
        let (all, newer) = kernel.look(|known| always || known.is_exact());
        let set = |found: BTreeMap<Ino, Marks>| {
            let mut set = DirtySet::default();
            found.iter().for_each(|(ino, marks)| set.add(*ino, marks, 1));
            set
        };
        let direct = kernel.in_flight.values().any(|(ino, _, _)| kernel.watch.contains(ino));
        Ok(Live { marks: set(all), newer: set(newer), direct })
    }

    fn is_sure(&mut self) -> Result<bool, SimError> {
        Ok(true)
    }

    fn try_again(&mut self, tries: u32) -> Result<bool, SimError> {
        self.step()?;
        Ok(tries < 6)
    }

    fn is_late(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        inner.paused.is_some() && inner.files.rng.below(16) == 0
    }

    fn freeze(&mut self) -> Result<Paused, SimError> {
        self.step()?;
        if !self.pauses {
            return Ok(Paused::No);
        }
        let mut inner = self.inner.borrow_mut();
        inner.paused = Some(inner.files.rng.below(12));
        Ok(Paused::Yes)
    }

    fn thaw(&mut self) -> Result<u32, SimError> {
        self.inner.borrow_mut().paused = None;
        self.step()?;
        Ok(1)
    }
}

impl DrainWorld for SimWorld {
    type Error = SimError;

    fn swap(&mut self) -> Result<(), SimError> {
        self.step()?;
        self.opened.take();
        self.inner.borrow_mut().files.kernel.swap();
        Ok(())
    }

    fn grace(&mut self) -> Result<(), SimError> {
        self.step()?;
        self.inner.borrow_mut().files.kernel.grace();
        Ok(())
    }

    fn save_retired(&mut self) -> Result<(), SimError> {
        self.step()?;
        for (ino, marks) in self.inner.borrow().files.kernel.retired() {
            self.catalog.pending.entry(ino).or_default().merge(&marks);
        }
        Ok(())
    }

    fn clear_retired(&mut self) -> Result<(), SimError> {
        self.step()?;
        self.inner.borrow_mut().files.kernel.clear_retired();
        Ok(())
    }
}

//! The model's watch set, and the drain of its kernel maps.

use super::world::{SimError, SimWorld};
use crate::flush::DrainWorld;
use crate::flush::world::WatchSet;
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
        }
        Ok(())
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

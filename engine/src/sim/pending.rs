//! What is pending in the model's catalog.

use super::world::SimWorld;
use crate::dirty::DirtySet;

impl SimWorld {
    pub(super) fn forget_pending(&mut self, taken: &[u64], kept: &DirtySet) {
        for ino in taken {
            self.catalog.pending.remove(ino);
        }
        for (ino, waiting) in kept.iter() {
            self.catalog.pending.entry(ino).or_default().merge(&waiting.marks);
        }
    }
}

//! The flush that is running: what it was given, and what it leaves for the next one.

use super::facts::FlushFacts;
use super::gathered::Gathered;
use super::report::Report;
use super::world::CommittedState;
use crate::dirty::{DirtySet, Marks};
use crate::model::{FileId, Ino, NameChange};
use crate::reconcile::NamePlan;

/// The state that is passed from step to step of one flush.
pub(super) struct Flush<'a, W> {
    pub(super) world: &'a mut W,
    /// The marks that this flush handles.
    pub(super) taken: &'a DirtySet,
    pub(super) facts: &'a FlushFacts,
    pub(super) report: &'a mut Report,
    /// Marks that stay pending after this flush.
    pub(super) kept: DirtySet,
}

impl<W> Flush<'_, W> {
    /// Keeps marks of an inode, dated by its taken marks, or by the start of this flush if it had none.
    pub(super) fn keep(&mut self, ino: Ino, marks: &Marks) {
        let since_ns = self.taken.get(ino).map_or(self.facts.now_ns(), |waiting| waiting.since_ns);
        self.kept.add(ino, marks, since_ns);
    }

    /// Keeps the taken marks of an inode, or `others` if none were taken.
    pub(super) fn keep_taken_or(&mut self, ino: Ino, others: &Marks) {
        match self.taken.get(ino) {
            Some(waiting) => self.kept.add(ino, &waiting.marks, waiting.since_ns),
            None => self.kept.add(ino, others, self.facts.now_ns()),
        }
    }

    /// Whether the commit will not have everything that was taken.
    pub(super) fn leaves_over(&self, names: &Gathered) -> bool {
        let report = &self.report;
        let removals = report.removals_waiting + report.removals_held + report.removals_left;
        !self.kept.is_empty() || !names.plan.missing.is_empty() || removals + report.carried + report.put_off > 0
    }

    /// Keeps all marks that were taken.
    pub(super) fn keep_all_taken(&mut self) {
        self.kept.add_all(self.taken);
    }
}

impl<W: CommittedState> Flush<'_, W> {
    /// Has those directories listed again that are nowhere in the tree, whose own removal waits, and that lose a name by the plan
    /// already. `waits` tells whose removal does. They may come back, with everything that was in them, and as they are known nothing
    /// else would have them listed.
    pub(super) fn list_if_back(&mut self, plan: &NamePlan, waits: impl Fn(&FileId) -> bool) -> Result<(), W::Error> {
        for change in &plan.changes {
            if let NameChange::Unset { parent, .. } = change
                && waits(parent)
                && let Some(record) = self.world.record(*parent)?
            {
                self.keep(record.inode.ino, &Marks::names());
            }
        }
        Ok(())
    }
}

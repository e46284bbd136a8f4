//! The hooks of a volume while it runs: `before`, and the `after` that is owed from then on. The volume's thread runs both; where
//! it ends otherwise, whoever notices runs `after`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::model::{Consistency, Seq};

use super::Shared;
use crate::catalog::{Catalog, CatalogError};
use crate::volume::hooks::process::{self, Call, Ran};
use crate::volume::hooks::{Due, Which};

/// What a stop needs after a `before` that was given up: its kill, and `after`.
const FOR_THE_REST: Duration = Duration::from_secs(2);

/// The newest commit, and what it says of its instant.
pub(crate) type Newest = (Option<Seq>, Option<Consistency>);

impl Shared {
    /// Runs `before`, if there is one. From now on `after` is owed.
    pub(crate) fn quiesce(&self, catalog: &Arc<Catalog>, run: String) -> Result<(), CatalogError> {
        let config = self.config();
        let (due, environment) = Due::note(catalog, &config, run)?;
        let limit = due.limit;
        *self.due.lock() = Some(due);
        let Some(line) = config.options.before.get() else { return Ok(()) };
        let give_up = || self.progress().stop_by.is_some_and(|by| Instant::now() + FOR_THE_REST > by);
        let mut ran = process::run(&Call { line, environment: &environment, limit }, &give_up);
        if let Some(due) = &mut *self.due.lock() {
            due.output = ran.output.take();
        }
        self.ran(&config.name, Which::Before, &ran);
        Ok(())
    }

    /// Runs `after` if it is owed. Whoever calls this later waits until it has ended, and finds nothing owed.
    pub(crate) fn release(&self, newest: impl FnOnce() -> Newest) {
        let mut owed = self.due.lock();
        let Some(due) = owed.take() else { return };
        self.pay(due, newest());
    }

    /// The same for what an earlier process owes.
    pub(crate) fn release_left(&self, catalog: &Arc<Catalog>) -> Result<(), CatalogError> {
        let mut owed = self.due.lock();
        let Some(due) = Due::left(catalog, &self.config())? else { return Ok(()) };
        // In this process it is the thread's, or was given already.
        *owed = None;
        tracing::warn!(volume = self.config().name, "an earlier process ended before the hook `after`: it runs now");
        let head = catalog.head()?.map(|head| head.seq);
        self.pay(due, (head, None));
        Ok(())
    }

    fn pay(&self, due: Due, (commit, said): Newest) {
        let commit = commit.map(|seq| seq.to_string()).unwrap_or_default();
        let instant = said.map_or("", |said| if said.is_instant() { "instant" } else { "live" });
        if let Some(ran) = due.pay(&commit, instant) {
            self.ran(&self.config().name, Which::After, &ran);
        }
    }

    fn ran(&self, volume: &str, which: Which, ran: &Ran) {
        let mut worth_a_line = false;
        self.update(|progress| worth_a_line = progress.hooks.note(which, ran, Instant::now()));
        let (hook, ended, stderr) = (which.name(), &ran.ended, ran.said.trim_end());
        if worth_a_line {
            tracing::warn!(volume, hook, %ended, ?stderr, "a hook failed");
        } else {
            tracing::debug!(volume, hook, %ended, ?stderr, "a hook ended");
        }
    }
}

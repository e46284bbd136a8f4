//! Hooks of the application around a flush, as values and as notes: which ran, what became of them, and what is owed to the
//! application if this process dies. `process` runs one.
//!
//! ```text
//! note, durable -> `before` -> drain -> flush -> `after` -> note cleared
//! ```
//!
//! The note is made before `before` is started, so that after a `kill -9` at any point in between the next start finds it, and
//! runs `after` first.

pub(crate) mod process;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ChildStderr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, CatalogError};
use crate::config::{HookLine, VolumeConfig};
use process::{Call, Ran};

/// Name of the note that `before` was started and `after` has not ended; empty: nothing is owed.
const NOTE: &str = "hook";
/// The variable by which a later process finds a `before` that outlived this one.
const RUN: &str = "TRACKER_HOOK_RUN";
/// The same failure is logged once in this time.
const REPEAT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Which {
    Before,
    After,
}

impl Which {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Which::Before => "before",
            Which::After => "after",
        }
    }
}

/// What is shown of the hooks of a volume. Counters are since the start of this process.
#[derive(Clone, Debug)]
pub struct HooksShown {
    /// How often each was started.
    pub runs: BTreeMap<String, u64>,
    /// How often each failed or was killed.
    pub failures: BTreeMap<String, u64>,
    /// The last run of a hook, if it failed, in words, and when it was logged.
    failed: BTreeMap<Which, (String, Instant)>,
    /// Hooks are set, and none is run: why.
    pub not_run: Option<&'static str>,
}

impl Default for HooksShown {
    /// Both words are there from the begin on, so that a rate can be taken of each.
    fn default() -> HooksShown {
        let none = || [Which::Before, Which::After].map(|which| (which.name().to_owned(), 0)).into();
        HooksShown { runs: none(), failures: none(), failed: BTreeMap::new(), not_run: None }
    }
}

impl HooksShown {
    /// Takes note of a run. True: it failed, and that is worth a line in the log.
    pub(crate) fn note(&mut self, which: Which, ran: &Ran, now: Instant) -> bool {
        *self.runs.entry(which.name().to_owned()).or_default() += 1;
        if ran.ended.is_success() {
            self.failed.remove(&which);
            return false;
        }
        *self.failures.entry(which.name().to_owned()).or_default() += 1;
        let what = failure(which, ran);
        let known = self.failed.get(&which).filter(|(said, at)| *said == what && now < *at + REPEAT);
        let at = known.map_or(now, |(_, at)| *at);
        let worth_a_line = known.is_none();
        self.failed.insert(which, (what, at));
        worth_a_line
    }

    /// Forgets failures of hooks that are no longer set.
    pub(crate) fn keep_set(&mut self, before: &HookLine, after: &HookLine) {
        let set = |which: &Which| match which {
            Which::Before => before.get().is_some(),
            Which::After => after.get().is_some(),
        };
        self.failed.retain(|which, _| set(which));
    }

    /// Why the volume is degraded by its hooks.
    pub(crate) fn trouble(&self) -> impl Iterator<Item = String> {
        let not_run = self.not_run.map(ToOwned::to_owned);
        self.failed.values().map(|(what, _)| what.clone()).chain(not_run)
    }
}

/// A failed run in words, with the last line that it wrote.
fn failure(which: Which, ran: &Ran) -> String {
    let follows = match which {
        Which::Before => "commits are made as without it",
        Which::After => "the application may still be at rest",
    };
    let last = ran.said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let last: String = last.trim().chars().take(200).collect();
    let last = if last.is_empty() { last } else { format!(" ({})", crate::quoting::tame_line(&last)) };
    format!("the hook `{}` failed: {}{last}: {follows}", which.name(), ran.ended)
}

/// What the note holds: enough to give the application its `after` when this process is gone.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owed {
    /// Of the run of `before`.
    run: String,
    after: HookLine,
}

/// An `after` that has to run exactly once. Whoever takes it out of `Shared::due` runs it.
#[derive(Debug)]
pub(crate) struct Due {
    catalog: Arc<Catalog>,
    /// The catalog says that it is owed.
    noted: bool,
    after: HookLine,
    pub(crate) limit: Duration,
    environment: Variables,
    /// The end of the pipe that `before` wrote to. What it left running may write to it until `after` has ended; without a reader
    /// the first line would kill it.
    pub(crate) output: Option<ChildStderr>,
}

/// Variables of a hook's environment.
type Variables = Vec<(&'static str, OsString)>;

/// What a hook may know of its volume.
fn environment(config: &VolumeConfig) -> Variables {
    vec![("TRACKER_VOLUME", config.name.clone().into()), ("TRACKER_SOURCE", config.source.clone().into())]
}

impl Due {
    /// Notes on the disk that `after` is owed. Returns that, and the environment of `before`.
    pub(crate) fn note(
        catalog: &Arc<Catalog>,
        config: &VolumeConfig,
        run: String,
    ) -> Result<(Due, Variables), CatalogError> {
        let after = config.options.after.clone();
        let of_volume = environment(config);
        let noted = config.options.before.get().is_some();
        if noted {
            let owed = Owed { run: run.clone(), after: after.clone() };
            // Plain values can always be serialized.
            catalog.set_note_durably(NOTE, &serde_json::to_string(&owed).unwrap_or_default())?;
        }
        let limit = config.options.hook_timeout.0;
        let (catalog, environment) = (Arc::clone(catalog), of_volume.clone());
        let due = Due { catalog, noted, after, limit, environment, output: None };
        Ok((due, [of_volume, vec![(RUN, run.into())]].concat()))
    }

    /// Runs `after` and clears the note. `commit`: the newest one, and what it says of its instant, as words.
    pub(crate) fn pay(self, commit: &str, instant: &str) -> Option<Ran> {
        let environment =
            [self.environment, vec![("TRACKER_COMMIT", commit.into()), ("TRACKER_INSTANT", instant.into())]].concat();
        let call = |line| Call { line, environment: &environment, limit: self.limit };
        let ran = self.after.get().map(|line| process::run(&call(line), &|| false));
        drop(self.output);
        if self.noted
            && let Err(error) = self.catalog.set_note(NOTE, "")
        {
            tracing::warn!(%error, "that the hook `after` has run cannot be noted: the next start runs it again");
        }
        ran
    }

    /// What an earlier process owes the application; the `before` of then is ended if it still runs. The `after` of now is taken,
    /// or else that of then.
    pub(crate) fn left(catalog: &Arc<Catalog>, config: &VolumeConfig) -> Result<Option<Due>, CatalogError> {
        let Some(text) = catalog.note(NOTE)?.filter(|text| !text.is_empty()) else { return Ok(None) };
        let owed: Option<Owed> = serde_json::from_str(&text).ok();
        if let Some(owed) = &owed {
            process::end_leader(RUN, &owed.run);
        }
        let now = config.options.after.clone();
        let after = match now.get() {
            Some(_) => now,
            None => owed.map(|owed| owed.after).unwrap_or_default(),
        };
        let (catalog, limit) = (Arc::clone(catalog), config.options.hook_timeout.0);
        Ok(Some(Due { catalog, noted: true, after, limit, environment: environment(config), output: None }))
    }
}

#[cfg(test)]
mod tests;

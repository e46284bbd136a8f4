//! Whether capture still sees everything: checks links, programs, missed runs and widened marks.

use std::os::fd::AsFd;

use common::maps::counter;

use super::error::CaptureError;
use super::pin_files::{link_path, program_path};
use super::running::{Capture, Seen};
use super::sys;
use crate::test_switches;

/// The state of capture at one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is wrong, or became worse since the last check; after a resume also what happened while no process checked. Any
    /// problem means that marks may be missing: the caller compares everything that is tracked.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The link's pin is gone: the program ends with this process, or has ended.
    LinkGone {
        /// Name of the program.
        program: &'static str,
    },
    /// Another program is behind the link or the pin.
    ProgramChanged {
        /// Name of the program.
        program: &'static str,
    },
    /// Runs were skipped because the program was already running on that CPU.
    Missed {
        /// Name of the program.
        program: &'static str,
        /// How many more than at the last check.
        runs: u64,
    },
    /// Changes were not marked, because no process renewed the lease in time.
    Lapsed,
    /// Marks were widened or lost (see `common::maps::counter`): counter `lost` for lost ones, all others for widened ones.
    Widened {
        /// Name of the counter.
        counter: &'static str,
        /// How many more than at the last check.
        times: u64,
    },
}

impl Capture {
    /// Checks links, programs and counters.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn health(&mut self) -> Result<Health, CaptureError> {
        // Stored only when the whole check succeeds, so that a failed check loses no problem.
        let mut seen = self.seen.clone();
        let mut problems = self.problems_since(&mut seen)?;
        if let Some(attached) = self.attached.first()
            && test_switches::missed_run()
        {
            problems.push(Problem::Missed { program: attached.name, runs: 1 });
        }
        if self.take_lapse()? {
            problems.push(Problem::Lapsed);
        }
        self.seen = seen;
        Ok(Health { problems })
    }

    /// Whether every change since the last swap was marked where it happened, as far as can be known: nothing is wrong, and
    /// no mark had to be widened beyond its file. Changes nothing of what `health` will say.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn is_sure(&self) -> Result<bool, CaptureError> {
        let problems = self.problems_since(&mut self.seen.clone())?;
        Ok(problems.is_empty() && !self.has_lapsed()? && self.overflowed()? == self.overflows)
    }

    /// What is wrong, or got worse since `seen`, which is brought up to date.
    fn problems_since(&self, seen: &mut Seen) -> Result<Vec<Problem>, CaptureError> {
        let mut problems = Vec::new();
        for attached in &self.attached {
            let program = attached.name;
            if self.pinned && !link_path(&self.pin_dir, program).exists() {
                problems.push(Problem::LinkGone { program });
            }
            let failed = |source| CaptureError::File {
                what: "program information of",
                path: program_path(&self.pin_dir, program),
                source,
            };
            let info = sys::program_info(attached.program.as_fd()).map_err(failed)?;
            let linked = sys::link_program(attached.link.as_fd()).map_err(failed)?;
            if info.id != attached.id || linked != attached.id {
                problems.push(Problem::ProgramChanged { program });
            }
            let before = seen.misses.insert(program, info.misses).unwrap_or(0);
            if info.misses > before {
                problems.push(Problem::Missed { program, runs: info.misses - before });
            }
        }
        let counters = self.counters()?;
        for cell in counter::WIDENED_OR_LOST {
            let now = counters.get(cell);
            let before = seen.counted.insert(cell, now).unwrap_or(0);
            if now > before {
                let name = counter::NAMES.get(cell as usize).copied().unwrap_or("unnamed");
                problems.push(Problem::Widened { counter: name, times: now - before });
            }
        }
        Ok(problems)
    }
}

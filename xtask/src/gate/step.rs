//! One step of the gate: what it may come to, how it is told and counted.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::sh;
use crate::stream::checked;

/// What a check found out, when it could run at all.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    /// Not run, for this reason.
    Skipped(String),
}

/// One run of the gate, or a part of it that goes on beside another: where its logs go and what it counted so far.
pub(super) struct Gate {
    pub(super) logs: PathBuf,
    pub(super) tally: Tally,
    /// Stands before each line of a part that goes on beside another.
    pub(super) prefix: String,
}

impl Gate {
    /// A part that goes on beside this one; its tally is added in the end.
    pub(super) fn part(&self, prefix: String) -> Gate {
        Gate { logs: self.logs.clone(), tally: Tally::default(), prefix }
    }

    /// Runs one check, which counts as one test, between two header lines.
    pub(super) fn check(&mut self, name: &str, check: impl FnOnce(&Gate) -> Result<Outcome>) -> bool {
        self.say(&format!("== {name}"));
        let started = Instant::now();
        let result = check(self);
        let seconds = started.elapsed().as_secs_f64();
        self.tally.steps.push((name.to_owned(), seconds));
        match result {
            Ok(Outcome::Passed) => {
                self.tally.passed += 1;
                self.say(&format!("   passed in {seconds:.1} s"));
                return true;
            }
            Ok(Outcome::Skipped(reason)) => {
                self.say(&format!("   skipped: {reason}"));
                self.tally.skip(name, &reason);
            }
            Err(error) => {
                self.say(&format!("{error}\n   FAILED after {seconds:.1} s"));
                self.tally.fail(name);
            }
        }
        false
    }

    /// A command that has to succeed, with its output in the log of this name.
    pub(super) fn passed(&self, command: &mut Command, log: &str) -> Result<Outcome> {
        checked(command, &self.log(log)).map(|()| Outcome::Passed)
    }

    /// Prints what a person is to see now, each line behind the prefix.
    pub(super) fn say(&self, text: &str) {
        for line in text.lines() {
            println!("{}{line}", self.prefix);
        }
    }

    /// The log file of a step.
    pub(super) fn log(&self, step: &str) -> PathBuf {
        let name: String = step.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        self.logs.join(format!("{name}.log"))
    }

    pub(super) fn finish(self, started: Instant) -> Result<()> {
        println!("== summary after {:.0} s (logs: target/test-logs)", started.elapsed().as_secs_f64());
        for (what, times) in [("step", &self.tally.steps), ("test", &self.tally.times)] {
            for (name, seconds) in slowest(times) {
                println!("slowest {what}: {seconds:.1} s {name}");
            }
        }
        for (name, reason) in &self.tally.skipped {
            println!("SKIPPED {name}: {reason}");
        }
        for name in &self.tally.failed {
            println!("FAILED {name}");
        }
        println!("{}", self.tally);
        if self.tally.failed.is_empty() {
            return Ok(());
        }
        // The count is the last line, so the failure is told by the exit code alone.
        std::process::exit(1)
    }
}

/// Skips because `what` is absent, or fails where TRACKER_TEST_REQUIRE (a comma list) names it.
pub(super) fn absent(what: &str, reason: &str) -> Result<Outcome> {
    let required = std::env::var("TRACKER_TEST_REQUIRE").unwrap_or_default();
    if required.split(',').any(|item| item.trim() == what) {
        let help = format!("TRACKER_TEST_REQUIRE names `{what}`; run: cargo xtask setup");
        return Err(sh::missing(reason, help));
    }
    Ok(Outcome::Skipped(reason.to_owned()))
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Tests and checks that passed.
    pub(super) passed: usize,
    /// Names of tests and checks that failed.
    pub(super) failed: Vec<String>,
    /// Names of tests, cases and checks that did not run, each with its reason.
    pub(super) skipped: Vec<(String, String)>,
    /// Results that came from test binaries, to notice a gate that tested nothing.
    pub(super) tests: usize,
    /// How many seconds each step took.
    pub(super) steps: Vec<(String, f64)>,
    /// How many seconds each test took, where tests run one after the other.
    pub(super) times: Vec<(String, f64)>,
}

/// So many of the slowest are told.
const SLOWEST: usize = 10;

impl Tally {
    pub(super) fn fail(&mut self, name: &str) {
        self.failed.push(name.to_owned());
    }

    pub(super) fn skip(&mut self, name: &str, reason: &str) {
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }

    /// Adds what another part of the same run has counted.
    pub(super) fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
        self.tests += other.tests;
        self.steps.extend(other.steps);
        self.times.extend(other.times);
    }
}

/// The slowest of `times` (name, seconds), the slowest first.
fn slowest(times: &[(String, f64)]) -> Vec<&(String, f64)> {
    let mut sorted: Vec<_> = times.iter().collect();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
    sorted.truncate(SLOWEST);
    sorted
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_line_has_the_agreed_form() {
        let mut tally = Tally { passed: 3, ..Tally::default() };
        tally.fail("a");
        tally.skip("b", "no root");
        assert_eq!(tally.to_string(), "3 passed, 1 failed, 1 skipped");
        let mut whole = Tally { passed: 1, tests: 1, ..Tally::default() };
        whole.add(tally);
        assert_eq!(whole.to_string(), "4 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn the_slowest_come_first_and_are_ten() {
        let times: Vec<_> = (0..20).map(|n| (n.to_string(), f64::from(n))).collect();
        let names: Vec<_> = slowest(&times).iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["19", "18", "17", "16", "15", "14", "13", "12", "11", "10"]);
    }
}

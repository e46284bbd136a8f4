//! Counting: what passed, what failed, what was skipped and why.

use std::fmt;

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
pub(super) fn slowest(times: &[(String, f64)]) -> Vec<&(String, f64)> {
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

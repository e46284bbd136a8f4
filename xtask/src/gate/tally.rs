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
}

impl Tally {
    pub(super) fn fail(&mut self, name: &str) {
        self.failed.push(name.to_owned());
    }

    pub(super) fn skip(&mut self, name: &str, reason: &str) {
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }
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
    }
}

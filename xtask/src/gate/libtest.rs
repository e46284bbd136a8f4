//! Reads what test programs print with `--show-output`: per test binary its counts, the names of failed tests, and the lines
//! `SKIP name: reason` of our tests. Pure: lines in, numbers out.

use super::step::Tally;

/// What one test binary reported.
#[derive(Debug, Default)]
struct Binary {
    name: String,
    /// The test whose captured output is being shown.
    showing: String,
    /// Below the heading `failures:`.
    in_failures: bool,
    failed: Vec<String>,
    skipped: Vec<(String, String)>,
    /// Skip lines that stand for a whole test which libtest counts as passed.
    whole: usize,
    lines: Vec<String>,
}

/// Follows the output of one `cargo test`.
#[derive(Debug, Default)]
pub(super) struct Reader {
    binary: Option<Binary>,
}

impl Reader {
    /// What follows is the output of the program `name`.
    pub(super) fn begin(&mut self, name: &str) {
        self.binary = Some(Binary { name: name.to_owned(), ..Binary::default() });
    }

    /// Takes one line; returns what is worth showing: one line per binary, and the output of failed tests.
    pub(super) fn line(&mut self, line: &str, tally: &mut Tally) -> Option<String> {
        if let Some(name) = header(line) {
            let died = self.end(tally);
            self.begin(&name);
            return died;
        }
        let binary = self.binary.as_mut()?;
        binary.lines.push(line.to_owned());
        if let Some(counts) = line.strip_prefix("test result: ").and_then(counts) {
            return self.binary.take().map(|binary| binary.close(counts, tally));
        }
        if let Some(test) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----")) {
            binary.showing = test.trim_end_matches(" stdout").to_owned();
        } else if line == "failures:" || line == "successes:" {
            binary.in_failures = line == "failures:";
            binary.showing.clear();
        } else if let Some((name, reason)) = skip(line) {
            let last = binary.showing.rsplit("::").next().unwrap_or_default();
            let whole = !binary.in_failures && (name == binary.showing || name == last);
            binary.whole += usize::from(whole);
            binary.skipped.push((name.to_owned(), reason.to_owned()));
        } else if binary.in_failures
            && let Some(test) = line.strip_prefix("    ").filter(|_| binary.showing.is_empty())
            && !test.contains(' ')
        {
            binary.failed.push(test.to_owned());
        }
        None
    }

    /// At the end of the output, and before the next binary: one that reported no result has died.
    pub(super) fn end(&mut self, tally: &mut Tally) -> Option<String> {
        let binary = self.binary.take()?;
        tally.fail(&format!("{}: ended without a result", binary.name));
        tally.tests += 1;
        Some(format!("{}\n   {}: DIED without a result", binary.lines.join("\n"), binary.name))
    }
}

impl Binary {
    fn close(self, (passed, failed, ignored): (usize, usize, usize), tally: &mut Tally) -> String {
        let whole = self.whole.min(passed);
        tally.tests += passed + failed;
        tally.passed += passed - whole;
        // Names come from the list at the end; a broken line there must not lower the count.
        for index in 0..failed {
            let name = self.failed.get(index).map_or("a test that cannot be named", String::as_str);
            tally.fail(&format!("{}: {name}", self.name));
        }
        for (name, reason) in &self.skipped {
            tally.skip(&format!("{}: {name}", self.name), reason);
        }
        for _ in 0..ignored {
            tally.skip(&self.name, "marked as ignored (doc examples marked so are not run)");
        }
        let skipped = self.skipped.len() + ignored;
        let counts = format!("   {}: {} passed, {failed} failed, {skipped} skipped", self.name, passed - whole);
        if failed == 0 {
            return counts;
        }
        let start = self.lines.iter().position(|line| line == "failures:").unwrap_or(0);
        format!("{}\n{counts}", self.lines.get(start..).unwrap_or_default().join("\n"))
    }
}

/// The name of the binary that a line announces as cargo does.
fn header(line: &str) -> Option<String> {
    let (_, file) = line.trim_start().strip_prefix("Running ")?.rsplit_once('(')?;
    let stem = file.strip_suffix(')')?.rsplit('/').next()?;
    // cargo appends a hash to the name of the file.
    Some(stem.rsplit_once('-').map_or(stem, |(name, _)| name).to_owned())
}

/// The name of the test whose result this line is.
pub(super) fn ended(line: &str) -> Option<&str> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    matches!(result, "ok" | "FAILED").then_some(name)
}

fn counts(text: &str) -> Option<(usize, usize, usize)> {
    let count = |what: &str| text.split_once(what)?.0.trim_end().rsplit(' ').next()?.parse().ok();
    Some((count("passed")?, count("failed")?, count("ignored")?))
}

fn skip(line: &str) -> Option<(&str, &str)> {
    let (name, reason) = line.strip_prefix("SKIP ")?.split_once(": ")?;
    (!name.contains(' ')).then_some((name, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Tally, String) {
        let (mut reader, mut tally, mut shown) = (Reader::default(), Tally::default(), Vec::new());
        shown.extend(text.lines().filter_map(|line| reader.line(line, &mut tally)));
        shown.extend(reader.end(&mut tally));
        (tally, shown.join("\n"))
    }

    #[test]
    fn a_result_names_its_test() {
        assert_eq!(ended("test a::b ... ok"), Some("a::b"));
        assert_eq!(ended("test a::b ... FAILED"), Some("a::b"));
        for line in ["test result: ok. 1 passed", "running 1 test", "test a ... ", "a test ... ok"] {
            assert_eq!(ended(line), None, "{line}");
        }
    }

    #[test]
    fn passes_failures_and_their_output_are_read() {
        let (tally, shown) = read(concat!(
            "     Running unittests src/lib.rs (target/debug/deps/engine-0a1b)\n\nrunning 3 tests\n",
            "test a::ok ... ok\ntest a::bad ... FAILED\ntest b ... ok\n\n",
            "failures:\n\n---- a::bad stdout ----\n    indented output\nassertion failed\n\n",
            "failures:\n    a::bad\n\n",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        ));
        assert_eq!(tally.to_string(), "2 passed, 1 failed, 0 skipped");
        assert_eq!(tally.failed, ["engine: a::bad"]);
        assert!(shown.contains("assertion failed"), "{shown}");
    }

    #[test]
    fn a_skipped_test_counts_once_and_a_skipped_case_in_addition() {
        let (tally, _) = read(concat!(
            "     Running tests/matrix.rs (target/debug/deps/matrix-12)\n\nrunning 2 tests\n",
            "test m::whole ... ok\ntest m::cases ... ok\n\nsuccesses:\n\n",
            "---- m::cases stdout ----\nSKIP btrfs/fentry: no mkfs.btrfs\n\n",
            "---- m::whole stdout ----\nSKIP whole: needs root\n\n",
            "successes:\n    m::cases\n    m::whole\n\n",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n",
        ));
        assert_eq!(tally.to_string(), "1 passed, 0 failed, 2 skipped");
        assert_eq!(tally.skipped[1], ("matrix: whole".into(), "needs root".into()));
    }

    #[test]
    fn a_binary_that_dies_is_a_failure() {
        let (tally, shown) = read(concat!(
            "     Running tests/a.rs (target/debug/deps/a-1)\n\nrunning 1 test\nkilled by a signal\n",
            "     Running tests/b.rs (target/debug/deps/b-1)\n\nrunning 1 test\ntest x ... ok\n\n",
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n",
        ));
        assert_eq!(tally.to_string(), "1 passed, 1 failed, 0 skipped");
        assert!(shown.contains("killed by a signal") && shown.contains("a: DIED"), "{shown}");
    }
}

//! What the tests leave in the kernel: programs that go on running on the developer's machine would cost every write there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::libtest;
use super::step::Gate;

/// Where captures are pinned, by the product and by tests.
const BPFFS: &str = "/sys/fs/bpf";

/// The captures that are pinned now: those of the product by their directory, others by their name.
pub(super) fn pinned() -> BTreeSet<String> {
    let top = names(Path::new(BPFFS)).into_iter().filter(|name| name.starts_with("tracker-"));
    let product = names(&Path::new(BPFFS).join("tracker")).into_iter().map(|name| format!("tracker/{name}"));
    top.chain(product).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Follows the output of test programs, each of which runs its tests one after the other, so that what stays has the name of who
/// left it.
pub(super) struct Watch {
    before: BTreeSet<String>,
    /// The programs that are running.
    running: BTreeSet<String>,
    /// The test after which a capture was seen first, and the programs that ran beside it.
    came: BTreeMap<String, String>,
}

impl Watch {
    /// What is pinned `before` is nobody's.
    pub(super) fn new(before: BTreeSet<String>) -> Watch {
        Watch { before, running: BTreeSet::new(), came: BTreeMap::new() }
    }

    /// Takes a line that libtest printed in `program`, and what is pinned when it is printed.
    pub(super) fn line(&mut self, program: &str, line: &str, pinned: impl FnOnce() -> BTreeSet<String>) {
        if line.starts_with("running ") {
            self.running.insert(program.to_owned());
        } else if line.starts_with("test result: ") {
            self.running.remove(program);
        }
        let Some(test) = libtest::ended(line) else { return };
        let beside =
            self.running.iter().filter(|other| *other != program).map(|other| format!(", or a test of {other}"));
        let by = format!("{test}{}", beside.collect::<String>());
        for name in pinned().difference(&self.before) {
            self.came.entry(name.clone()).or_insert_with(|| by.clone());
        }
    }

    /// What is there `now` and was not before, each with its test.
    fn left(&self, now: &BTreeSet<String>) -> Vec<String> {
        let by = |name: &String| self.came.get(name).map_or("no single test", String::as_str);
        now.difference(&self.before).map(|name| format!("{name} (by {})", by(name))).collect()
    }
}

/// Fails the gate for captures that have come since the watch began and are there still.
pub(super) fn check(gate: &mut Gate, name: &str, watch: &Watch) {
    let left = watch.left(&pinned());
    if !left.is_empty() {
        gate.say(&format!(
            "left below {BPFFS}: {}; `tracker untrack --all` removes those of the product",
            left.join(", ")
        ));
        gate.tally.fail(&format!("{name}: captures stay in the kernel"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_stays_has_the_name_of_the_test_that_left_it() {
        let mut watch = Watch::new(set(&["tracker/old", "tracker/gone"]));
        watch.line("a", "test first ... ok", || set(&["tracker/old", "tracker/passing"]));
        watch.line("a", "running 3 tests", || panic!("only a result is a reason to look"));
        watch.line("a", "test second ... FAILED", || set(&["tracker/old", "tracker/passing", "tracker/stays"]));
        watch.line("b", "running 1 test", || panic!("only a result is a reason to look"));
        watch.line("a", "test third ... ok", || set(&["tracker/stays", "tracker/whose"]));
        watch.line("b", "test result: ok", || panic!("only a result is a reason to look"));
        watch.line("a", "test fourth ... ok", || set(&["tracker/stays", "tracker/fourth"]));
        let now = set(&["tracker/old", "tracker/stays", "tracker/whose", "tracker/fourth", "tracker-late"]);
        let left = [
            "tracker-late (by no single test)",
            "tracker/fourth (by fourth)",
            "tracker/stays (by second)",
            "tracker/whose (by third, or a test of b)",
        ];
        assert_eq!(watch.left(&now), left);
        assert_eq!(watch.left(&set(&["tracker/old"])), [""; 0]);
    }
}

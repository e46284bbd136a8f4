//! What the tests leave in the kernel: programs that go on running on the developer's machine would cost every write there.

use std::collections::BTreeSet;
use std::path::Path;

use super::Gate;

/// Where captures are pinned, by the product and by tests.
const BPFFS: &str = "/sys/fs/bpf";

/// The captures that are pinned now: those of the product by their directory, others by their name.
pub(super) fn pinned() -> BTreeSet<String> {
    let top = names(Path::new(BPFFS)).into_iter().filter(|name| name.starts_with("tracker-"));
    let product = names(&Path::new(BPFFS).join("tracker")).into_iter().map(|name| format!("tracker/{name}"));
    top.chain(product).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What is there now and was not `before`.
fn left(before: &BTreeSet<String>, now: &BTreeSet<String>) -> Vec<String> {
    now.difference(before).cloned().collect()
}

/// Fails the gate for captures that have come since `before`.
pub(super) fn check(gate: &mut Gate, name: &str, before: &BTreeSet<String>) {
    let left = left(before, &pinned());
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

    #[test]
    fn only_what_came_in_between_was_left_by_the_tests() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let before = set(&["tracker/1-2", "tracker/gone"]);
        assert_eq!(left(&before, &set(&["tracker/1-2"])), [""; 0]);
        assert_eq!(
            left(&before, &set(&["tracker/1-2", "tracker/3-4", "tracker-test-9-0"])),
            ["tracker-test-9-0", "tracker/3-4"]
        );
    }
}

//! Tiers 1 and 2: building and running the test binaries.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::leftovers;
use super::libtest::{self, Reader};
use super::step::{Gate, Outcome, absent};
use super::stream::{checked, stream};
use crate::sh::Error;
use crate::{docker, setup, sh};

/// Tier 1: the default members, without privilege.
pub(super) fn unprivileged(gate: &mut Gate, filter: Option<&str>) {
    tier(gate, "tier 1", &[], &[], filter, &mut |_: &str| ());
}

/// Tier 2: the crate `tests`, as root, one test at a time: the cases share the kernel's hooks, mounts and ports.
pub(super) fn privileged(gate: &mut Gate, filter: Option<&str>) {
    if !sh::is_root() {
        gate.check("tier 2", |_| absent("root", "needs root: run `sudo -E env PATH=$PATH cargo xtask test --tier 2`"));
        return;
    }
    if build_tracker(gate) {
        let mut watch = leftovers::Watch::new(leftovers::pinned());
        let mut look = |line: &str| watch.line(line, leftovers::pinned);
        tier(gate, "tier 2", &["-p", "tests"], &["--test-threads=1"], filter, &mut look);
        // A run of single tests may have neighbours.
        if filter.is_none() {
            leftovers::check(gate, "tier 2", &watch);
        }
    }
}

/// Builds the program that tests start; false if that failed.
pub(super) fn build_tracker(gate: &mut Gate) -> bool {
    gate.check("build the tracker under test", |gate| {
        let log = gate.log("build-tracker");
        checked(sh::cargo().args(["build", "-p", "tracker"]), &log).map(|()| Outcome::Passed)
    })
}

/// `look` sees each line of the tests' output too.
fn tier(
    gate: &mut Gate,
    name: &str,
    packages: &[&str],
    options: &[&str],
    filter: Option<&str>,
    look: &mut dyn FnMut(&str),
) {
    // Built first and apart: a compile error is one failure with its own output, not a tier without tests.
    let built = gate.check(&format!("{name}: build"), |gate| {
        let log = gate.log(&format!("{name} build"));
        checked(sh::cargo().args(["test", "--no-run"]).args(packages), &log).map(|()| Outcome::Passed)
    });
    if !built {
        return;
    }
    let before = gate.tally.tests;
    let mut command = sh::cargo();
    command.args(["test", "--no-fail-fast"]).args(packages).args(["--", "--show-output"]).args(options).args(filter);
    describe(&mut command);
    follow(gate, name, None, |log, each| {
        let status = stream(&mut command, log, &mut |line: &str| {
            look(line);
            each(line);
        })?;
        Ok((!status.success()).then(|| format!("`{}` failed ({status})", sh::show(&command))))
    });
    if gate.tally.tests == before && filter.is_none() {
        println!("   no test ran");
        gate.tally.fail(&format!("{name}: no test ran"));
    }
}

/// Runs test binaries and counts what they print. `run` is given a file for their output and is to hand on each line; it
/// tells how they ended, if not well. `header` stands before the first line, as if they had printed it.
pub(super) fn follow(
    gate: &mut Gate,
    name: &str,
    header: Option<&str>,
    run: impl FnOnce(&Path, &mut dyn FnMut(&str)) -> Result<Option<String>, Error>,
) {
    gate.say(&format!("== {name}"));
    let (started, before, failed) = (Instant::now(), gate.tally.tests, gate.tally.failed.len());
    let (log, mut reader, mut tally) = (gate.log(name), Reader::default(), std::mem::take(&mut gate.tally));
    let mut last = Instant::now();
    let mut each = |line: &str| {
        // Where tests run one after the other the time since the result before is the test's own.
        if let Some(test) = libtest::ended(line) {
            tally.times.push((format!("{name}: {test}"), last.elapsed().as_secs_f64()));
        }
        if line.starts_with("test ") || line.starts_with("running ") {
            last = Instant::now();
        }
        if let Some(text) = reader.line(line, &mut tally) {
            gate.say(&text);
        }
    };
    if let Some(header) = header {
        each(header);
    }
    let result = run(&log, &mut each);
    gate.tally = tally;
    if let Some(text) = reader.end(&mut gate.tally) {
        gate.say(&text);
    }
    match result {
        Err(error) => {
            gate.say(&error.to_string());
            gate.tally.fail(name);
        }
        // The runner itself may fail where no test did.
        Ok(Some(end)) if gate.tally.failed.len() == failed => {
            gate.say(&format!("{end}, see {}", log.display()));
            gate.tally.fail(name);
        }
        Ok(_) => {}
    }
    let seconds = started.elapsed().as_secs_f64();
    gate.tally.steps.push((name.to_owned(), seconds));
    gate.say(&format!("   {} tests in {seconds:.1} s", gate.tally.tests - before));
}

/// Tells the tests where the things built for them are.
fn describe(command: &mut Command) {
    command.env("TRACKER_TEST_BIN", sh::target_dir().join("debug/tracker"));
    command.env("TRACKER_TEST_VENV", setup::venv());
    command.env("TRACKER_TEST_DOCKER", docker::folder());
}

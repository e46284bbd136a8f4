//! Tiers 1 and 2: building and running the test programs.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use super::leftovers;
use super::libtest::{self, Reader};
use super::step::{Gate, Outcome, absent};
use crate::programs::{self, Program};
use crate::stream::{failure, stream};
use crate::{docker, setup, sh};

/// Builds all test programs and what they start, in one call: parts would be built again with other features. `all`: also those
/// that need root. None if that failed.
pub(super) fn build(gate: &mut Gate, all: bool) -> Option<Vec<Program>> {
    let mut programs = Vec::new();
    gate.check("build the tests", |gate| {
        let mut command = sh::cargo();
        command.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
        command.args(if all { &["--workspace", "--exclude", "tracker-ebpf"][..] } else { &[] });
        let (mut messages, mut output) = (Vec::new(), Vec::new());
        let status = stream(&mut command, &gate.log("build"), |line| {
            if line.starts_with('{') { messages.push(line.to_owned()) } else { output.push(line.to_owned()) }
        })?;
        if !status.success() {
            return Err(failure(&command, status, &output));
        }
        programs = programs::of_messages(messages.iter().map(String::as_str));
        Ok(Outcome::Passed)
    })
    .then_some(programs)
}

/// The package whose tests need root.
const PRIVILEGED: &str = "tests";

/// Tier 1: the default members, without privilege.
pub(super) fn unprivileged(gate: &mut Gate, programs: &[Program], filter: Option<&str>) {
    let own: Vec<&Program> = programs.iter().filter(|program| program.package() != PRIVILEGED).collect();
    tier(gate, "tier 1", &own, &[], filter, &mut |_| ());
}

/// Tier 2: the crate `tests`, as root, one test at a time: the cases share the kernel's hooks, mounts and ports.
pub(super) fn privileged(gate: &mut Gate, programs: &[Program], filter: Option<&str>) {
    if !sh::is_root() {
        gate.check("tier 2", |_| absent("root", "needs root: run `sudo -E env PATH=$PATH cargo xtask test --tier 2`"));
        return;
    }
    let own: Vec<&Program> = programs.iter().filter(|program| program.package() == PRIVILEGED).collect();
    let mut watch = leftovers::Watch::new(leftovers::pinned());
    tier(gate, "tier 2", &own, &["--test-threads=1"], filter, &mut |line| watch.line(line, leftovers::pinned));
    // A run of single tests may have neighbours.
    if filter.is_none() {
        leftovers::check(gate, "tier 2", &watch);
    }
}

/// Runs `programs` one after the other. `look` sees each line of their output too.
fn tier(
    gate: &mut Gate,
    name: &str,
    programs: &[&Program],
    options: &[&str],
    filter: Option<&str>,
    look: &mut dyn FnMut(&str),
) {
    gate.say(&format!("== {name}"));
    let (started, before) = (Instant::now(), gate.tally.tests);
    for program in programs {
        let mut command = Command::new(&program.path);
        command.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
        command.arg("--show-output").args(options).args(filter);
        // Where the things are that were built for the tests.
        command.env("TRACKER_TEST_BIN", sh::target_dir().join("debug/tracker"));
        command.env("TRACKER_TEST_VENV", setup::venv()).env("TRACKER_TEST_DOCKER", docker::folder());
        let step = format!("{name}: {}", program.name);
        follow(gate, &step, Some(&program.name), |log, each| {
            let status = stream(&mut command, log, |line: &str| {
                look(line);
                each(line);
            })?;
            Ok((!status.success()).then(|| format!("`{}` failed ({status})", sh::show(&command))))
        });
    }
    let (tests, seconds) = (gate.tally.tests - before, started.elapsed().as_secs_f64());
    gate.say(&format!("   {tests} tests in {seconds:.1} s"));
    if tests == 0 && filter.is_none() {
        gate.say("   no test ran");
        gate.tally.fail(&format!("{name}: no test ran"));
    }
}

/// Runs test programs and counts what they print. `run` is given a file for their output and is to hand on each line; it
/// tells how they ended, if not well. `program`: the one that runs, where its output does not say so.
pub(super) fn follow(
    gate: &mut Gate,
    name: &str,
    program: Option<&str>,
    run: impl FnOnce(&Path, &mut dyn FnMut(&str)) -> Result<Option<String>>,
) {
    let (started, failed) = (Instant::now(), gate.tally.failed.len());
    let (log, mut reader, mut tally) = (gate.log(name), Reader::default(), std::mem::take(&mut gate.tally));
    if let Some(program) = program {
        reader.begin(program);
    }
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
    gate.tally.steps.push((name.to_owned(), started.elapsed().as_secs_f64()));
}

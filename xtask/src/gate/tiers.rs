//! Tiers 1 and 2: building and running the test programs.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;

use super::leftovers;
use super::libtest::{self, Reader};
use super::step::{Gate, Outcome, absent};
use crate::programs::{self, Program};
use crate::stream::{failure, stream};
use crate::{setup, sh};

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
    tier(gate, "tier 1", &own, &[], filter, &mut |_, _| ());
}

/// Programs that nothing else may run beside: they end whatever capture has no daemon.
const ALONE: [&str; 1] = ["left_behind"];

/// Programs that run beside the others, one of them at a time: their directories, mounts, servers and captures are their own, and
/// they look at no others. Those that measure, and those that look at the whole machine, are not among them.
const BESIDE: [&str; 20] = [
    "bad_input",
    "compare",
    "containers",
    "flags",
    "inline_data",
    "instant_databases",
    "mass_delete",
    "names_in_motion",
    "real_build",
    "real_download",
    "real_postgres",
    "real_sqlite",
    "restore_short",
    "store_mounts",
    "store_s3",
    "store_s3_errors",
    "store_s3_protect",
    "stress",
    "unread",
    "unstable_numbers",
];

/// Tier 2: the crate `tests`, as root, in each program one test at a time, and at most two programs.
pub(super) fn privileged(gate: &mut Gate, programs: &[Program], filter: Option<&str>) {
    if !sh::is_root() {
        gate.check("tier 2", |_| absent("root", "needs root: run `sudo -E env PATH=$PATH cargo xtask test --tier 2`"));
        return;
    }
    let own = || programs.iter().filter(|program| program.package() == PRIVILEGED);
    let within = |names: &[&str]| own().filter(|program| names.contains(&program.name.as_str())).collect::<Vec<_>>();
    let (alone, beside) = (within(&ALONE), within(&BESIDE));
    let rest: Vec<&Program> = own().filter(|program| !alone.contains(program) && !beside.contains(program)).collect();

    let watch = Mutex::new(leftovers::Watch::new(leftovers::pinned()));
    let look = |program: &str, line: &str| {
        watch.lock().unwrap_or_else(PoisonError::into_inner).line(program, line, leftovers::pinned);
    };
    let one_by_one = ["--test-threads=1"];
    tier(gate, "tier 2, alone", &alone, &one_by_one, filter, &mut { look });
    let mut other = gate.part("  ".into());
    std::thread::scope(|scope| {
        scope.spawn(|| tier(&mut other, "tier 2, beside", &beside, &one_by_one, filter, &mut { look }));
        tier(gate, "tier 2", &rest, &one_by_one, filter, &mut { look });
    });
    gate.tally.add(other.tally);
    // A run of single tests may have neighbours.
    if filter.is_none() {
        leftovers::check(gate, "tier 2", &watch.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Runs `programs` one after the other. `look` sees each line of their output too.
fn tier(
    gate: &mut Gate,
    name: &str,
    programs: &[&Program],
    options: &[&str],
    filter: Option<&str>,
    look: &mut dyn FnMut(&str, &str),
) {
    gate.say(&format!("== {name}"));
    let (started, before) = (Instant::now(), gate.tally.tests);
    for program in programs {
        let mut command = Command::new(&program.path);
        command.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
        command.arg("--show-output").args(options).args(filter);
        // Where the things are that were built for the tests.
        command
            .envs(programs::variables())
            .env("TRACKER_TEST_VENV", setup::folder("venv"))
            .env("TRACKER_TEST_DOCKER", setup::folder("docker"));
        let step = format!("{name}: {}", program.name);
        follow(gate, &step, Some(&program.name), |log, each| {
            let status = stream(&mut command, log, |line: &str| {
                look(&program.name, line);
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

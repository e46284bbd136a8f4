//! `matrix`: every operation on every file system, on the kernel of this machine and in guests with the others, by each back
//! end, and by both oracles: the marks, and then flushes and restores of the program. What the marks have shown is written
//! into `docs/kernels-cells.md`. The operations and the page are the test programs'.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::programs;
use crate::sh;
use crate::stream::{self, Limits};
use crate::vm::{self, Request, Series};

/// A test program, and its case that runs the cells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Oracle {
    pub(crate) test: &'static str,
    pub(crate) case: &'static str,
}

/// Of the marks; it prints the cells of the page.
pub(crate) const MARKS: Oracle = Oracle { test: "matrix", case: "every_operation_on_every_file_system" };
/// Of flushes: a restore against the source, and a bound on the bytes uploaded.
pub(crate) const FLUSHES: Oracle =
    Oracle { test: "matrix_flush", case: "every_operation_is_restored_on_every_file_system" };
/// Leaves out each hooked function in turn.
const FUNCTIONS: Oracle = Oracle { test: "matrix_functions", case: "every_function" };
/// What guests are asked for; the kernel of this machine takes its best.
pub(crate) const BACK_ENDS: [&str; 2] = ["fentry", "kprobe"];
/// The part of the cells that the test programs run.
pub(crate) const PART: &str = "TRACKER_MATRIX_PART";
/// What another distribution of the cells over the parts is drawn from.
pub(crate) const SEED: &str = "TRACKER_MATRIX_SEED";
/// Of one guest: ten minutes on two cores, much of it for the verifier.
const LIMIT: Duration = Duration::from_secs(3600);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The K-th of N parts of the cells, as K/N; without it every cell runs, and docs/kernels-cells.md is written
    #[arg(long, value_name = "K/N")]
    part: Option<String>,
    /// Leave out each hooked function in turn, in four guests: some cell must be missed
    #[arg(long, conflicts_with = "part")]
    functions: bool,
}

pub(crate) fn main(options: &Options) -> Result<()> {
    let part = options.part.as_deref();
    vm::prepare()?;
    if !sh::is_root() {
        return Err(sh::missing("not root", "the cells of this machine need mounts"));
    }
    vm::build()?;
    let oracles = if options.functions { vec![FUNCTIONS] } else { vec![MARKS, FLUSHES] };
    let mut programs = Vec::new();
    for oracle in oracles {
        programs.push((vm::test_program(oracle.test)?.display().to_string(), oracle));
    }
    let (mut logs, mut failed) = (Vec::new(), 0);
    for series in Series::ALL {
        for back_end in BACK_ENDS {
            let log = vm::folder().join(format!("{}-{}-{back_end}.log", programs[0].1.test, series.name()));
            failed += usize::from(!guest(series, back_end, &script(&programs, back_end, part), &log)?);
            logs.push(log.display().to_string());
        }
    }
    // The marks come last, and write the page with the cells of the guests.
    for (program, oracle) in programs.iter().rev().filter(|_| !options.functions) {
        failed += usize::from(!here(program, *oracle, part, &logs.join(":"))?);
    }
    ensure!(failed == 0, "{failed} of the runs failed; their output is in target/vm/matrix*");
    Ok(())
}

/// Runs the cells on this machine; true if none was wrong. Without a part the marks write the page, with the `cells` of
/// the guests.
fn here(program: &str, oracle: Oracle, part: Option<&str>, cells: &str) -> Result<bool> {
    let mut command = Command::new(program);
    command.current_dir(sh::root().join("tests")).args(["--nocapture", oracle.case]).envs(programs::variables());
    match part {
        Some(part) => command.env(PART, part),
        None => command.env("TRACKER_BLESS", "1").env("TRACKER_MATRIX_RESULTS", cells),
    };
    let log = vm::folder().join(format!("{}-native.txt", oracle.test));
    let (status, _) =
        stream::limited(&mut command, &log, Limits::guest(LIMIT, None), |line| told("this machine", line))?;
    Ok(status.success())
}

/// Runs the script in a guest; true if none was wrong.
fn guest(series: Series, back_end: &str, script: &str, log: &Path) -> Result<bool> {
    let (name, began) = (format!("{}, {back_end}", series.name()), Instant::now());
    let request = Request { script, limit: LIMIT, disks: &[], cut: None };
    let code = vm::run(&vm::ensure(series)?, request, log, |line| told(&name, line))?;
    println!("{name}: exit code {code:?} after {:.0} s", began.elapsed().as_secs_f64());
    Ok(code == Some(0))
}

/// Each oracle, also if one before has found something.
fn script(programs: &[(String, Oracle)], back_end: &str, part: Option<&str>) -> String {
    let variable = match part {
        Some(part) => format!("{PART}={}", sh::quote(part)),
        // The page is made, so nothing is held against it. What a guest writes is gone with it; its cells are in its output.
        None => "TRACKER_BLESS=1".to_owned(),
    };
    let run = |(program, oracle): &(String, Oracle)| sh::line([program, "--nocapture", oracle.case]);
    format!("export TRACKER_TEST_BACK_END={back_end} {variable}\n{}", sh::each_of(programs.iter().map(run)))
}

/// Shows what is no cell, and cells that are wrong. What a kernel refuses stands on the page.
fn told(of: &str, line: &str) {
    if !(line.starts_with("CELL ") || line.starts_with("SKIP cell ")) || line.contains(" WRONG") {
        println!("{of}: {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_oracles_run_in_a_guest_with_the_same_back_end_and_part() {
        let programs = [("/a b/matrix".into(), MARKS), ("/a b/matrix_flush".into(), FLUSHES)];
        let text = script(&programs, "kprobe", Some("2/4"));
        for line in [
            "export TRACKER_TEST_BACK_END=kprobe TRACKER_MATRIX_PART=2/4",
            "'/a b/matrix' --nocapture every_operation_on_every_file_system || code=1",
            "'/a b/matrix_flush' --nocapture every_operation_is_restored_on_every_file_system || code=1",
            "exit $code",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
        let whole = script(&programs, "fentry", None);
        assert!(!whole.contains("PART") && whole.contains("TRACKER_BLESS"), "{whole}");
    }
}

//! `matrix`: every operation on every file system, on the kernel of this machine and in guests with the others, by each back
//! end, and by both oracles: the marks, and then flushes and restores of the program. What the marks have shown is written
//! into `docs/kernels-cells.md`. The operations and the page are the test programs'.

use fs_err::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::sh;
use crate::stream;
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
    crate::ebpf::build()?;
    if options.functions {
        return mutants();
    }
    // The second oracle runs the program itself.
    sh::run(sh::cargo().args(["build", "-q", "-p", "tracker", "--features", "test-switches"]))?;
    let programs = Programs { marks: vm::test_program(MARKS.test)?, flushes: vm::test_program(FLUSHES.test)? };
    let (mut results, mut failed) = (Vec::new(), 0);
    for series in Series::ALL {
        for back_end in BACK_ENDS {
            let result = vm::folder().join(format!("matrix-{}-{back_end}.txt", series.name()));
            failed += usize::from(!guest(series, back_end, &programs, part, &result)?);
            results.push(result);
        }
    }
    for (program, oracle) in [(&programs.flushes, FLUSHES), (&programs.marks, MARKS)] {
        failed += usize::from(!here(program, oracle, part, &results)?);
    }
    verdict(failed)
}

struct Programs {
    marks: PathBuf,
    flushes: PathBuf,
}

/// Runs the cells on this machine; true if none was wrong. Without a part the marks write the page, with the `results` of
/// the guests.
fn here(program: &Path, oracle: Oracle, part: Option<&str>, results: &[PathBuf]) -> Result<bool> {
    let mut command = Command::new(program);
    command.current_dir(sh::root().join("tests")).args(["--nocapture", oracle.case]).envs(vm::test_variables());
    match part {
        Some(part) => command.env(PART, part),
        None => command.env("TRACKER_BLESS", "1").env("TRACKER_MATRIX_RESULTS", joined(results)),
    };
    let log = vm::folder().join(format!("{}-native.txt", oracle.test));
    let end = stream::limited(&mut command, &log, LIMIT, |line| {
        told("this machine", line);
        None
    })?;
    Ok(end.status.success())
}

fn verdict(failed: usize) -> Result<()> {
    if failed == 0 {
        return Ok(());
    }
    bail!("{failed} of the runs failed; their output is in target/vm/matrix-*")
}

/// Leaves out each function in turn, in each guest.
fn mutants() -> Result<()> {
    let program = vm::test_program("matrix_functions")?;
    let mut failed = 0;
    for series in Series::ALL {
        for back_end in BACK_ENDS {
            let words = ["env".to_owned(), format!("TRACKER_TEST_BACK_END={back_end}"), program.display().to_string()];
            let words: Vec<String> = words.into_iter().chain(["--nocapture".into(), "every_function".into()]).collect();
            let request = Request { words: &words, variables: &vm::test_variables(), limit: LIMIT, disks: &[] };
            let log = vm::folder().join(format!("matrix-functions-{}-{back_end}.log", series.name()));
            let code = vm::run(&vm::ensure(series)?, &request, &log, |line| println!("{line}"))?;
            failed += usize::from(code != 0);
        }
    }
    verdict(failed)
}

/// Runs the cells in a guest by both oracles; true if none was wrong. The lines of cells are in `result`.
fn guest(series: Series, back_end: &str, programs: &Programs, part: Option<&str>, result: &Path) -> Result<bool> {
    let kernel = vm::ensure(series)?;
    let words = ["sh".into(), "-c".into(), script(programs, back_end, part)];
    let request = Request { words: &words, variables: &vm::test_variables(), limit: LIMIT, disks: &[] };
    let mut file = File::create(result)?;
    let (name, mut written, began) = (format!("{}, {back_end}", series.name()), Ok(()), Instant::now());
    let code = vm::run(&kernel, &request, &result.with_extension("log"), |line| {
        if line.starts_with("CELL ") && written.is_ok() {
            written = writeln!(file, "{line}");
        }
        told(&name, line);
    })?;
    written?;
    println!("{name}: exit code {code} after {:.0} s", began.elapsed().as_secs_f64());
    Ok(code == 0)
}

/// Both oracles, the second also if the first has found something.
fn script(programs: &Programs, back_end: &str, part: Option<&str>) -> String {
    let mut script = format!("code=0\nexport TRACKER_TEST_BACK_END={back_end}\n");
    match part {
        Some(part) => script.push_str(&format!("export {PART}={}\n", sh::quote(part))),
        // The page is made, so nothing is held against it. What a guest writes is gone with it; its cells are in its output.
        None => script.push_str("export TRACKER_BLESS=1\n"),
    }
    for (program, oracle) in [(&programs.marks, MARKS), (&programs.flushes, FLUSHES)] {
        let program = sh::quote(&program.display().to_string());
        script.push_str(&format!("{program} --nocapture {} || code=1\n", oracle.case));
    }
    script.push_str("exit $code\n");
    script
}

/// Shows what is no cell, and cells that are wrong. What a kernel refuses stands on the page.
fn told(of: &str, line: &str) {
    if !(line.starts_with("CELL ") || line.starts_with("SKIP cell ")) || line.contains(" WRONG") {
        println!("{of}: {line}");
    }
}

fn joined(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(":")
}

#[cfg(test)]
mod tests {
    use super::{Programs, script};

    #[test]
    fn both_oracles_run_in_a_guest_with_the_same_back_end_and_part() {
        let programs = Programs { marks: "/a b/matrix".into(), flushes: "/a b/matrix_flush".into() };
        let text = script(&programs, "kprobe", Some("2/4"));
        for line in [
            "export TRACKER_TEST_BACK_END=kprobe",
            "export TRACKER_MATRIX_PART=2/4",
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

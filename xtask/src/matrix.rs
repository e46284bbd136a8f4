//! `matrix`: every operation on every file system, on the kernel of this machine and in guests with the others, by each back
//! end; what was found is written into `docs/kernels.md`. The operations and the page are the test program's.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::gate::stream;
use crate::setup;
use crate::sh::{self, Error};
use crate::vm::{self, Request, Series};

const USAGE: &str = "usage: cargo xtask matrix [--part K/N | --functions]
  without --part every cell runs, natively and in four guests, and docs/kernels.md is written
  --functions: each hooked function is left out in turn, in four guests, and some cell must be missed";

/// The test program, and the case of it that prints the cells.
pub(crate) const TESTS: &str = "matrix";
pub(crate) const CASE: &str = "every_operation_on_every_file_system";
/// What guests are asked for; the kernel of this machine takes its best.
pub(crate) const BACK_ENDS: [&str; 2] = ["fentry", "kprobe"];
/// Of one guest: five minutes on two cores, most of it for the verifier.
const LIMIT: Duration = Duration::from_secs(3600);

pub(crate) fn main(args: &[String]) -> Result<(), Error> {
    let (part, functions) = match args {
        [] => (None, false),
        [option] if option == "--functions" => (None, true),
        [option, part] if option == "--part" => (Some(part.as_str()), false),
        _ => return Err(Error::Usage { text: USAGE.into() }),
    };
    setup::test_programs()?;
    if let Some(what) = vm::obstacle() {
        return Err(Error::Missing { what, help: "see docs/testing.md".into() });
    }
    if !sh::is_root() {
        return Err(Error::Missing { what: "not root".into(), help: "the cells of this machine need mounts".into() });
    }
    crate::ebpf::build()?;
    if functions {
        return mutants();
    }
    let program = vm::test_program(TESTS)?;
    let (mut results, mut failed) = (Vec::new(), 0);
    for series in Series::ALL {
        for back_end in BACK_ENDS {
            let result = vm::folder().join(format!("matrix-{}-{back_end}.txt", series.name()));
            failed += usize::from(!guest(series, back_end, &program, part, &result)?);
            results.push(result);
        }
    }
    let mut command = Command::new(&program);
    command.current_dir(sh::root().join("tests")).args(["--nocapture", CASE]);
    match part {
        Some(part) => command.env("TRACKER_MATRIX_PART", part),
        None => command.env("TRACKER_BLESS", "1").env("TRACKER_MATRIX_RESULTS", joined(&results)),
    };
    let log = vm::folder().join("matrix-native.txt");
    let end = stream::limited(&mut command, &log, LIMIT, |line| {
        told("this machine", line);
        None
    })?;
    failed += usize::from(!end.status.success());
    verdict(failed)
}

fn verdict(failed: usize) -> Result<(), Error> {
    if failed == 0 {
        return Ok(());
    }
    Err(Error::Found { count: failed, what: "of the runs failed; their output is in target/vm/matrix-*".into() })
}

/// Leaves out each function in turn, in each guest.
fn mutants() -> Result<(), Error> {
    let program = vm::test_program("matrix_functions")?;
    let mut failed = 0;
    for series in Series::ALL {
        for back_end in BACK_ENDS {
            let words = ["env".to_owned(), format!("TRACKER_TEST_BACK_END={back_end}"), program.display().to_string()];
            let words: Vec<String> = words.into_iter().chain(["--nocapture".into(), "every_function".into()]).collect();
            let request = Request { words: &words, variables: &vm::test_variables(), limit: 4 * LIMIT, disks: &[] };
            let log = vm::folder().join(format!("matrix-functions-{}-{back_end}.log", series.name()));
            let code = vm::run(&vm::ensure(series)?, &request, &log, |line| println!("{line}"))?;
            failed += usize::from(code != 0);
        }
    }
    verdict(failed)
}

/// Runs the cells in a guest; true if none was wrong. The lines of cells are in `result`.
fn guest(series: Series, back_end: &str, program: &Path, part: Option<&str>, result: &Path) -> Result<bool, Error> {
    let kernel = vm::ensure(series)?;
    let mut words = vec!["env".to_owned(), format!("TRACKER_TEST_BACK_END={back_end}")];
    words.extend(part.map(|part| format!("TRACKER_MATRIX_PART={part}")));
    words.extend([program.display().to_string(), "--nocapture".into(), CASE.into()]);
    let request = Request { words: &words, variables: &vm::test_variables(), limit: LIMIT, disks: &[] };
    let mut file = File::create(result).map_err(Error::io(format!("cannot create {}", result.display())))?;
    let (name, mut written) = (format!("{}, {back_end}", series.name()), Ok(()));
    let code = vm::run(&kernel, &request, &result.with_extension("log"), |line| {
        if line.starts_with("CELL ") && written.is_ok() {
            written = writeln!(file, "{line}");
        }
        told(&name, line);
    })?;
    written.map_err(Error::io(format!("cannot write {}", result.display())))?;
    println!("{name}: exit code {code}");
    Ok(code == 0)
}

/// Shows what is no cell, and cells that are wrong.
fn told(of: &str, line: &str) {
    if !line.starts_with("CELL ") || line.contains(" WRONG") {
        println!("{of}: {line}");
    }
}

fn joined(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(":")
}

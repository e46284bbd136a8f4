//! `vm`: runs a command under another kernel. A guest of QEMU boots one of Debian's kernels and sees the host's root read-only
//! below a tmpfs, so that everything built or installed here is there at the same path. Nothing outside of `target` is
//! written, and nothing stays but the unpacked kernels.

mod counter;
mod disk;
mod guest;
mod kernel;
mod machine;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::programs;
use crate::setup;
use crate::sh;

pub(crate) use disk::Disk;
pub(crate) use kernel::{Kernel, Series, ensure, folder};
pub(crate) use machine::{Request, folder as temporary, obstacle, run};

/// Test programs that depend on the kernel, and run without a network and within the guest's memory.
const TESTS: [&str; 5] = ["kernels", "capture", "capture_limits", "matrix", "matrix_flush"];

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(value_name = "KERNEL")]
    series: Series,
    /// Seconds after which the guest is ended: translated code is slow, and the matrix has hundreds of operations
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Test programs of the crate `tests`, if there is no command
    #[arg(long = "test", value_name = "NAME", default_values = TESTS, conflicts_with = "command")]
    tests: Vec<String>,
    #[arg(last = true)]
    command: Vec<String>,
}

pub(crate) fn main(options: &Options) -> Result<()> {
    prepare()?;
    let kernel = ensure(options.series)?;
    let script = if options.command.is_empty() { script_of(&options.tests)? } else { sh::line(&options.command) };
    let log = kernel::folder().join(format!("{}.log", options.series.name()));
    let request = Request { script: &script, limit: Duration::from_secs(options.timeout), disks: &[], cut: None };
    let started = Instant::now();
    // Nothing cuts its power.
    let code = run(&kernel, request, &log, |line| println!("{line}"))?.unwrap_or(u8::MAX);
    eprintln!("vm: {}: exit code {code} after {:.1} s", kernel.release, started.elapsed().as_secs_f64());
    if code == 0 {
        return Ok(());
    }
    // The command's own answer; everything of ours is removed by now.
    std::process::exit(code.into())
}

/// Installs what guests need, where it is missing; an error says what no setup can bring.
pub(crate) fn prepare() -> Result<()> {
    if obstacle().is_some() {
        setup::test_programs()?;
    }
    obstacle().map_or(Ok(()), |what| Err(sh::missing(what, "see docs/testing.md")))
}

/// Builds these tests and the program under test; lines of a shell that run them all.
fn script_of(tests: &[String]) -> Result<String> {
    build()?;
    let programs: Vec<PathBuf> = tests.iter().map(|name| test_program(name)).collect::<Result<_>>()?;
    let run = |program: PathBuf| sh::line([&*program.to_string_lossy(), "--test-threads=1", "--show-output"]);
    Ok(sh::each_of(programs.into_iter().map(run)))
}

/// Builds the program under test.
pub(crate) fn build() -> Result<()> {
    crate::ebpf::build()?;
    sh::run(sh::cargo().args(["build", "-q", "-p", "tracker", "--features", "test-switches"]))
}

/// Builds one test program of the crate `tests` and tells where it is.
pub(crate) fn test_program(name: &str) -> Result<PathBuf> {
    let mut command = sh::cargo();
    command.args(["test", "-q", "-p", "tests", "--no-run", "--message-format=json", "--test", name]);
    let messages = sh::output(&mut command)?;
    let program = programs::of_messages(messages.lines()).into_iter().find(|program| program.name == name);
    let missing = || sh::missing(format!("cargo named no program of the test {name}"), sh::show(&command));
    program.map(|program| program.path).ok_or_else(missing)
}

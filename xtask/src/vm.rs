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
pub(crate) use machine::{End, Folder, Request, boot, obstacle, run};

/// Test programs that depend on the kernel, and run without a network and within the guest's memory.
const TESTS: [&str; 5] = ["kernels", "capture", "capture_limits", "matrix", "matrix_flush"];

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(value_name = "KERNEL")]
    series: Series,
    /// Seconds after which the guest is ended: translated code is slow, and the matrix has hundreds of operations
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Test programs of the crate `tests`; without any, and without a command, those that depend on the kernel
    #[arg(long = "test", value_name = "NAME", conflicts_with = "command")]
    tests: Vec<String>,
    #[arg(last = true)]
    command: Vec<String>,
}

pub(crate) fn main(options: &Options) -> Result<()> {
    prepare()?;
    let kernel = ensure(options.series)?;
    let command = match (options.tests.as_slice(), options.command.as_slice()) {
        ([], []) => command_of(&TESTS)?,
        (tests, []) => command_of(tests)?,
        (_, command) => command.to_vec(),
    };
    let log = kernel::folder().join(format!("{}.log", options.series.name()));
    let limit = Duration::from_secs(options.timeout);
    let request = Request { words: &command, variables: &test_variables(), limit, disks: &[] };
    let started = Instant::now();
    let code = run(&kernel, &request, &log, |line| println!("{line}"))?;
    eprintln!("vm: {}: exit code {code} after {:.1} s", kernel.release(), started.elapsed().as_secs_f64());
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

/// Builds these tests and the program under test; a line of a shell that runs them all.
fn command_of(tests: &[impl AsRef<str>]) -> Result<Vec<String>> {
    crate::ebpf::build()?;
    sh::run(sh::cargo().args(["build", "-q", "-p", "tracker", "--features", "test-switches"]))?;
    let mut script = String::from("code=0; ");
    for name in tests {
        let program = sh::quote(&test_program(name.as_ref())?.display().to_string());
        script.push_str(&format!("{program} --test-threads=1 --show-output || code=1; "));
    }
    script.push_str("exit $code");
    Ok(vec!["sh".into(), "-c".into(), script])
}

/// What the tests have to know about what was built for them.
pub(crate) fn test_variables() -> Vec<(String, String)> {
    let binary = sh::target_dir().join("debug/tracker");
    vec![("TRACKER_TEST_BIN".into(), binary.display().to_string())]
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

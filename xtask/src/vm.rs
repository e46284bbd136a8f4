//! `vm`: runs a command under another kernel. A guest of QEMU boots one of Debian's kernels and sees the host's root read-only
//! below a tmpfs, so that everything built or installed here is there at the same path. Nothing outside of `target` is
//! written, and nothing stays but the unpacked kernels.

mod cpio;
mod disk;
mod guest;
mod image;
mod kernel;
mod machine;
mod modules;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::setup;
use crate::sh::{self, Error};

pub(crate) use disk::Disk;
pub(crate) use kernel::{Kernel, Series, ensure, folder};
pub(crate) use machine::{End, Folder, Request, boot, obstacle, run};

const USAGE: &str = "usage: cargo xtask vm KERNEL [--timeout SECONDS] [--test NAME].. [-- COMMAND..]
  KERNEL: 6.1 or 6.12, as Debian 12 has them; without a command the test programs named run, or the root tests that depend
  on the kernel";

/// Test programs that depend on the kernel, and run without a network and within the guest's memory.
const TESTS: [&str; 5] = ["kernels", "capture", "capture_limits", "matrix", "matrix_flush"];

/// Translated code is slow, and the capture matrix has hundreds of operations.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug, PartialEq, Eq)]
struct Options {
    series: Series,
    limit: Duration,
    /// Test programs of the crate `tests`, if there is no command.
    tests: Vec<String>,
    command: Vec<String>,
}

fn parse(args: &[String]) -> Result<Options, Error> {
    let usage = |why: String| Error::Usage { text: format!("{why}\n{USAGE}") };
    let (series, rest) = args.split_first().ok_or_else(|| usage("no kernel named".into()))?;
    let series = Series::parse(series).ok_or_else(|| usage(format!("no kernel `{series}`")))?;
    let mut options = Options { series, limit: LIMIT, tests: Vec::new(), command: Vec::new() };
    let mut rest = rest.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--timeout" => {
                let seconds = rest.next().and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
                options.limit = Duration::from_secs(seconds.ok_or_else(|| usage("--timeout takes seconds".into()))?);
            }
            "--test" => {
                let name = rest.next().ok_or_else(|| usage("--test takes the name of a test program".into()))?;
                options.tests.push(name.clone());
            }
            "--" => {
                options.command = rest.cloned().collect();
                break;
            }
            other => return Err(usage(format!("unexpected `{other}`"))),
        }
    }
    match (options.tests.is_empty(), options.command.is_empty()) {
        (false, false) => return Err(usage("--test and a command exclude each other".into())),
        (true, true) => options.tests = TESTS.map(str::to_owned).to_vec(),
        _ => {}
    }
    Ok(options)
}

pub(crate) fn main(args: &[String]) -> Result<(), Error> {
    let options = parse(args)?;
    if obstacle().is_some() {
        setup::test_programs()?;
    }
    if let Some(what) = obstacle() {
        return Err(Error::Missing { what, help: "see docs/testing.md".into() });
    }
    let kernel = ensure(options.series)?;
    let command = if options.command.is_empty() { command_of(&options.tests)? } else { options.command };
    let variables = test_variables();
    let log = kernel::folder().join(format!("{}.log", options.series.name()));
    let request = Request { words: &command, variables: &variables, limit: options.limit, disks: &[] };
    let started = Instant::now();
    let code = run(&kernel, &request, &log, |line| println!("{line}"))?;
    eprintln!("vm: {}: exit code {code} after {:.1} s", kernel.release, started.elapsed().as_secs_f64());
    if code == 0 {
        return Ok(());
    }
    // The command's own answer; everything of ours is removed by now.
    std::process::exit(code.into())
}

/// Builds these tests and the program under test; a line of a shell that runs them all.
fn command_of(tests: &[String]) -> Result<Vec<String>, Error> {
    crate::ebpf::build()?;
    sh::run(sh::cargo().args(["build", "-q", "-p", "tracker"]))?;
    let mut script = String::from("code=0; ");
    for name in tests {
        let program = sh::quote(&test_program(name)?.display().to_string());
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
pub(crate) fn test_program(name: &str) -> Result<PathBuf, Error> {
    let mut command = sh::cargo();
    command.args(["test", "-q", "-p", "tests", "--no-run", "--message-format=json", "--test", name]);
    let messages = sh::output(&mut command)?;
    executable(&messages, name).ok_or_else(|| Error::Missing {
        what: format!("cargo named no program of the test {name}"),
        help: format!("asked by: {}", sh::show(&command)),
    })
}

/// The executable of the test `name` in cargo's messages.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == name).then_some(())?;
        Some(Path::new(message["executable"].as_str()?).to_path_buf())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn kernel_limit_and_command_are_told_apart() {
        let options = parse(&words("6.12 --timeout 7 -- uname --timeout")).expect("valid");
        assert_eq!(options.series, Series::V6_12);
        assert_eq!(options.limit, Duration::from_secs(7));
        assert_eq!(options.command, ["uname", "--timeout"]);
        assert_eq!(parse(&words("6.1 --test races --test loss")).expect("valid").tests, ["races", "loss"]);
        let options = parse(&words("6.1")).expect("valid");
        assert!(options.command.is_empty() && options.tests == TESTS);
    }

    #[test]
    fn a_wrong_command_line_is_refused() {
        for text in [
            "",
            "6.2",
            "6.1 uname",
            "6.1 --timeout",
            "6.1 --timeout 0",
            "6.1 --timeout soon",
            "6.1 --test",
            "6.1 --test a -- b",
        ] {
            assert!(matches!(parse(&words(text)), Err(Error::Usage { .. })), "{text}");
        }
    }

    #[test]
    fn the_test_program_is_found_among_the_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"tests"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"kernels"},"executable":"/t/deps/kernels-1"}"#,
            "\nnot json\n",
        );
        assert_eq!(executable(messages, "kernels"), Some("/t/deps/kernels-1".into()));
        assert_eq!(executable(messages, "capture"), None);
    }
}

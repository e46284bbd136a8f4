//! `release`: the program as it is shipped. Its debug information is apart, beside it: a backtrace has lines where both are.

use std::process::Command;

use anyhow::Result;

use crate::{ebpf, sh};

/// Builds `target/release/tracker`, and `tracker.debug` beside it.
pub(crate) fn build() -> Result<()> {
    ebpf::build()?;
    sh::run(sh::cargo().args(["build", "--release", "-p", "tracker"]))?;
    let program = sh::target_dir().join("release/tracker");
    let (debug, stripped) = (program.with_extension("debug"), program.with_extension("stripped"));
    sh::output(Command::new("objcopy").arg("--only-keep-debug").arg(&program).arg(&debug))?;
    let mut strip = Command::new("objcopy");
    // The link has the name alone, so that the two can be moved together.
    strip.current_dir(program.with_file_name("")).args(["--strip-all", "--add-gnu-debuglink=tracker.debug"]);
    sh::output(strip.arg(&program).arg(&stripped))?;
    // cargo keeps what it built under another name, and puts that here again before the next call.
    Ok(fs_err::rename(&stripped, &program)?)
}

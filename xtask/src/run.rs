//! `run -- ARGS`: from a fresh clone to a running tracker with one command.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::sh::{self, Error};
use crate::{ebpf, setup};

pub(crate) fn main(args: &[String]) -> Result<(), Error> {
    let args = match args.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => args,
    };
    setup::build_tools()?;
    ebpf::build()?;
    sh::run(sh::cargo().args(["build", "--release", "-p", "tracker"]))?;
    let mut command = Command::new(sh::target_dir().join("release/tracker"));
    command.args(args);
    // exec, so that signals and the exit code are tracker's own; it runs in the user's directory.
    let source = command.exec();
    Err(Error::Spawn { command: sh::show(&command), source })
}

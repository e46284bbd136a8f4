//! `fresh`: proves the README on a machine that has nothing. A minimal Debian tree gets a copy of the Rust toolchain and
//! a clone of this repository; inside it the README's commands run, then the tests. Only committed work is tested.
//!
//! Everything happens in a mount namespace of its own, so that every mount vanishes with the process, however it ends.
//! The tree stays in target/fresh for looking into; the next run replaces it.

mod readme;
mod tree;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::sh::{self, Error};

/// Marks the second start, inside of the namespace.
const INSIDE: &str = "--inside-namespace";

pub(crate) fn main(args: &[String]) -> Result<(), Error> {
    if let Some(bad) = args.iter().find(|arg| *arg != "--full" && *arg != INSIDE) {
        return Err(Error::Usage { text: format!("unexpected `{bad}`\nusage: cargo xtask fresh [--full]") });
    }
    if args.iter().any(|arg| arg == INSIDE) {
        return inside(args.iter().any(|arg| arg == "--full"));
    }
    if !sh::is_root() {
        return Err(Error::Missing {
            what: "fresh needs root: it mounts and changes the root directory".into(),
            help: "run: sudo -E env PATH=$PATH cargo xtask fresh".into(),
        });
    }
    for program in ["debootstrap", "unshare", "chroot", "git", "tar"] {
        if sh::which(program).is_none() {
            return Err(Error::Missing { what: format!("no {program}"), help: "run: cargo xtask setup".into() });
        }
    }
    let exe = std::env::current_exe().map_err(Error::io("cannot find my own binary"))?;
    let mut command = Command::new("unshare");
    // Private: a mount made inside is not seen outside, and an unmount inside takes nothing away outside.
    command.args(["--mount", "--propagation", "private", "--"]).arg(exe).arg("fresh").arg(INSIDE).args(args);
    sh::run(&mut command)
}

fn inside(full: bool) -> Result<(), Error> {
    let tree = tree::Tree { root: folder().join("tree") };
    step("base system", || tree.unpack_base())?;
    step("configuration of the host", || tree.copy_configuration())?;
    step("Rust toolchain", || tree.copy_toolchain())?;
    step("clone", || tree.clone_repository())?;
    step("mounts", || tree.mount())?;
    step("README commands", || readme::check(&tree))?;
    if full {
        return step("whole gate", || sh::run(&mut tree.shell(".ci/run")));
    }
    step("cargo xtask setup", || sh::run(&mut tree.shell("cargo xtask setup")))?;
    step("unit tests", || sh::run(&mut tree.shell("cargo xtask test --tier 1")))
}

fn folder() -> PathBuf {
    sh::root().join("target/fresh")
}

fn step(name: &str, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    println!("== fresh: {name}");
    let started = Instant::now();
    work()?;
    println!("   done in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

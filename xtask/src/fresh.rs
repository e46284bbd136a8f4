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

use anyhow::Result;

use crate::sh;

/// `inside`: this is the second start, inside of the namespace.
pub(crate) fn main(full: bool, inside: bool) -> Result<()> {
    if inside {
        return in_namespace(full);
    }
    if !sh::is_root() {
        return Err(sh::missing(
            "fresh needs root: it mounts and changes the root directory",
            "run: sudo -E env PATH=$PATH cargo xtask fresh",
        ));
    }
    for program in ["debootstrap", "unshare", "chroot", "git", "tar"] {
        if sh::which(program).is_none() {
            return Err(sh::missing(format!("no {program}"), "run: cargo xtask setup"));
        }
    }
    let exe = std::env::current_exe()?;
    let mut command = Command::new("unshare");
    // Private: a mount made inside is not seen outside, and an unmount inside takes nothing away outside.
    command.args(["--mount", "--propagation", "private", "--"]).arg(exe).args(["fresh", "--inside"]);
    command.args(["--full"].into_iter().filter(|_| full));
    sh::run(&mut command)
}

fn in_namespace(full: bool) -> Result<()> {
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

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== fresh: {name}");
    let started = Instant::now();
    work()?;
    println!("   done in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

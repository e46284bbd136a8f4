//! `setup`: installs what is missing, and only that. Asks nothing, says what it does. The second run finds everything
//! present and ends within a second or two, without touching the package index. How each part is installed says `setup.sh`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::ebpf;
use crate::sh;

/// The cargo-deny that `deny.toml` is written for.
const DENY_VERSION: &str = "0.20.2";

pub(crate) fn all() -> Result<()> {
    build_tools()?;
    test_programs()?;
    part(&["docker"])?;
    if deny().is_none() {
        part(&["deny", DENY_VERSION])?;
    }
    part(&["python"]).map(drop)
}

/// Has the script do one part. What it does is seen at once; what it answers, or why it fails, is returned.
pub(crate) fn part(words: &[&str]) -> Result<String> {
    sh::output(Command::new("bash").arg(sh::root().join("xtask/setup.sh")).args(words).stderr(Stdio::inherit()))
}

/// Installs what building needs: a compiler for the kernel object and bpf-linker.
pub(crate) fn build_tools() -> Result<()> {
    if ebpf::find().is_none() {
        part(&["compiler"])?;
    }
    if ebpf::linker().is_none() {
        let debian = ebpf::debian().map(|_| ebpf::DEBIAN_RUSTC);
        part(&["linker", ebpf::LINKER_VERSION, debian.unwrap_or_default()])?;
    }
    Ok(())
}

/// Installs the programs of the gate.
pub(crate) fn test_programs() -> Result<()> {
    let clippy = ebpf::debian().map(|_| "rust-web-clippy");
    part(&["programs"].into_iter().chain(clippy).collect::<Vec<_>>()).map(drop)
}

/// Where what is not installed for the whole machine lies: Python's tools in `venv`, the programs of a Docker daemon in `usr/bin`
/// and `usr/sbin` of `docker`.
pub(crate) fn folder(name: &str) -> PathBuf {
    sh::root().join("target/tools").join(name)
}

/// cargo-deny of the right version.
pub(crate) fn deny() -> Option<PathBuf> {
    sh::tool("cargo-deny", DENY_VERSION)
}

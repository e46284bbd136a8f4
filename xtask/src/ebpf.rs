//! `build-ebpf`: compiles the kernel object. It needs a compiler with the sources of `core` beside it and unstable
//! options allowed: Debian's packages, or a rustup nightly with the component rust-src. Whichever is complete is taken.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::sh;

/// The target of the kernel object: BPF, little endian.
const TARGET: &str = "bpfel-unknown-none";
/// The bpf-linker this repository is built and tested with.
pub(crate) const LINKER_VERSION: &str = "0.13.0";
/// Where Debian's compiler is; rustup's proxies never lie here.
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can build `core` for the BPF target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// The folder with rustc, cargo and clippy.
    pub(crate) bin: PathBuf,
    /// Stable compilers take unstable options only with RUSTC_BOOTSTRAP.
    pub(crate) bootstrap: bool,
}

/// Compiles the object to `target/ebpf/bpfel-unknown-none/release/tracker-ebpf`. Cargo decides what is out of date.
pub(crate) fn build() -> Result<()> {
    sh::run(&mut build_command()?)
}

/// The command of [`build`], for callers that handle its output themselves.
pub(crate) fn build_command() -> Result<Command> {
    let mut command = cargo("cargo", "build")?;
    if linker().is_none() {
        return Err(sh::missing(
            format!("bpf-linker {LINKER_VERSION} is not installed"),
            "run: cargo xtask setup --build",
        ));
    }
    command.env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf");
    Ok(command)
}

/// clippy over the kernel object, with the same compiler that builds it.
pub(crate) fn clippy_command() -> Result<Command> {
    let mut command = cargo("cargo-clippy", "clippy")?;
    command.args(["--", "-D", "warnings"]);
    Ok(command)
}

/// Debian's compiler if it is complete, else any rustup nightly with the sources of `core`.
pub(crate) fn find() -> Option<Toolchain> {
    debian().or_else(|| {
        let output = sh::output(Command::new("rustup").args(["toolchain", "list"])).ok()?;
        let names = output.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| name.starts_with("nightly")).find_map(nightly)
    })
}

/// Debian's compiler, with cargo and the sources of `core`.
pub(crate) fn debian() -> Option<Toolchain> {
    let bin = PathBuf::from("/usr/bin");
    let complete = bin.join("cargo").is_file() && has_core_sources(Path::new(DEBIAN_RUSTC));
    complete.then_some(Toolchain { bin, bootstrap: true })
}

/// The toolchain `name` of rustup.
pub(crate) fn nightly(name: &str) -> Option<Toolchain> {
    let rustc = sh::output(Command::new("rustup").args(["which", "--toolchain", name, "rustc"])).ok()?;
    let rustc = Path::new(rustc.trim());
    has_core_sources(rustc).then_some(Toolchain { bin: rustc.parent()?.to_owned(), bootstrap: false })
}

/// rustup lists a nightly whether or not its sources were installed, so the file itself is looked for.
fn has_core_sources(rustc: &Path) -> bool {
    let sysroot = sh::output(clean(Command::new(rustc).args(["--print", "sysroot"])));
    sysroot.is_ok_and(|path| Path::new(path.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file())
}

/// A verb of cargo over the kernel object. In one profile, so that build and clippy share what macros need.
fn cargo(program: &str, verb: &str) -> Result<Command> {
    let toolchain = find().ok_or_else(|| {
        sh::missing(
            "no compiler that can build the kernel object",
            "on Debian run: cargo xtask setup --build\n\
               elsewhere: rustup toolchain install nightly --component rust-src",
        )
    })?;
    let mut command = Command::new(toolchain.bin.join(program));
    clean(&mut command).current_dir(sh::root()).env("RUSTC", toolchain.bin.join("rustc"));
    command.args([verb, "--release", "-Z", "build-std=core", "--target", TARGET, "-p", "tracker-ebpf"]);
    command.env("CARGO_TARGET_DIR", sh::root().join("target/ebpf"));
    if toolchain.bootstrap {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    // The linker is found by name on PATH. The compiler's own folder stands before rustup's proxies.
    let linker = linker().and_then(|file| Some(file.parent()?.to_owned()));
    let old = std::env::var_os("PATH").unwrap_or_default();
    let mut first: Vec<PathBuf> = linker.into_iter().chain([toolchain.bin.clone()]).collect();
    if toolchain.bootstrap {
        first.reverse();
    }
    command.env("PATH", std::env::join_paths(first.into_iter().chain(std::env::split_paths(&old))).unwrap_or(old));
    Ok(command)
}

/// Under `cargo xtask` the environment describes the host's toolchain: another cargo would pick it up, build with the
/// wrong compiler, or load the wrong libraries.
fn clean(command: &mut Command) -> &mut Command {
    const NAMES: [&str; 18] = [
        "CARGO",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_MAKEFLAGS",
        "CARGO_TARGET_DIR",
        "CLIPPY_CONF_DIR",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
        "RUST_TARGET_PATH",
    ];
    for name in NAMES {
        command.env_remove(name);
    }
    command
}

/// bpf-linker of the right version.
pub(crate) fn linker() -> Option<PathBuf> {
    sh::tool("bpf-linker", LINKER_VERSION)
}

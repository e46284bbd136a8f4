//! Tier 0: checks that are no tests. Each counts as one.

use std::process::Command;

use anyhow::Result;

use super::packaging;
use super::step::{Gate, Outcome, absent};
use crate::{ebpf, setup, sh, tidy};

pub(super) type Check = (&'static str, fn(&Gate) -> Result<Outcome>);

/// Done before anything is built.
pub(super) const QUICK: [Check; 6] = [
    ("fmt", |gate| gate.passed(sh::cargo().args(["fmt", "--all", "--", "--check"]), "fmt")),
    ("tidy", |_| tidy::main().map(|()| Outcome::Passed)),
    ("dependencies", dependencies),
    ("packaging: systemd unit", packaging::unit),
    ("packaging: DaemonSet", packaging::daemonset),
    ("packaging: sample configuration", packaging::sample),
];

/// Done beside the tests.
pub(super) const SLOW: [Check; 5] = [
    ("clippy, host", |gate| {
        let workspace = ["clippy", "--workspace", "--exclude", "tracker-ebpf", "--all-targets", "--", "-D", "warnings"];
        gate.passed(sh::cargo().args(workspace), "clippy-host")
    }),
    ("clippy, kernel object", |gate| gate.passed(&mut ebpf::clippy_command()?, "clippy-ebpf")),
    ("documentation", |gate| {
        let workspace = ["doc", "--no-deps", "--workspace", "--exclude", "tracker-ebpf"];
        gate.passed(sh::cargo().args(workspace).env("RUSTDOCFLAGS", "-D warnings"), "rustdoc")
    }),
    ("documentation's examples", |gate| {
        gate.passed(sh::cargo().args(["test", "--doc", "--workspace", "--exclude", "tracker-ebpf"]), "doc-tests")
    }),
    ("Miri, common", miri),
];

/// The kernel object comes before everything that compiles `tracker`, which embeds it.
pub(super) fn build_ebpf(gate: &Gate) -> Result<Outcome> {
    gate.passed(&mut ebpf::build_command()?, "build-ebpf")
}

/// Licences, sources and crates that were left out for a reason: `deny.toml`.
fn dependencies(gate: &Gate) -> Result<Outcome> {
    let Some(program) = setup::deny() else { return absent("deny", "cargo-deny is not installed") };
    let mut command = Command::new(program);
    command.current_dir(sh::root()).args(["--locked", "check", "licenses", "bans", "sources"]);
    gate.passed(&mut command, "dependencies")
}

/// Miri over `common`, where the layout of bytes shared with the kernel is defined. The engine links C code (zstd), which
/// Miri cannot follow.
fn miri(gate: &Gate) -> Result<Outcome> {
    let nightly = || {
        let mut command = Command::new("cargo");
        command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN").current_dir(sh::root()).args(["+nightly", "miri"]);
        command
    };
    if !sh::succeeds(nightly().arg("--version")) || ebpf::nightly("nightly").is_none() {
        return absent("miri", "no rustup nightly with the components miri and rust-src");
    }
    gate.passed(nightly().args(["test", "-p", "common"]), "miri")
}

//! Tier 0: checks that are no tests. Each counts as one.

use std::process::Command;

use super::step::{Gate, Outcome, absent};
use super::stream::checked;
use super::{deny, packaging};
use crate::sh::{self, Error};
use crate::{ebpf, tidy};

type Check = fn(&Gate) -> Result<Outcome, Error>;

/// In this order: cheap ones first.
pub(super) const ALL: [(&str, Check); 10] = [
    ("fmt", fmt),
    ("tidy", |_| tidy::main(&[]).map(|()| Outcome::Passed)),
    ("dependencies", deny::check),
    ("packaging: systemd unit", packaging::unit),
    ("packaging: DaemonSet", packaging::daemonset),
    ("packaging: sample configuration", packaging::sample),
    ("clippy, host", clippy),
    ("clippy, kernel object", clippy_ebpf),
    ("documentation", rustdoc),
    ("Miri, common", miri),
];

/// The kernel object comes before everything that compiles `tracker`, which embeds it.
pub(super) fn build_ebpf(gate: &Gate) -> Result<Outcome, Error> {
    passed(&mut ebpf::build_command()?, gate, "build-ebpf")
}

fn fmt(gate: &Gate) -> Result<Outcome, Error> {
    passed(sh::cargo().args(["fmt", "--all", "--", "--check"]), gate, "fmt")
}

fn clippy(gate: &Gate) -> Result<Outcome, Error> {
    let mut command = sh::cargo();
    command.args(["clippy", "--workspace", "--exclude", "tracker-ebpf", "--all-targets", "--", "-D", "warnings"]);
    passed(&mut command, gate, "clippy-host")
}

fn clippy_ebpf(gate: &Gate) -> Result<Outcome, Error> {
    passed(&mut ebpf::clippy_command()?, gate, "clippy-ebpf")
}

fn rustdoc(gate: &Gate) -> Result<Outcome, Error> {
    let mut command = sh::cargo();
    command.args(["doc", "--no-deps", "--workspace", "--exclude", "tracker-ebpf"]).env("RUSTDOCFLAGS", "-D warnings");
    passed(&mut command, gate, "rustdoc")
}

/// Miri over `common`, where the layout of bytes shared with the kernel is defined. The engine links C code (zstd), which
/// Miri cannot follow.
fn miri(gate: &Gate) -> Result<Outcome, Error> {
    let mut probe = Command::new("cargo");
    probe.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN").args(["+nightly", "miri", "--version"]);
    if !sh::succeeds(&mut probe) || !ebpf::nightly_has_sources() {
        return absent("miri", "no rustup nightly with the components miri and rust-src");
    }
    let mut command = Command::new("cargo");
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN").current_dir(sh::root());
    passed(command.args(["+nightly", "miri", "test", "-p", "common"]), gate, "miri")
}

fn passed(command: &mut Command, gate: &Gate, log: &str) -> Result<Outcome, Error> {
    checked(command, &gate.log(log)).map(|()| Outcome::Passed)
}

//! Checks of `packaging/`: the systemd unit, the Kubernetes manifest, the sample configuration. Each runs the tool that
//! an administrator's machine would judge them with.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::step::{Gate, Outcome, absent};
use crate::setup;
use crate::sh;
use crate::stream::checked;

/// The Kubernetes release whose schemas the manifest must fit.
const KUBERNETES: &str = "1.31";
/// Worst exposure that `systemd-analyze security` may find, in tenths (0 best, 100 worst).
const EXPOSURE: &str = "40";

fn file(name: &str) -> PathBuf {
    sh::root().join("packaging").join(name)
}

/// `systemd-analyze verify`, and its rating of the sandbox.
pub(super) fn unit(gate: &Gate) -> Result<Outcome> {
    if sh::which("systemd-analyze").is_none() {
        return absent("systemd", "systemd-analyze is not installed");
    }
    let path = file("tracker.service");
    let text = fs_err::read_to_string(&path)?;
    // The unit names the installed binary, which need not exist where the gate runs; any binary will do for the check.
    let folder = gate.logs.join("units");
    fs_err::create_dir_all(&folder)?;
    let copy = folder.join("tracker.service");
    fs_err::write(&copy, text.replace("/usr/bin/tracker", "/usr/bin/true"))?;
    let verify = gate.log("systemd-verify");
    checked(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy), &verify)?;
    // `verify` warns about unknown settings without failing; our own unit has to be free of warnings.
    let said = fs_err::read_to_string(&verify)?;
    if let Some(line) = said.lines().find(|line| line.contains("tracker.service")) {
        return Err(sh::missing("systemd-analyze verify has a complaint", line));
    }
    let mut rating = Command::new("systemd-analyze");
    rating.args(["security", "--offline=yes", "--threshold", EXPOSURE]).arg(&copy);
    gate.passed(&mut rating, "systemd-security")
}

/// The schemas of Kubernetes, from a Python package, offline.
pub(super) fn daemonset(gate: &Gate) -> Result<Outcome> {
    let validate = setup::folder("venv/bin/kubernetes-validate");
    if !validate.is_file() {
        return absent("kubernetes", "kubernetes-validate is not installed");
    }
    let mut command = Command::new(validate);
    command.args(["--strict", "-k", KUBERNETES]).arg(file("daemonset.yaml"));
    gate.passed(&mut command, "kubernetes-validate")
}

/// The sample configuration is TOML.
pub(super) fn sample(_: &Gate) -> Result<Outcome> {
    let text = fs_err::read_to_string(file("tracker.toml"))?;
    text.parse::<toml::Table>()?;
    Ok(Outcome::Passed)
}

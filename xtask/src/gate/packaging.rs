//! Checks of `packaging/`: the systemd unit, the Kubernetes manifest, the sample configuration. Each runs the tool that
//! an administrator's machine would judge them with.

use std::path::PathBuf;
use std::process::Command;

use super::step::{Gate, Outcome, absent};
use super::stream::checked;
use crate::setup;
use crate::sh::{self, Error};

/// The Kubernetes release whose schemas the manifest must fit.
const KUBERNETES: &str = "1.31";
/// Worst exposure that `systemd-analyze security` may find, in tenths (0 best, 100 worst).
const EXPOSURE: &str = "40";

fn file(name: &str) -> PathBuf {
    sh::root().join("packaging").join(name)
}

/// `systemd-analyze verify`, and its rating of the sandbox.
pub(super) fn unit(gate: &Gate) -> Result<Outcome, Error> {
    if sh::which("systemd-analyze").is_none() {
        return absent("systemd", "systemd-analyze is not installed");
    }
    let path = file("tracker.service");
    let text = std::fs::read_to_string(&path).map_err(Error::io(format!("cannot read {}", path.display())))?;
    // The unit names the installed binary, which need not exist where the gate runs; any binary will do for the check.
    let folder = gate.logs.join("units");
    std::fs::create_dir_all(&folder).map_err(Error::io(format!("cannot create {}", folder.display())))?;
    let copy = folder.join("tracker.service");
    std::fs::write(&copy, text.replace("/usr/bin/tracker", "/usr/bin/true"))
        .map_err(Error::io(format!("cannot write {}", copy.display())))?;
    let verify = gate.log("systemd-verify");
    checked(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy), &verify)?;
    // `verify` warns about unknown settings without failing; our own unit has to be free of warnings.
    let said = std::fs::read_to_string(&verify).map_err(Error::io(format!("cannot read {}", verify.display())))?;
    if let Some(line) = said.lines().find(|line| line.contains("tracker.service")) {
        return Err(Error::Missing { what: "systemd-analyze verify has a complaint".into(), help: line.to_owned() });
    }
    let mut rating = Command::new("systemd-analyze");
    rating.args(["security", "--offline=yes", "--threshold", EXPOSURE]).arg(&copy);
    checked(&mut rating, &gate.log("systemd-security"))?;
    Ok(Outcome::Passed)
}

/// The schemas of Kubernetes, from a Python package, offline.
pub(super) fn daemonset(gate: &Gate) -> Result<Outcome, Error> {
    let validate = setup::venv().join("bin/kubernetes-validate");
    if !validate.is_file() {
        return absent("kubernetes", "kubernetes-validate is not installed");
    }
    let mut command = Command::new(validate);
    command.args(["--strict", "-k", KUBERNETES]).arg(file("daemonset.yaml"));
    checked(&mut command, &gate.log("kubernetes-validate"))?;
    Ok(Outcome::Passed)
}

/// The sample configuration is TOML.
pub(super) fn sample(gate: &Gate) -> Result<Outcome, Error> {
    let script = "import sys, tomllib; tomllib.load(open(sys.argv[1], 'rb'))";
    if !sh::succeeds(Command::new("python3").args(["-c", "import tomllib"])) {
        return absent("python", "no python3 with tomllib");
    }
    let mut command = Command::new("python3");
    checked(command.args(["-c", script]).arg(file("tracker.toml")), &gate.log("sample"))?;
    Ok(Outcome::Passed)
}

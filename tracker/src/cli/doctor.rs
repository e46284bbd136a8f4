//! `tracker doctor`: what this machine can do for tracker, why not more, and what would help.

use std::fs;
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::{Global, Out};
use crate::capture::choose;
use crate::error::{AppError, ExitCode};
use crate::status::Backend;

/// Show which capture this kernel and user allow, why, and what would help.
#[derive(Debug, Args)]
pub struct DoctorArgs {}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub name: &'static str,
    pub ok: bool,
    pub value: String,
    /// What the user can do when it is not ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// The back end that would be taken, and why no better one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    pub backend: Backend,
    pub reasons: Vec<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    choice: &'a Choice,
    findings: &'a [Finding],
}

pub(super) fn run(_args: &DoctorArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let facts = choose::Facts::gather();
    let findings = machine(&global.state_dir()?, &facts);
    let choice = choice(&choose::choose(&facts));
    let line = Line { r#type: "doctor", choice: &choice, findings: &findings };
    out.line(text(&choice, &findings), &line)?;
    Ok(if choice.backend == Backend::Scan { ExitCode::Degraded } else { ExitCode::Ok })
}

/// The choice in the words of the status, one reason per back end that was looked at.
fn choice(of: &choose::Choice) -> Choice {
    Choice { backend: Backend::of(of.back_end), reasons: of.lines().collect() }
}

fn text(choice: &Choice, findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let mark = if finding.ok { "ok" } else { "--" };
        lines.push(format!("{mark}  {:<14} {}", finding.name, finding.value));
        lines.extend(finding.fix.iter().map(|fix| format!("    fix: {fix}")));
    }
    lines.push(format!("capture: {}", choice.backend.name()));
    lines.extend(choice.reasons.iter().map(|reason| format!("  {reason}")));
    lines.join("\n")
}

/// What can be said without loading anything.
fn machine(state_dir: &Path, facts: &choose::Facts) -> Vec<Finding> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let btf = fs::metadata("/sys/kernel/btf/vmlinux").map(|meta| meta.len());
    let bpffs = mounted("bpf");
    let state = writable(state_dir);
    let finding = |name, ok: bool, value: String, fix: &str| {
        let fix = (!ok).then(|| fix.to_string());
        Finding { name, ok, value, fix }
    };
    let mut findings = vec![
        finding("kernel", true, release, ""),
        finding(
            "btf",
            btf.is_ok(),
            btf.map_or_else(|e| format!("/sys/kernel/btf/vmlinux: {e}"), |len| format!("{len} bytes")),
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF",
        ),
        finding(
            "bpffs",
            bpffs.is_some(),
            bpffs.unwrap_or_else(|| "not mounted".to_string()),
            "mount -t bpf bpf /sys/fs/bpf (tracker does it when it runs as root)",
        ),
        finding(
            "object",
            facts.object,
            if facts.object { "carried by this program".to_string() } else { "not in this program".to_string() },
            "build with `cargo xtask build-ebpf`, then the program again",
        ),
        finding("state", state.is_ok(), state_text(state_dir, &state), "name another directory with --state-dir"),
    ];
    findings.push(capabilities());
    findings
}

fn state_text(dir: &Path, state: &Result<(), String>) -> String {
    match state {
        Ok(()) => format!("{} can be written", dir.display()),
        Err(why) => format!("{}: {why}", dir.display()),
    }
}

/// The first mount point of a file system type.
fn mounted(kind: &str) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut lines = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.find(|fields| fields.get(2) == Some(&kind)).and_then(|fields| fields.get(1).map(|at| at.to_string()))
}

/// Whether the directory, or the nearest parent that exists, may be written.
fn writable(dir: &Path) -> Result<(), String> {
    use rustix::fs::{Access, access};
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    access(existing, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| format!("{}: {e}", existing.display()))
}

/// The capabilities that capture needs, from the effective set of this process.
fn capabilities() -> Finding {
    const NEEDED: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_DAC_READ_SEARCH", 2)];
    const SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let has = |bit: u32| set >> bit & 1 == 1;
    // CAP_SYS_ADMIN stands in for the two that were split off it.
    let granted = |name: &str, bit: u32| has(bit) || (has(SYS_ADMIN) && name != "CAP_DAC_READ_SEARCH");
    let missing: Vec<&str> = NEEDED.iter().filter(|(name, bit)| !granted(name, *bit)).map(|(name, _)| *name).collect();
    let ok = missing.is_empty();
    let value = if ok { "all there".to_string() } else { format!("missing {}", missing.join(", ")) };
    let fix = (!ok).then(|| "run as root, or grant them in the unit; without them tracker scans".to_string());
    Finding { name: "capabilities", ok, value, fix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_that_is_not_ok_has_a_fix() {
        let findings = machine(Path::new("/proc/no/such/place"), &choose::Facts::gather());
        assert!(findings.iter().any(|f| f.name == "kernel" && f.ok));
        assert!(findings.iter().any(|f| f.name == "state" && (!f.ok || rustix::process::geteuid().is_root())));
        assert!(findings.iter().all(|f| f.ok != f.fix.is_some()));
        let choice = Choice { backend: Backend::Scan, reasons: vec!["no BTF".into()] };
        let text = text(&choice, &findings);
        assert!(text.ends_with("capture: scan\n  no BTF"), "{text}");
    }
}

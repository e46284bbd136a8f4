//! `tracker doctor`: what this machine, or a directory on it, can do for tracker, why not more, and what would help.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::global::Global;
use super::tracking;
use crate::capture::{BackEnd, choose};
use crate::doctor::directory::Verdict;
use crate::doctor::fs::{self, FileSystem};
use crate::doctor::{self, Finding, gather};
use crate::error::{AppError, ExitCode};
use crate::output::Out;

/// Show which capture this kernel and user allow, why, what it sees on each file system, and what would help.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Judge this directory instead of every file system that is known.
    pub dir: Option<PathBuf>,
}

/// The back end that would be chosen, and why no better one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    pub backend: BackEnd,
    pub reasons: Vec<String>,
    /// What is lost without a better one.
    #[serde(skip_serializing_if = "Option::is_none")]
    costs: Option<&'static str>,
    /// What a better one would need.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'static str>,
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    choice: &'a Choice,
    findings: &'a [Finding],
    /// Captures in the kernel of this host, of every state directory.
    tracking: &'a [tracking::Tracking],
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<&'a Verdict>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    file_systems: &'a [FileSystem],
}

pub(super) fn run(args: &DoctorArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let facts = gather::machine(&global.state_dir()?);
    let mut kernel = choose::KernelFacts::gather();
    if kernel.layout_problem.is_none() {
        kernel.layout_problem = facts.obstacle();
    }
    let choice = choice(&choose::choose(&kernel));
    let findings = doctor::machine(&facts, choice.backend);
    let (mut directory, mut file_systems) = (None, Vec::new());
    match &args.dir {
        Some(dir) => {
            let wrong = "name a directory that is there; without one the machine itself is judged";
            let seen = gather::directory(dir).map_err(|error| AppError::from_error(&error).hint(wrong))?;
            directory = Some(doctor::directory::judge(&seen, &facts.kernel, choice.backend));
        }
        None => {
            let judge = |name| fs::judge(name, &facts.kernel, choice.backend);
            file_systems.extend(fs::KNOWN.into_iter().map(judge));
        }
    }
    let line = Line {
        r#type: "doctor",
        choice: &choice,
        findings: &findings,
        tracking: &tracking::gather(),
        directory: directory.as_ref(),
        file_systems: &file_systems,
    };
    out.line(text(&line), &line)?;
    let degraded = choice.backend == BackEnd::Scan || directory.as_ref().is_some_and(Verdict::degraded);
    Ok(if degraded { ExitCode::Degraded } else { ExitCode::Ok })
}

/// The choice in the words of the status, one reason per back end considered.
fn choice(of: &choose::Choice) -> Choice {
    let backend = of.back_end;
    let (costs, fix) = doctor::costs(backend).unzip();
    Choice { backend, reasons: of.lines().collect(), costs, fix }
}

fn text(line: &Line<'_>) -> String {
    let mut lines = Vec::new();
    finding_lines(line.findings, &mut lines);
    lines.push(format!("capture: {}", line.choice.backend.name()));
    lines.extend(line.choice.reasons.iter().map(|reason| format!("  {reason}")));
    lines.extend(line.choice.costs.iter().map(|costs| format!("  cost: {costs}")));
    lines.extend(line.choice.fix.iter().map(|fix| format!("  fix: {fix}")));
    let tracked = tracking::text(line.tracking);
    if !tracked.is_empty() {
        lines.extend([String::new(), tracked.trim_end().to_owned()]);
    }
    if let Some(verdict) = line.directory {
        lines.extend([String::new(), verdict.path.for_people().to_string()]);
        finding_lines(&verdict.findings, &mut lines);
    }
    for system in line.directory.map(|verdict| &verdict.file_system).into_iter().chain(line.file_systems) {
        lines.push(String::new());
        system_lines(system, &mut lines);
    }
    lines.join("\n")
}

fn finding_lines(findings: &[Finding], lines: &mut Vec<String>) {
    for finding in findings {
        let mark = if finding.ok { "ok" } else { "--" };
        lines.push(format!("{mark}  {:<14} {}", finding.name, finding.value));
        lines.extend(finding.fix.iter().map(|fix| format!("    fix: {fix}")));
    }
}

fn system_lines(system: &FileSystem, lines: &mut Vec<String>) {
    lines.push(format!("{}: {}", system.name, system.backend.name()));
    lines.extend(system.problems.iter().map(|why| format!("  because {why}")));
    lines.extend(system.fix.iter().map(|fix| format!("  fix: {fix}")));
    for row in &system.changes {
        lines.push(format!("  {}: {}", row.change, row.seen.text()));
        lines.push(format!("      {}", row.by));
    }
    lines.extend(system.limits.iter().map(|limit| format!("  never seen: {limit}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_every_finding_the_choice_and_the_directory() {
        let finding = |name, ok: bool| Finding {
            name,
            ok,
            value: format!("value of {name}"),
            fix: (!ok).then(|| "do it".to_owned()),
        };
        let (costs, fix) = (None, None);
        let choice = Choice { backend: BackEnd::Scan, reasons: vec!["no BTF".into()], costs, fix };
        let system = fs::judge("tmpfs", &doctor::Kernel::default(), BackEnd::Scan);
        let findings = [finding("kernel", true), finding("btf", false)];
        let mut line = Line {
            r#type: "doctor",
            choice: &choice,
            findings: &findings,
            tracking: &[],
            directory: None,
            file_systems: &[],
        };
        let head = "ok  kernel         value of kernel\n--  btf            value of btf\n    fix: do it\n\
                    capture: scan\n  no BTF";
        assert_eq!(text(&line), head);
        assert!(!serde_json::to_string(&line).unwrap().contains("file_systems"));
        let systems = [system];
        line.file_systems = &systems;
        let all = text(&line);
        assert!(all.starts_with(head) && all.contains("\n\ntmpfs: scan\n  because the machine scans"), "{all}");
        assert!(all.contains("NOT ALWAYS SEEN"), "{all}");
    }
}

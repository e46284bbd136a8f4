//! Which back end captures changes: a pure function from facts about the kernel to a choice with reasons.

use super::{
    layout::{KernelTypes, Layout},
    object,
};
use common::hooks::{HOOKS, Serves};

/// A way to learn of changes, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackEnd {
    /// Programs on function entry and exit.
    Fentry,
    /// Programs on kernel probes.
    Kprobe,
    /// Programs on raw tracepoints.
    Tracepoint,
    /// No programs: compare the tree at an interval.
    Scan,
}

/// What is known about kernel and binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether the process may load programs.
    pub privileged: bool,
    /// Whether the binary carries the kernel object.
    pub object: bool,
    /// Why the layout of the kernel's structs is not known, if it is not.
    pub layout_problem: Option<String>,
    /// Tracepoints that every file system needs and the kernel lacks.
    pub missing: Vec<&'static str>,
}

impl Facts {
    /// Those of the running kernel and this process.
    #[must_use]
    pub fn gather() -> Self {
        let types = KernelTypes::running();
        let layout_problem = match &types {
            Err(error) => Some(error.to_string()),
            Ok(types) => Layout::resolve(types).err().map(|error| error.to_string()),
        };
        let missing = types.map_or_else(|_| Vec::new(), |types| missing_tracepoints(&types));
        Self { privileged: rustix::process::geteuid().is_root(), object: object().is_some(), layout_problem, missing }
    }
}

/// Tracepoints that every file system needs and the kernel lacks.
#[must_use]
pub fn missing_tracepoints(types: &KernelTypes) -> Vec<&'static str> {
    let needed = HOOKS.iter().filter(|hook| hook.serves == Serves::All);
    needed.map(|hook| hook.tracepoint).filter(|tracepoint| !types.has_tracepoint(tracepoint)).collect()
}

/// The back end taken, and what was said about each that was looked at, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The one taken.
    pub back_end: BackEnd,
    /// Why each before it was not taken, and why it was.
    pub reasons: Vec<(BackEnd, String)>,
}

/// The best back end that these facts allow.
#[must_use]
pub fn choose(facts: &Facts) -> Choice {
    let mut reasons = vec![
        (BackEnd::Fentry, "not built in this version".to_owned()),
        (BackEnd::Kprobe, "not built in this version".to_owned()),
    ];
    let against = if !facts.object {
        Some("this binary carries no eBPF object".to_owned())
    } else if !facts.privileged {
        Some("loading programs needs root".to_owned())
    } else if let Some(problem) = &facts.layout_problem {
        Some(problem.clone())
    } else if facts.missing.is_empty() {
        None
    } else {
        Some(format!("the kernel lacks the tracepoints {}", facts.missing.join(", ")))
    };
    let back_end = match against {
        Some(reason) => {
            reasons.push((BackEnd::Tracepoint, reason));
            reasons.push((BackEnd::Scan, "needs nothing".to_owned()));
            BackEnd::Scan
        }
        None => {
            reasons.push((BackEnd::Tracepoint, "every tracepoint and struct member is there".to_owned()));
            BackEnd::Tracepoint
        }
    };
    Choice { back_end, reasons }
}

#[cfg(test)]
mod tests {
    use super::{BackEnd, Facts, choose};

    fn good() -> Facts {
        Facts { privileged: true, object: true, layout_problem: None, missing: Vec::new() }
    }

    #[test]
    fn tracepoints_are_taken_when_nothing_speaks_against_them() {
        assert_eq!(choose(&good()).back_end, BackEnd::Tracepoint);
    }

    #[test]
    fn every_single_obstacle_leads_to_scan_and_is_named() {
        let cases = [
            (Facts { object: false, ..good() }, "object"),
            (Facts { privileged: false, ..good() }, "root"),
            (Facts { layout_problem: Some("no member i_sb".into()), ..good() }, "i_sb"),
            (Facts { missing: vec!["ctime_ns_xchg"], ..good() }, "ctime_ns_xchg"),
        ];
        for (facts, word) in cases {
            let choice = choose(&facts);
            assert_eq!(choice.back_end, BackEnd::Scan);
            let reason = choice.reasons.iter().find(|(back_end, _)| *back_end == BackEnd::Tracepoint).unwrap();
            assert!(reason.1.contains(word), "{}", reason.1);
        }
    }
}

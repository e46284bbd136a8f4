//! Which back end to use, and why: a pure function of facts about kernel and binary.

use serde::{Deserialize, Serialize};

use super::{
    attach,
    layout::{KernelTypes, Layout},
    object, points,
};
use common::functions::FunctionId;

/// A way to learn of changes, best first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr, strum::VariantNames,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum BackEnd {
    /// Programs on function entry and exit, beside those on raw tracepoints.
    Fentry,
    /// Programs on kernel probes, beside those on raw tracepoints.
    Kprobe,
    /// Programs on raw tracepoints.
    Tracepoint,
    /// No programs: compare the tree at an interval.
    #[default]
    Scan,
}

impl BackEnd {
    /// Those with programs, best first.
    pub const WITH_PROGRAMS: [BackEnd; 3] = [BackEnd::Fentry, BackEnd::Kprobe, BackEnd::Tracepoint];

    /// Its name in configuration, status and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Value of `common::maps::ctrl::BACK_END`.
    pub(super) const fn word(self) -> u64 {
        match self {
            Self::Fentry => 1,
            Self::Kprobe => 2,
            Self::Tracepoint => 3,
            Self::Scan => 4,
        }
    }
}

/// What is known about kernel and binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// Whether the process may load programs.
    pub privileged: bool,
    /// Whether the binary carries the kernel object.
    pub object: bool,
    /// Why the layout of the kernel's structs is not known, if it is not.
    pub layout_problem: Option<String>,
    /// Tracepoints that every file system needs from the tracepoint back end and the kernel lacks.
    pub missing: Vec<&'static str>,
    /// What speaks against single back ends: functions that are missing, a refusal by the kernel, a start that failed.
    pub against: Vec<(BackEnd, String)>,
    /// The user wants this one and no other.
    pub only: Option<BackEnd>,
}

impl KernelFacts {
    /// Those of the running kernel and this process. Tries one program of each kind, which is attached for a moment and
    /// marks nothing.
    #[must_use]
    pub fn gather() -> Self {
        Self::gather_for(None)
    }

    /// Like [`Self::gather`], but where one back end is asked for nothing is tried: its start will tell, and each trial takes the
    /// object through loading and relocation once more.
    #[must_use]
    pub fn gather_for(only: Option<BackEnd>) -> Self {
        let types = KernelTypes::running();
        let layout = match &types {
            Err(error) => Err(error.to_string()),
            Ok(types) => Layout::resolve(types).map_err(|error| error.to_string()),
        };
        let privileged = rustix::process::geteuid().is_root();
        let mut against = Vec::new();
        let mut missing = Vec::new();
        if let (Ok(types), Ok(layout)) = (&types, &layout) {
            missing = missing_tracepoints(types);
            for back_end in [BackEnd::Fentry, BackEnd::Kprobe] {
                let problem = points::functions(types, back_end).err().or_else(|| {
                    let object = object().filter(|_| privileged && only.is_none())?;
                    let point = points::ways(FunctionId::Move.get(), back_end).concat().first().copied()?;
                    attach::refusal(object, layout, point)
                });
                against.extend(problem.map(|problem| (back_end, problem)));
            }
        }
        Self { privileged, object: object().is_some(), layout_problem: layout.err(), missing, against, only }
    }
}

/// Tracepoints that every file system needs from the tracepoint back end and the kernel lacks.
#[must_use]
pub fn missing_tracepoints(types: &KernelTypes) -> Vec<&'static str> {
    let needed = points::required_tracepoints(BackEnd::Tracepoint);
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

impl Choice {
    /// One line per back end that was looked at.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.reasons.iter().map(|(back_end, why)| format!("{}: {why}", back_end.name()))
    }
}

/// The best back end that these facts allow.
#[must_use]
pub fn choose(facts: &KernelFacts) -> Choice {
    let mut reasons = Vec::new();
    for back_end in BackEnd::WITH_PROGRAMS {
        match obstacle(facts, back_end) {
            Some(reason) => reasons.push((back_end, reason)),
            None => {
                reasons.push((back_end, "the kernel has everything it needs".to_owned()));
                return Choice { back_end, reasons };
            }
        }
    }
    reasons.push((BackEnd::Scan, "needs nothing".to_owned()));
    Choice { back_end: BackEnd::Scan, reasons }
}

/// What speaks against a back end with programs.
fn obstacle(facts: &KernelFacts, back_end: BackEnd) -> Option<String> {
    if let Some(only) = facts.only.filter(|only| *only != back_end) {
        return Some(format!("{} was asked for", only.name()));
    }
    if !facts.object {
        return Some("this binary carries no eBPF object".to_owned());
    }
    if !facts.privileged {
        return Some("loading programs needs root".to_owned());
    }
    if let Some(problem) = &facts.layout_problem {
        return Some(problem.clone());
    }
    if let Some((_, problem)) = facts.against.iter().find(|(which, _)| *which == back_end) {
        return Some(problem.clone());
    }
    if back_end == BackEnd::Tracepoint && !facts.missing.is_empty() {
        return Some(format!("the kernel lacks the tracepoints {}", facts.missing.join(", ")));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{BackEnd, KernelFacts, choose};

    fn good() -> KernelFacts {
        KernelFacts {
            privileged: true,
            object: true,
            layout_problem: None,
            missing: Vec::new(),
            against: Vec::new(),
            only: None,
        }
    }

    #[test]
    fn the_best_is_taken_when_nothing_speaks_against_it() {
        assert_eq!(choose(&good()).back_end, BackEnd::Fentry);
        let no = |which: BackEnd| (which, "no".to_owned());
        let without_fentry = KernelFacts { against: vec![no(BackEnd::Fentry)], ..good() };
        assert_eq!(choose(&without_fentry).back_end, BackEnd::Kprobe);
        let tracepoints = KernelFacts { against: vec![no(BackEnd::Fentry), no(BackEnd::Kprobe)], ..good() };
        assert_eq!(choose(&tracepoints).back_end, BackEnd::Tracepoint);
        let nothing = KernelFacts { missing: vec!["ctime_ns_xchg"], ..tracepoints };
        let choice = choose(&nothing);
        assert_eq!(choice.back_end, BackEnd::Scan);
        assert_eq!(choice.reasons.len(), 4, "every back end has its reason: {choice:?}");
    }

    #[test]
    fn missing_tracepoints_speak_against_the_tracepoint_back_end_alone() {
        assert_eq!(choose(&KernelFacts { missing: vec!["ctime_ns_xchg"], ..good() }).back_end, BackEnd::Fentry);
    }

    #[test]
    fn one_that_is_asked_for_is_taken_or_none() {
        let wanted = KernelFacts { only: Some(BackEnd::Kprobe), ..good() };
        assert_eq!(choose(&wanted).back_end, BackEnd::Kprobe);
        let refused = KernelFacts { against: vec![(BackEnd::Kprobe, "no".into())], ..wanted };
        assert_eq!(choose(&refused).back_end, BackEnd::Scan);
    }

    #[test]
    fn every_single_obstacle_leads_to_scan_and_is_named() {
        let only = Some(BackEnd::Tracepoint);
        let cases = [
            (KernelFacts { object: false, ..good() }, "object"),
            (KernelFacts { privileged: false, ..good() }, "root"),
            (KernelFacts { layout_problem: Some("no member i_sb".into()), ..good() }, "i_sb"),
            (KernelFacts { missing: vec!["ctime_ns_xchg"], only, ..good() }, "ctime_ns_xchg"),
        ];
        for (facts, word) in cases {
            let choice = choose(&facts);
            assert_eq!(choice.back_end, BackEnd::Scan);
            let reason = choice.reasons.iter().find(|(back_end, _)| *back_end == BackEnd::Tracepoint).unwrap();
            assert!(reason.1.contains(word), "{}", reason.1);
        }
    }
}

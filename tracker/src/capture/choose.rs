//! Chooses the back end, and says why: a pure function of facts about kernel and binary.

use super::back_end::BackEnd;
use super::layout::{KernelTypes, Layout};
use super::object::object;
use super::{attach, points};
use common::functions::FunctionId;

/// What is known about kernel and binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// Whether the process may load programs.
    pub privileged: bool,
    /// Whether the binary carries the kernel object.
    pub object: bool,
    /// Why the layout of the kernel's structs is not known, if it is not.
    pub layout_problem: Option<String>,
    /// Tracepoints that the kernel lacks and that the tracepoint back end needs for every file system.
    pub missing: Vec<&'static str>,
    /// Why single back ends are ruled out: missing functions, a refusal by the kernel, a start that failed.
    pub against: Vec<(BackEnd, String)>,
    /// Set if the user requires this back end.
    pub only: Option<BackEnd>,
}

impl KernelFacts {
    /// Gathers the facts for the running kernel and this process. Tries one program of each kind, which is attached briefly
    /// and marks nothing.
    #[must_use]
    pub fn gather() -> Self {
        Self::gather_for(None)
    }

    /// Like [`Self::gather`], but tries nothing if one back end is requested: its start will show, and each trial loads and
    /// relocates the object again.
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

/// Tracepoints that the kernel lacks and that the tracepoint back end needs for every file system.
#[must_use]
pub fn missing_tracepoints(types: &KernelTypes) -> Vec<&'static str> {
    let needed = points::required_tracepoints(BackEnd::Tracepoint);
    needed.map(|hook| hook.tracepoint).filter(|tracepoint| !types.has_tracepoint(tracepoint)).collect()
}

/// The chosen back end, and the reasons for each that was considered, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The chosen back end.
    pub back_end: BackEnd,
    /// Why each earlier one was not chosen, and why this one was.
    pub reasons: Vec<(BackEnd, String)>,
}

impl Choice {
    /// One line per back end that was considered.
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

/// Why a back end with programs cannot be used.
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

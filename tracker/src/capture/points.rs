//! What is attached to which hook: the points of each back end, from the lists in `common`. Pure.

use common::{
    functions::{By, FUNCTIONS, Function, Need, When},
    hooks::{HOOKS, Hook, Role},
};

use super::back_end::BackEnd;
use super::layout::KernelTypes;

/// A program and what it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) program: &'static str,
    pub(super) at: At,
    /// Tracepoint or function.
    pub(super) name: &'static str,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Tracepoint,
    FunctionEntry,
    FunctionExit,
    Probe,
}

impl Point {
    pub(super) const fn tracepoint(hook: &Hook) -> Self {
        Self { program: hook.program, at: At::Tracepoint, name: hook.tracepoint }
    }
}

/// The ways to hook a function, best first, each with its points. The first way of which every point can be attached is
/// used.
pub(super) fn ways(function: &Function, back_end: BackEnd) -> Vec<Vec<Point>> {
    let point = |program, at| Point { program, at, name: function.name };
    let trampoline = match function.when {
        When::Entry => point(function.trampoline, At::FunctionEntry),
        When::Exit => point(function.trampoline, At::FunctionExit),
    };
    let mut probes = vec![point(function.probe, At::Probe)];
    if function.when == When::Exit {
        // The return probe first: a call that is entered between the two would be in flight forever.
        probes.insert(0, point(function.probe_return, At::Probe));
    }
    match (back_end, function.by) {
        (BackEnd::Fentry, By::Either) => vec![vec![trampoline], probes],
        (BackEnd::Fentry, By::Probe) | (BackEnd::Kprobe, _) => vec![probes],
        (BackEnd::Tracepoint | BackEnd::Scan, _) => Vec::new(),
    }
}

/// Every point that any back end may have attached.
pub(super) fn every() -> Vec<Point> {
    let functions = FUNCTIONS.iter().flat_map(|function| ways(function, BackEnd::Fentry)).flatten();
    // Includes those of the kprobe back end: each back end's way is the other's second choice.
    HOOKS.iter().map(Point::tracepoint).chain(functions).collect()
}

/// The functions that this back end hooks on a kernel with these types.
///
/// # Errors
/// When a required function is missing, or its parameters are not those that its program reads.
pub(super) fn functions(types: &KernelTypes, back_end: BackEnd) -> Result<Vec<&'static Function>, String> {
    if matches!(back_end, BackEnd::Tracepoint | BackEnd::Scan) {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    for function in FUNCTIONS.iter().filter(|function| !types.has_tracepoint(function.unless)) {
        match (check(types, function), function.need) {
            (Ok(()), _) => out.push(function),
            (Err(problem), Need::Required) => return Err(problem),
            (Err(_), Need::Optional) => {}
        }
    }
    Ok(out)
}

/// Checks that a function exists with the parameters that its program reads.
fn check(types: &KernelTypes, function: &Function) -> Result<(), String> {
    let name = function.name;
    let Some(parameters) = types.function(name) else { return Err(format!("the kernel has no function {name}")) };
    for &(at, expected) in function.arguments {
        match parameters.get(at) {
            Some(Some(found)) if found == expected => {}
            Some(Some(found)) => {
                return Err(format!("argument {at} of {name} points to a struct {found}, not {expected}"));
            }
            Some(None) => return Err(format!("argument {at} of {name} is no pointer to a struct {expected}")),
            None => return Err(format!("{name} has no argument {at}")),
        }
    }
    Ok(())
}

/// Tracepoints without which a back end protects nothing.
pub(super) fn required_tracepoints(back_end: BackEnd) -> impl Iterator<Item = &'static Hook> {
    HOOKS.iter().filter(move |hook| match back_end {
        BackEnd::Fentry | BackEnd::Kprobe => hook.role == Role::Dirty,
        BackEnd::Tracepoint | BackEnd::Scan => hook.serves == common::hooks::Serves::All && hook.role != Role::Write,
    })
}

#[cfg(test)]
mod tests {
    use super::{At, BackEnd, FUNCTIONS, every, ways};

    #[test]
    fn every_point_of_every_back_end_is_among_all() {
        let all = every();
        for back_end in [BackEnd::Fentry, BackEnd::Kprobe] {
            for point in FUNCTIONS.iter().flat_map(|function| ways(function, back_end)).flatten() {
                assert!(all.contains(&point), "{point:?}");
            }
        }
    }

    #[test]
    fn kprobe_hooks_no_trampoline_and_tracepoint_no_function() {
        for function in FUNCTIONS {
            assert!(ways(function, BackEnd::Kprobe).concat().iter().all(|point| point.at == At::Probe));
            assert!(ways(function, BackEnd::Tracepoint).is_empty());
        }
    }
}

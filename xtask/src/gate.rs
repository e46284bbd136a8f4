//! `test`: the whole gate. Runs every check and every tier, goes on after a failure so that all of them are seen, and
//! ends with one line `N passed, N failed, N skipped`. What is skipped is named, with its reason.
//!
//! What only needs processors (lints, guests) runs beside the tests, at a lower priority: tests on this kernel wait for half of
//! their time.

mod checks;
mod guests;
mod leftovers;
mod libtest;
mod packaging;
mod step;
mod tiers;

use std::time::Instant;

use anyhow::Result;
use fs_err as fs;

use crate::sh;
use step::{Gate, Outcome, Tally};

/// Which part of the gate to run.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Selection {
    /// One tier only. 0: checks without tests; 1: unit, property and model tests, unprivileged; 2: on this kernel, as root;
    /// 3: in guests with other kernels
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=3))]
    tier: Option<u8>,
    /// Only tests whose names contain this, and no check
    filter: Option<String>,
}

impl Selection {
    fn has(&self, tier: u8) -> bool {
        self.tier.is_none_or(|only| only == tier) && !(tier == 0 && self.filter.is_some())
    }
}

/// By how much what runs beside the tests steps back for them. Of a processor that both want it still gets a quarter: guests have
/// to be done in time, too.
const NICE: i32 = 5;

pub(crate) fn main(selection: &Selection) -> Result<()> {
    let started = Instant::now();
    let logs = sh::root().join("target/test-logs");
    // Logs of an earlier run must not be taken for this one's.
    if logs.exists() {
        fs::remove_dir_all(&logs)?;
    }
    fs::create_dir_all(&logs)?;

    let mut gate = Gate { logs, tally: Tally::default(), prefix: String::new() };
    if [0, 2, 3].into_iter().any(|tier| selection.has(tier)) {
        gate.check("setup", |_| crate::setup::all().map(|()| Outcome::Passed));
        gate.check("build-ebpf", checks::build_ebpf);
    }
    if selection.has(0) {
        run_all(&mut gate, &checks::QUICK);
    }
    let filter = selection.filter.as_deref();
    let (unprivileged, privileged, other) = (selection.has(1), selection.has(2), selection.has(3));
    let built = if unprivileged || privileged || other { tiers::build(&mut gate, privileged || other) } else { None };
    let programs = built.as_deref();
    let mut beside = gate.part("beside: ".into());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Of this thread, and of all that it starts.
            if let Err(error) = rustix::process::nice(NICE) {
                println!("xtask: the priority stays as it is: {error}");
            }
            if selection.has(0) {
                run_all(&mut beside, &checks::SLOW);
            }
            if let Some(programs) = programs.filter(|_| other) {
                guests::all(&mut beside, programs, filter);
            }
        });
        if let Some(programs) = programs {
            if unprivileged {
                tiers::unprivileged(&mut gate, programs, filter);
            }
            if privileged {
                tiers::privileged(&mut gate, programs, filter);
            }
        }
    });
    // Tier 3 alone may have nothing to run: its skips say so.
    if (unprivileged || privileged) && gate.tally.tests == 0 {
        gate.tally.fail("no test ran at all");
    }
    gate.tally.add(beside.tally);
    gate.finish(started)
}

fn run_all(gate: &mut Gate, checks: &[checks::Check]) {
    for (name, check) in checks {
        gate.check(name, check);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_leaves_the_checks_out() {
        let tiers = |tier, filter: Option<&str>| {
            let selection = Selection { tier, filter: filter.map(str::to_owned) };
            (0..=3).map(|tier| selection.has(tier)).collect::<Vec<_>>()
        };
        assert_eq!(tiers(None, None), [true; 4]);
        assert_eq!(tiers(None, Some("swap")), [false, true, true, true]);
        assert_eq!(tiers(Some(1), Some("swap")), [false, true, false, false]);
    }
}

//! `test`: the whole gate. Runs every check and every tier, goes on after a failure so that all of them are seen, and
//! ends with one line `N passed, N failed, N skipped`. What is skipped is named, with its reason.

mod checks;
mod deny;
mod guests;
mod leftovers;
mod libtest;
mod packaging;
mod step;
pub(crate) mod stream;
mod tally;
mod tiers;

use std::time::Instant;

use step::{Gate, Outcome};
use tally::Tally;

use crate::sh::{self, Error};

const USAGE: &str = "usage: cargo xtask test [--tier 0|1|2|3] [NAME FILTER]
  tier 0: checks without tests; tier 1: unit, property and model tests, unprivileged; tier 2: on this kernel, as root;
  tier 3: in guests with other kernels
  without --tier: all of them; with a filter: only tests whose names contain it, and no check";

/// Which part of the gate to run.
#[derive(Debug, PartialEq, Eq)]
struct Selection {
    /// One tier only.
    tier: Option<u8>,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

impl Selection {
    fn parse(args: &[String]) -> Result<Self, Error> {
        let usage = |why: String| Error::Usage { text: format!("{why}\n{USAGE}") };
        let mut selection = Selection { tier: None, filter: None };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--tier" {
                let tier = args.next().and_then(|tier| tier.parse().ok()).filter(|tier| *tier <= 3);
                selection.tier = Some(tier.ok_or_else(|| usage("--tier takes 0 to 3".into()))?);
            } else if arg.starts_with('-') || selection.filter.is_some() {
                return Err(usage(format!("unexpected `{arg}`")));
            } else {
                selection.filter = Some(arg.clone());
            }
        }
        Ok(selection)
    }

    fn has(&self, tier: u8) -> bool {
        self.tier.is_none_or(|only| only == tier) && !(tier == 0 && self.filter.is_some())
    }
}

pub(crate) fn main(args: &[String]) -> Result<(), Error> {
    let selection = Selection::parse(args)?;
    let started = Instant::now();
    let logs = sh::root().join("target/test-logs");
    // Logs of an earlier run must not be taken for this one's.
    if logs.exists() {
        std::fs::remove_dir_all(&logs).map_err(Error::io(format!("cannot clear {}", logs.display())))?;
    }
    std::fs::create_dir_all(&logs).map_err(Error::io(format!("cannot create {}", logs.display())))?;

    let mut gate = Gate { logs, tally: Tally::default(), prefix: String::new() };
    if [0, 2, 3].into_iter().any(|tier| selection.has(tier)) {
        gate.check("setup", |_| crate::setup::main(&[]).map(|()| Outcome::Passed));
        gate.check("build-ebpf", checks::build_ebpf);
    }
    if selection.has(0) {
        for (name, check) in checks::ALL {
            gate.check(name, check);
        }
    }
    let filter = selection.filter.as_deref();
    if selection.has(1) {
        tiers::unprivileged(&mut gate, filter);
    }
    if selection.has(2) {
        tiers::privileged(&mut gate, filter);
    }
    if selection.has(3) {
        guests::all(&mut gate, filter);
    }
    // Tier 3 alone may have nothing to run: its skips say so.
    if (selection.has(1) || selection.has(2)) && gate.tally.tests == 0 {
        gate.tally.fail("no test ran at all");
    }
    gate.finish(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Selection, Error> {
        Selection::parse(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn without_arguments_everything_runs() {
        let selection = parse(&[]).expect("valid");
        assert!((0..=3).all(|tier| selection.has(tier)));
    }

    #[test]
    fn a_filter_leaves_the_checks_out() {
        let selection = parse(&["--tier", "1", "swap"]).expect("valid");
        assert_eq!((0..=3).map(|tier| selection.has(tier)).collect::<Vec<_>>(), [false, true, false, false]);
        assert!(!parse(&["swap"]).expect("valid").has(0));
    }

    #[test]
    fn a_wrong_command_line_is_refused() {
        for args in [&["--tier"][..], &["--tier", "7"], &["--fast"], &["a", "b"]] {
            assert!(matches!(parse(args), Err(Error::Usage { .. })), "{args:?}");
        }
    }
}

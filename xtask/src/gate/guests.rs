//! Tier 3: the program from end to end under other kernels, one guest per kernel and one after the other; then cuts of a
//! guest's power.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Gate, Outcome, absent, tiers};
use crate::powercut::{self, Campaign};
use crate::sh;
use crate::vm::{self, Kernel, Request, Series};

/// The test program whose cases run in each guest.
const TESTS: &str = "kernels";
/// The back ends that it runs with: the best one, which is fentry, and the one that no kernel of ours would take by itself.
/// Each with the cases that are of interest beside it, and the variable that asks for it.
const BACK_ENDS: [(&str, &str, &str); 2] =
    [("auto", "", ""), ("kprobe", "protects_and_restores", "TRACKER_TEST_BACK_END=kprobe")];
/// A guest takes about three minutes on two idle cores. One that prints nothing for 15 minutes is ended before.
const LIMIT: Duration = Duration::from_secs(1800);
/// Cuts of power in the gate; `cargo xtask powercut` makes more.
const CUTS: u64 = 3;

pub(super) fn all(gate: &mut Gate, filter: Option<&str>) {
    if let Some(reason) = vm::obstacle() {
        gate.check("tier 3", |_| absent("vm", &format!("no guest can run: {reason}")));
        return;
    }
    let mut program = PathBuf::new();
    let built = gate.check("tier 3: build", |_| {
        program = vm::test_program(TESTS)?;
        Ok(Outcome::Passed)
    });
    if !built || filter.is_some_and(|filter| !has_test(&program, filter)) || !tiers::build_tracker(gate) {
        return;
    }
    let mut missing = false;
    for series in Series::ALL {
        match kernel(gate, series) {
            Some(kernel) => guest(gate, series, &kernel, &program, filter),
            None => missing = true,
        }
    }
    if !missing && filter.is_none() {
        gate.check("tier 3: power cuts", |gate| {
            let campaign = Campaign { cuts: CUTS, ..Campaign::by_the_clock() };
            powercut::run(&campaign, &gate.log("power-cut"), |line| println!("   {line}"))?;
            Ok(Outcome::Passed)
        });
    }
}

/// Whether some case matches: a guest that runs none is not worth its boot.
fn has_test(program: &Path, filter: &str) -> bool {
    sh::output(Command::new(program).args(["--list", filter])).is_ok_and(|list| list.contains(": test"))
}

fn kernel(gate: &mut Gate, series: Series) -> Option<Kernel> {
    let mut kernel = None;
    gate.check(&format!("tier 3: Linux {}: kernel", series.name()), |_| match vm::ensure(series) {
        Ok(found) => {
            kernel = Some(found);
            Ok(Outcome::Passed)
        }
        Err(error) => absent("vm", &format!("no kernel {}: {error}", series.name())),
    });
    kernel
}

fn guest(gate: &mut Gate, series: Series, kernel: &Kernel, program: &Path, filter: Option<&str>) {
    let step = format!("tier 3: Linux {}", series.name());
    let words = ["sh".into(), "-c".into(), script(series, program, filter)];
    let request = Request { words: &words, variables: &vm::test_variables(), limit: LIMIT, disks: &[] };
    tiers::follow(gate, &step, None, |log, each| {
        let code = vm::run(kernel, &request, log, |line| {
            if line.starts_with("BACK END ") {
                println!("   {line}");
            }
            each(line);
        })?;
        Ok((code != 0).then(|| format!("exit code {code}")))
    });
}

/// The test program once for each back end. Before each run stands what cargo would say, so that kernel and back end stand
/// in front of each name.
fn script(series: Series, program: &Path, filter: Option<&str>) -> String {
    let program = sh::quote(&program.display().to_string());
    let mut script = String::from("code=0\n");
    for (back_end, cases, variable) in BACK_ENDS {
        let filter = sh::quote(filter.unwrap_or(cases));
        script.push_str(&format!(
            "echo '     Running tests/{TESTS}.rs ({TESTS} under {}, {back_end}-0)'\n",
            series.name()
        ));
        // Two at a time: the cases share nothing, and the guest has two processors.
        script.push_str(&format!("{variable} {program} --show-output --test-threads=2 {filter} || code=1\n"));
    }
    script.push_str("exit $code\n");
    script
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::script;
    use crate::vm::Series;

    #[test]
    fn every_back_end_runs_under_a_name_of_its_own() {
        let script = script(Series::V6_1, Path::new("/a b/kernels"), Some("protects"));
        for (back_end, variable) in [("auto", ""), ("kprobe", "TRACKER_TEST_BACK_END=kprobe")] {
            let run = format!("{variable} '/a b/kernels' --show-output --test-threads=2 protects");
            assert!(script.contains(&run), "{script}");
            assert!(script.contains(&format!("(kernels under 6.1, {back_end}-0)")), "{script}");
        }
    }
}

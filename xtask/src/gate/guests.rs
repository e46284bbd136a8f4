//! Tier 3: the program from end to end under other kernels, one guest per kernel, all at once: most of a run is the kernel's
//! verifier, which takes one processor. Cuts of a guest's power, as soon as one of them is done.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::step::{Gate, Outcome, absent};
use super::tiers;
use crate::powercut;
use crate::programs::Program;
use crate::vm::{self, Kernel, Request, Series};
use crate::{matrix, setup, sh};

/// One run of a test program in a guest.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Under this kernel alone; none: under each.
    series: Option<Series>,
    test: &'static str,
    /// The back end, or `auto`.
    back_end: &'static str,
    /// The cases that are of interest; none: all.
    cases: &'static str,
    /// Cases at a time. Those of `kernels` share nothing, and the guest has two processors.
    threads: u32,
    /// Of the matrix, as K/N.
    part: Option<&'static str>,
}

const fn kernels(back_end: &'static str, cases: &'static str, threads: u32) -> Run {
    Run { series: None, test: "kernels", back_end, cases, threads, part: None }
}

const fn cells(series: Series, oracle: matrix::Oracle, back_end: &'static str, part: &'static str) -> Run {
    Run { series: Some(series), test: oracle.test, back_end, cases: oracle.case, threads: 1, part: Some(part) }
}

/// The program from end to end with the best back end, which is fentry (on 6.12 with a change to kprobe while it runs), and with
/// the one that no kernel of ours would take by itself, where the flushes below do not; then a quarter of the matrix by each
/// oracle. Each quarter has every operation and every file system, each kernel both oracles and both back ends, and each back end
/// both oracles. More would be beyond the time that the gate has: most of a run is the kernel's verifier. The running kernel has all
/// of it by both oracles, in tier 2. Cells and back ends of the quarters change with the commit (`seed`).
const RUNS: [Run; 9] = [
    kernels("auto", "", 2),
    // Commits of one instant, which need functions there that the running kernel does not.
    Run { test: "instant_databases", ..kernels("auto", "every_instant_of_sqlite_with_a_rollback", 1) },
    Run { series: Some(Series::V6_12), test: "capture_exact", ..kernels("auto", "_marks_", 1) },
    Run { test: "pauses", ..kernels("auto", "writers_without_gaps_are_paused_and_go_on_on_ext4", 1) },
    Run { series: Some(Series::V6_1), ..kernels("kprobe", "protects_and_restores", 1) },
    cells(Series::V6_1, matrix::MARKS, "kprobe", "1/4"),
    cells(Series::V6_1, matrix::FLUSHES, "fentry", "2/4"),
    cells(Series::V6_12, matrix::MARKS, "fentry", "3/4"),
    cells(Series::V6_12, matrix::FLUSHES, "kprobe", "4/4"),
];

/// Of the commit that is tested; 0 where none is known.
fn seed() -> u64 {
    let head = sh::output(Command::new("git").current_dir(sh::root()).args(["rev-parse", "HEAD"]));
    head.ok().and_then(|head| u64::from_str_radix(head.get(..8)?, 16).ok()).unwrap_or(0)
}

/// `RUNS`, for every other seed with the back ends of the matrix exchanged.
fn runs_of(seed: u64) -> [Run; 9] {
    if seed.is_multiple_of(2) {
        return RUNS;
    }
    RUNS.map(|run| match (run.part, run.back_end) {
        (Some(_), "kprobe") => Run { back_end: "fentry", ..run },
        (Some(_), _) => Run { back_end: "kprobe", ..run },
        // Where the flushes are not with kprobe now.
        (None, "kprobe") => Run { series: Some(Series::V6_12), ..run },
        (None, _) => run,
    })
}

/// A guest takes about five minutes on two idle cores, and longer beside another. One that prints nothing for 15 minutes is ended before.
const LIMIT: Duration = Duration::from_secs(2700);
/// Commits of one instant that are restored and checked, on each file system.
const INSTANTS: u64 = 4;
/// Cuts of power in the gate; `cargo xtask powercut` makes more.
const CUTS: u64 = 2;

pub(super) fn all(gate: &mut Gate, programs: &[Program], filter: Option<&str>) {
    if let Some(reason) = vm::obstacle() {
        gate.check("tier 3", |_| absent("vm", &format!("no guest can run: {reason}")));
        return;
    }
    let seed = seed();
    let mut runs: Vec<(Run, PathBuf)> = Vec::new();
    for run in runs_of(seed) {
        match programs.iter().find(|program| program.name == run.test) {
            // A guest that runs nothing is not worth its boot.
            Some(program) if filter.is_some_and(|filter| !has_test(&program.path, filter)) => {}
            Some(program) => runs.push((run, program.path.clone())),
            None => gate.tally.fail(&format!("tier 3: there is no test program {}", run.test)),
        }
    }
    if runs.is_empty() {
        return;
    }
    gate.say(&format!("   the matrix by seed {seed} (`{}`)", matrix::SEED));
    // Fetched one after the other, before any of them runs.
    let kernels: Vec<(Series, Kernel)> =
        Series::ALL.into_iter().filter_map(|series| Some((series, kernel(gate, series)?))).collect();
    let missing = kernels.len() < Series::ALL.len();
    let mut cuts = gate.part(gate.prefix.clone());
    let parts: Vec<Gate> = std::thread::scope(|scope| {
        let (ended, first) = channel();
        let started: Vec<_> = kernels
            .iter()
            .map(|(series, kernel)| {
                let (mut part, ended) = (gate.part(format!("{}{}: ", gate.prefix, series.name())), ended.clone());
                let script = script(*series, &runs, seed, filter);
                scope.spawn(move || {
                    guest(&mut part, *series, kernel, &script);
                    // Nobody may wait for it any more.
                    let _ = ended.send(());
                    part
                })
            })
            .collect();
        drop(ended);
        // One guest alone does not fill two processors. An error is a panic of all, which is seen below.
        if !missing && filter.is_none() && first.recv().is_ok() {
            power_cuts(&mut cuts);
        }
        // A panic of a part is one of the gate.
        started.into_iter().map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    for part in parts.into_iter().chain([cuts]) {
        gate.tally.add(part.tally);
    }
}

/// A few cuts.
fn power_cuts(gate: &mut Gate) {
    gate.check("tier 3: power cuts", |gate| {
        let options = powercut::Options::of_the_gate(CUTS);
        powercut::run(&options, &gate.log("power-cut"), |line| gate.say(&format!("   {line}")))?;
        Ok(Outcome::Passed)
    });
}

/// Whether some case matches.
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

fn guest(gate: &mut Gate, series: Series, kernel: &Kernel, script: &str) {
    let step = format!("tier 3: Linux {}", series.name());
    let request = Request { script, limit: LIMIT, disks: &[], cut: None };
    let prefix = gate.prefix.clone();
    tiers::follow(gate, &step, None, |log, each| {
        let code = vm::run(kernel, request, log, |line| {
            if line.starts_with("BACK END ") {
                println!("{prefix}   {line}");
            }
            each(line);
        })?;
        Ok((code != Some(0)).then(|| format!("exit code {code:?}")))
    });
}

/// The runs of this kernel one after the other. Before each stands what cargo would say, so that kernel and back end stand in
/// front of each name.
fn script(series: Series, runs: &[(Run, PathBuf)], seed: u64, filter: Option<&str>) -> String {
    let mut lines = Vec::new();
    for (run, program) in runs.iter().filter(|(run, _)| run.series.is_none_or(|only| only == series)) {
        let Run { series: _, test, back_end, cases, threads, part } = run;
        let mut variables = String::new();
        if *back_end != "auto" {
            variables.push_str(&format!("TRACKER_TEST_BACK_END={back_end} "));
        }
        if let Some(part) = part {
            variables.push_str(&format!("{}={part} {}={seed} ", matrix::PART, matrix::SEED));
        }
        if *test == "pauses" {
            // A look takes a guest twenty times longer.
            variables.push_str("TRACKER_TEST_PAUSE=500ms ");
        }
        if *test == "instant_databases" {
            let venv = sh::quote(&setup::folder("venv").display().to_string());
            variables.push_str(&format!("TRACKER_DATABASE_COMMITS={INSTANTS} TRACKER_TEST_VENV={venv} "));
        }
        lines.push(format!(
            "echo '     Running tests/{test}.rs ({test} under {}, {back_end}-0)'\n\
             {variables}{} --show-output --test-threads={threads} {}",
            series.name(),
            sh::quote(&program.display().to_string()),
            sh::quote(filter.unwrap_or(cases)),
        ));
    }
    sh::each_of(lines)
}

#[cfg(test)]
mod tests {
    use super::{RUNS, runs_of, script};
    use crate::matrix::{BACK_ENDS, FLUSHES, MARKS};
    use crate::vm::Series;

    #[test]
    fn the_runs_of_a_kernel_are_its_own_and_those_of_each() {
        let runs: Vec<_> = RUNS.into_iter().map(|run| (run, format!("/a b/{}", run.test).into())).collect();
        let old = script(Series::V6_1, &runs, 5, None);
        for text in [
            "(kernels under 6.1, auto-0)",
            "(instant_databases under 6.1, auto-0)'\nTRACKER_DATABASE_COMMITS=4 TRACKER_TEST_VENV=",
            "TRACKER_TEST_PAUSE=500ms '/a b/pauses'",
            "\n'/a b/kernels' --show-output --test-threads=2 ''",
            "TRACKER_TEST_BACK_END=kprobe '/a b/kernels' --show-output --test-threads=1 protects_and_restores",
            "TRACKER_TEST_BACK_END=kprobe TRACKER_MATRIX_PART=1/4 TRACKER_MATRIX_SEED=5 '/a b/matrix'",
            "TRACKER_TEST_BACK_END=fentry TRACKER_MATRIX_PART=2/4 TRACKER_MATRIX_SEED=5 '/a b/matrix_flush'",
        ] {
            assert!(old.contains(text), "{text} is not in {old}");
        }
        let new = script(Series::V6_12, &runs, 5, None);
        assert!(!new.contains("TRACKER_TEST_BACK_END=kprobe '/a b/kernels'"), "{new}");
        for text in [
            "(matrix under 6.12, fentry-0)",
            "PART=3/4 TRACKER_MATRIX_SEED=5 '/a b/matrix'",
            "PART=4/4 TRACKER_MATRIX_SEED=5 '/a b/matrix_flush'",
        ] {
            assert!(new.contains(text), "{text} is not in {new}");
        }
        assert!(!new.contains("1/4"), "{new}");
        assert!(script(Series::V6_1, &runs, 5, Some("reads")).contains("--test-threads=1 reads"));
    }

    #[test]
    fn each_oracle_has_each_kernel_and_back_end_and_each_part_is_run() {
        let (even, odd) = (runs_of(4), runs_of(5));
        for runs in [&even, &odd] {
            let count = |wanted: &dyn Fn(&super::Run) -> bool| runs.iter().filter(|run| wanted(run)).count();
            for oracle in [MARKS, FLUSHES] {
                let of = |wanted: &dyn Fn(&super::Run) -> bool| count(&|run| run.test == oracle.test && wanted(run));
                assert!(Series::ALL.iter().all(|series| of(&|run| run.series == Some(*series)) == 1), "{oracle:?}");
                assert!(BACK_ENDS.iter().all(|back_end| of(&|run| run.back_end == *back_end) == 1), "{oracle:?}");
            }
            assert!(["1/4", "2/4", "3/4", "4/4"].iter().all(|part| count(&|run| run.part == Some(part)) == 1));
            let with_kprobe = |run: &super::Run| run.back_end == "kprobe" && run.test != MARKS.test;
            for series in Series::ALL {
                assert_eq!(count(&|run| with_kprobe(run) && run.series == Some(series)), 1, "from end to end");
            }
        }
        let cells = even.iter().zip(&odd).filter(|(run, _)| run.part.is_some());
        assert!(cells.clone().count() == 4 && cells.clone().all(|(one, other)| one.back_end != other.back_end));
    }
}

//! Tier 3: the program from end to end under other kernels. One guest per kernel, one after the other.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Gate, Outcome, absent, tiers};
use crate::sh;
use crate::vm::{self, Request, Series};

/// The test program whose cases run in each guest.
const TESTS: &str = "kernels";
/// A guest takes about a minute on two idle cores; one that takes this long hangs.
const LIMIT: Duration = Duration::from_secs(300);

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
    for series in Series::ALL {
        guest(gate, series, &program, filter);
    }
}

/// Whether some case matches: a guest that runs none is not worth its boot.
fn has_test(program: &Path, filter: &str) -> bool {
    sh::output(Command::new(program).args(["--list", filter])).is_ok_and(|list| list.contains(": test"))
}

fn guest(gate: &mut Gate, series: Series, program: &Path, filter: Option<&str>) {
    let step = format!("tier 3: Linux {}", series.name());
    let mut kernel = None;
    gate.check(&format!("{step}: kernel"), |_| match vm::ensure(series) {
        Ok(found) => {
            kernel = Some(found);
            Ok(Outcome::Passed)
        }
        Err(error) => absent("vm", &format!("no kernel {}: {error}", series.name())),
    });
    let Some(kernel) = kernel else { return };
    // Two at a time: the cases share nothing, and the guest has two processors.
    let mut words = vec![program.display().to_string(), "--show-output".into(), "--test-threads=2".into()];
    words.extend(filter.map(str::to_owned));
    let request = Request { words: &words, variables: &vm::test_variables(), limit: LIMIT };
    // What cargo would say, so that the kernel stands in front of each name.
    let header = format!("     Running tests/{TESTS}.rs ({TESTS} under {}-0)", series.name());
    tiers::follow(gate, &step, Some(&header), |log, each| {
        let code = vm::run(&kernel, &request, log, |line| {
            if line.starts_with("BACK END ") {
                println!("   {line}");
            }
            each(line);
        })?;
        Ok((code != 0).then(|| format!("exit code {code}")))
    });
}

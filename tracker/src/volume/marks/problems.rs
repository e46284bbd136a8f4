//! Translates problems of a capture's health into causes for the volumes.

use crate::capture::Problem;

/// Why marks of single files were widened, in a closed set of words.
pub(crate) fn widened_by(problems: &[Problem]) -> Vec<&'static str> {
    let word = |problem: &Problem| match problem {
        Problem::Widened { counter: "dirty_full", .. } => Some("block map full"),
        Problem::Widened { counter: "inflight_full", .. } => Some("in-flight map full"),
        Problem::Widened { counter: "unreadable", .. } => Some("kernel struct unreadable"),
        Problem::Widened { counter: "cas_bound", .. } => Some("range contended"),
        _ => None,
    };
    problems.iter().filter_map(word).collect()
}

/// Causes of a full re-read, in a closed set of words, that no mark covers already.
pub(crate) fn reread_causes(problems: &[Problem]) -> Vec<&'static str> {
    let mut causes: Vec<&'static str> = Vec::new();
    for problem in problems {
        let word = match problem {
            Problem::LinkGone { .. } => "link gone",
            Problem::ProgramChanged { .. } => "program changed",
            Problem::Missed { .. } => "missed program run",
            Problem::Lapsed => "tracking paused",
            Problem::Widened { counter: "lost", .. } => "mark lost",
            // A mark or an overflow bit covers it (`widened_by`).
            Problem::Widened { .. } => continue,
        };
        tracing::warn!(?problem, "marks may be missing: everything is compared");
        causes.push(word);
    }
    causes.sort_unstable();
    causes.dedup();
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A missed run cannot be provoked at will; this tests what follows from the kernel's count of them.
    #[test]
    fn each_problem_of_the_capture_is_a_named_cause() {
        let found = [
            Problem::Missed { program: "dio_complete", runs: 3 },
            Problem::Missed { program: "dirty_folio", runs: 1 },
            Problem::LinkGone { program: "dirty_folio" },
            Problem::ProgramChanged { program: "dirty_folio" },
            Problem::Lapsed,
            Problem::Widened { counter: "lost", times: 1 },
            Problem::Widened { counter: "overflow", times: 9 },
            Problem::Widened { counter: "dirty_full", times: 9 },
        ];
        assert_eq!(
            reread_causes(&found),
            ["link gone", "mark lost", "missed program run", "program changed", "tracking paused"]
        );
        assert_eq!(widened_by(&found), ["block map full"]);
        assert_eq!(reread_causes(&[]), [""; 0]);
    }
}

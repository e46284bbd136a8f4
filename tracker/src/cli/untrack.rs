//! `tracker untrack`: removes captures from the kernel that nobody uses any more.

use std::path::Path;

use clap::Args;
use serde_json::json;

use super::global::Global;
use super::tracking;
use crate::capture::owner::Life;
use crate::capture::pin_sets::{self, PinSet};
use crate::error::{AppError, ExitCode};
use crate::output::Out;

/// Remove programs and maps that a tracker left in the kernel; what changes afterwards is found by comparing at the next start.
#[derive(Debug, Args)]
pub struct UntrackArgs {
    /// Which, as `tracker doctor` lists them [default: that of the state directory].
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// All of this host whose daemon is gone.
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
    /// Also if the daemon is or may be alive, or is unknown: a live one notices, attaches again and compares everything.
    #[arg(long)]
    pub force: bool,
}

pub(super) fn run(args: &UntrackArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let there = pin_sets::list(Path::new(pin_sets::ROOT))
        .map_err(|error| AppError::from_error(&error).hint("only root may look at what is pinned in the kernel"))?;
    let own = pin_sets::dir_of(&super::global::absolute(&global.state_dir()?)?);
    let chosen = choose(&there, args, &own)?;
    let mut refused = Vec::new();
    let mut removed = Vec::new();
    let mut meant = false;
    for set in chosen {
        let life = set.life();
        if life != Life::Dead && !args.force {
            meant |= is_meant(life, args.all);
            refused.push(format!("{} (its daemon is {})", set.id, tracking::word(life)));
            continue;
        }
        set.remove().map_err(|error| AppError::from_error(&error).hint("only root may remove what is pinned"))?;
        removed.push(set.id.as_str());
    }
    let mut text = match removed.len() {
        0 => "nothing was removed".to_owned(),
        _ => format!("removed {}", removed.join(", ")),
    };
    if args.all && !refused.is_empty() {
        text.push_str(&format!("\nnot removed: {}; --force removes them too", refused.join(", ")));
    }
    out.line(text, &json!({ "type": "untrack", "removed": removed, "refused": refused }))?;
    if !meant {
        return Ok(ExitCode::Ok);
    }
    Err(AppError::new(ExitCode::Guard, format_args!("not removed: {}", refused.join(", ")))
        .hint("stop the daemon first; --force removes it anyway"))
}

/// Whether keeping a capture is an error: with --all live ones are meant to stay, by name they were to be removed.
fn is_meant(life: Life, all: bool) -> bool {
    !all || life == Life::Unknown
}

fn choose<'a>(there: &'a [PinSet], args: &UntrackArgs, own: &Path) -> Result<Vec<&'a PinSet>, AppError> {
    if args.all {
        return Ok(there.iter().collect());
    }
    if args.ids.is_empty() {
        return Ok(there.iter().filter(|set| set.dir == own).collect());
    }
    let find = |id: &String| {
        there.iter().find(|set| set.id == *id).ok_or_else(|| {
            AppError::new(ExitCode::Absent, format_args!("nothing is tracked under {id}"))
                .hint("`tracker doctor` lists what is")
        })
    };
    args.ids.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_gone_only_where_what_is_left_lives() {
        for life in [Life::Alive, Life::PerhapsAlive] {
            assert!(!is_meant(life, true) && is_meant(life, false), "{life:?}");
        }
        assert!(is_meant(Life::Unknown, true) && is_meant(Life::Unknown, false), "nobody says that it lives");
    }

    #[test]
    fn what_is_removed_is_named_all_or_ones_own() {
        let set = |id: &str| PinSet {
            id: id.into(),
            dir: Path::new(pin_sets::ROOT).join(id),
            owner: None,
            kernel_bytes: 0,
            programs: 0,
            lease_left: None,
        };
        let there = [set("a"), set("b"), set("c")];
        let own = Path::new(pin_sets::ROOT).join("b");
        let chosen = |ids: &[&str], all| {
            let args = UntrackArgs { ids: ids.iter().map(|id| (*id).to_owned()).collect(), all, force: false };
            choose(&there, &args, &own).map(|sets| sets.iter().map(|set| set.id.clone()).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[], false).unwrap(), ["b"]);
        assert_eq!(chosen(&[], true).unwrap(), ["a", "b", "c"]);
        assert_eq!(chosen(&["c", "a"], false).unwrap(), ["c", "a"]);
        assert_eq!(chosen(&["x"], false).unwrap_err().code, ExitCode::Absent);
    }
}

//! `tracker pause-guard`: a process that a daemon starts before it pauses writers, and that lets them go on. For no person.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::error::{AppError, ExitCode};
use crate::pause::{Group, guard};

/// Watch over one pause of writers, for a daemon that talks to it by pipes.
#[derive(Debug, Args)]
pub struct PauseGuardArgs {
    /// Most microseconds of the pause.
    bound: u64,
    /// Id and directory of each control group, in turn.
    #[arg(num_args = 1..)]
    groups: Vec<String>,
}

pub(super) fn run(args: &PauseGuardArgs) -> Result<ExitCode, AppError> {
    let group = |pair: &[String]| match pair {
        [id, dir] => Some(Group { id: id.parse().ok()?, dir: PathBuf::from(dir) }),
        _ => None,
    };
    let Some(groups) = args.groups.chunks(2).map(group).collect::<Option<Vec<Group>>>() else {
        return Err(AppError::new(ExitCode::Usage, "not pairs of an id and a directory"));
    };
    let ended = guard::run(&groups, Duration::from_micros(args.bound), io::stdin(), io::stdout());
    ended.map_err(|error| AppError::new(ExitCode::Error, format_args!("the pause: {error}")))?;
    Ok(ExitCode::Ok)
}

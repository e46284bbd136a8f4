//! `tracker completions`: the completion script of a shell, on stdout.

use clap::Args;

use super::Out;
use crate::error::{AppError, ExitCode};

/// Print a completion script for a shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &CompletionsArgs, out: &mut Out) -> Result<ExitCode, AppError> {
    clap_complete::generate(args.shell, &mut super::command(), "tracker", out.raw());
    Ok(ExitCode::Ok)
}

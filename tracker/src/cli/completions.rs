//! `tracker completions`: the completion script of a shell, on stdout.

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::error::{AppError, ExitCode};
use crate::output::Out;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &CompletionsArgs, mut command: clap::Command, out: &mut Out) -> Result<ExitCode, AppError> {
    // Into memory, because the generator panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "tracker", &mut script);
    let script = String::from_utf8_lossy(&script);
    if out.is_json() {
        let shell = args.shell.to_possible_value();
        let shell = shell.as_ref().map_or("", |shell| shell.get_name());
        out.line("", &json!({ "type": "completions", "shell": shell, "script": script }))?;
    } else {
        out.text(script)?;
    }
    Ok(ExitCode::Ok)
}

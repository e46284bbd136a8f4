//! `tracker man`: the manual page, of the program or of one verb, as roff on stdout.

use std::fmt::Write;

use clap::{Args, Command};
use serde_json::json;

use crate::error::{AppError, ExitCode};
use crate::output::Out;

/// Print a manual page as roff (read it with `tracker man | man -l -`).
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The page of this verb instead of the program's.
    verb: Option<String>,
}

pub(super) fn run(args: &ManArgs, mut command: Command, out: &mut Out) -> Result<ExitCode, AppError> {
    command.build();
    let page = match &args.verb {
        None => command,
        Some(verb) => {
            let found = command.find_subcommand(verb).cloned();
            found.ok_or_else(|| {
                AppError::new(ExitCode::Usage, format_args!("there is no verb `{verb}`"))
                    .hint("`tracker --help` lists the verbs")
            })?
        }
    };
    let mut roff = Vec::new();
    clap_mangen::Man::new(page).render(&mut roff).map_err(|e| AppError::from_error(&e))?;
    let page = format!("{}{}", String::from_utf8_lossy(&roff), exit_codes());
    if out.is_json() {
        out.line("", &json!({ "type": "man", "verb": args.verb, "roff": page }))?;
    } else {
        out.text(page)?;
    }
    Ok(ExitCode::Ok)
}

fn exit_codes() -> String {
    let mut text = ".SH \"EXIT CODES\"\n".to_string();
    for code in ExitCode::ALL {
        // Writing to a String cannot fail.
        let _ = write!(text, ".TP\n{}\n{}\n", code.number(), code.meaning());
    }
    text
}

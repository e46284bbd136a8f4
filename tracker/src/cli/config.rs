//! `tracker config check`: reads a configuration as the daemon would, and says what is wrong with it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Global, Out};
use crate::config::{self, ConfigError, Problem};
use crate::error::{AppError, ExitCode};

/// Work on a configuration file.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Check a file: grammar, keys, values, and that no path feeds back into another.
    Check { file: PathBuf },
}

pub(super) fn run(args: &ConfigArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let ConfigVerb::Check { file } = &args.verb;
    match config::load(file, &global.state_dir()?) {
        Ok(config) => {
            let names: Vec<&str> = config.volumes.iter().map(|v| v.name.as_str()).collect();
            let text = format!("ok: {} ({})", file.display(), names.join(", "));
            out.line(text, &json!({ "type": "config", "ok": true, "volumes": names, "problems": [] }))?;
            Ok(ExitCode::Ok)
        }
        Err(ConfigError::Invalid { problems, .. }) => {
            let list: Vec<_> = problems.iter().map(|p| json!({ "line": p.line, "what": p.what })).collect();
            let text = problems.iter().map(|p| located(file, p)).collect::<Vec<_>>().join("\n");
            out.line(text, &json!({ "type": "config", "ok": false, "volumes": [], "problems": list }))?;
            Ok(ExitCode::Usage)
        }
        Err(error) => Err(error.into()),
    }
}

/// `FILE:LINE: what`, which editors can jump to.
fn located(file: &std::path::Path, problem: &Problem) -> String {
    match problem.line {
        Some(line) => format!("{}:{line}: {}", file.display(), problem.what),
        None => format!("{}: {}", file.display(), problem.what),
    }
}

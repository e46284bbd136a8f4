//! `tracker config check`: reads a configuration as the daemon would, and says what is wrong with it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::global::Global;
use crate::config::{self, ConfigError, Problem, guard};
use crate::daemon::control::Client;
use crate::error::{AppError, ExitCode};
use crate::output::Out;

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
    /// Let a running daemon read its file again, as SIGHUP does, and say what has changed.
    Reload,
}

pub(super) fn run(args: &ConfigArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let ConfigVerb::Check { file } = &args.verb else {
        let changes = Client::new(&global.state_dir()?).reload()?;
        let refused = changes.iter().filter(|change| change.is_refused()).count();
        let code = super::volume::tell(&changes, out)?;
        let object = json!({ "type": "reload", "changes": changes.len(), "refused": refused });
        out.line(format!("the configuration was read again: {} changes, {refused} refused", changes.len()), &object)?;
        return Ok(code);
    };
    match config::load(file, &global.state_dir()?) {
        Ok(config) => {
            let names: Vec<&str> = config.volumes.iter().map(|v| v.name.as_str()).collect();
            let mut text = format!("ok: {} ({})", file.display(), names.join(", "));
            // Not a problem of the file; the daemon waits for them.
            let away = guard::check_paths(&config.guarded(), &global.state_dir()?, &[]);
            let away: Vec<String> = away.iter().filter(|e| e.kind.is_away()).map(|e| e.to_string()).collect();
            away.iter().for_each(|what| text.push_str(&format!("\nwaits: {what}")));
            let object = json!({ "type": "config", "ok": true, "volumes": names, "problems": [], "waits": away });
            out.line(text, &object)?;
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

/// `FILE:LINE: what`, to which editors can jump.
fn located(file: &std::path::Path, problem: &Problem) -> String {
    match problem.line {
        Some(line) => format!("{}:{line}: {}", file.display(), problem.what),
        None => format!("{}: {}", file.display(), problem.what),
    }
}

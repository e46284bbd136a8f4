//! `tracker acknowledge`: a person has seen that write-back failed.

use clap::Args;
use serde_json::json;

use super::global::Global;
use crate::daemon::control::Client;
use crate::error::{AppError, ExitCode};
use crate::output::Out;

/// Acknowledge a volume's write-back errors: they no longer make it degraded.
#[derive(Debug, Args)]
pub struct AcknowledgeArgs {
    /// The volume, as `tracker status` names it.
    volume: String,
}

pub(super) fn run(args: &AcknowledgeArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let client = Client::new(&global.state_dir()?);
    let found = client.status()?.into_iter().find(|volume| volume.volume == args.volume);
    let seen = found.and_then(|volume| volume.write_back);
    client.acknowledge(&args.volume)?;
    let text = match &seen {
        Some(errors) => format!("{}: acknowledged: {errors}", args.volume),
        None => format!("{}: there was nothing to acknowledge", args.volume),
    };
    out.line(text, &json!({ "type": "acknowledge", "volume": args.volume, "write_back": seen }))?;
    Ok(ExitCode::Ok)
}

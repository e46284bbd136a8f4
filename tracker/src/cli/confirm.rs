//! `tracker confirm`: a person confirms the removals that the guard against mass deletion holds back.

use clap::Args;
use serde_json::json;

use super::global::Global;
use crate::daemon::control::Client;
use crate::error::{AppError, ExitCode};
use crate::output::Out;

/// Confirm the removals of a volume that wait for a person: those that wait now, no later ones.
#[derive(Debug, Args)]
pub struct ConfirmArgs {
    /// The volume, as `tracker status` names it.
    volume: String,
}

pub(super) fn run(args: &ConfirmArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let client = Client::new(&global.state_dir()?);
    let found = client.status()?.into_iter().find(|volume| volume.volume == args.volume);
    let removals = found.map_or(0, |volume| volume.removals_held);
    client.confirm(&args.volume)?;
    let text = match removals {
        0 => format!("{}: there was nothing to confirm", args.volume),
        _ => format!("{}: confirmed: the removal of {removals} files", args.volume),
    };
    out.line(text, &json!({ "type": "confirm", "volume": args.volume, "removals": removals }))?;
    Ok(ExitCode::Ok)
}

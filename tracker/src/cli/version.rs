//! `tracker version`.

use clap::Args;
use serde_json::json;

use crate::error::{AppError, ExitCode};
use crate::output::Out;

/// Print the version.
#[derive(Debug, Args)]
pub struct VersionArgs {}

pub(super) fn run(_args: &VersionArgs, out: &mut Out) -> Result<ExitCode, AppError> {
    let version = env!("CARGO_PKG_VERSION");
    out.line(format_args!("tracker {version}"), &json!({ "type": "version", "version": version }))?;
    Ok(ExitCode::Ok)
}

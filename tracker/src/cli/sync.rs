//! `tracker sync`: the barrier. With `--wait`, exit code 0 means that all changes made before the call are committed.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{Global, Out};
use crate::control::Client;
use crate::error::{AppError, ExitCode};
use crate::units::parse_duration;

/// Commit now. With --wait, return once every change made before the call is committed.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Only this volume.
    volume: Option<String>,
    /// Wait for the commit; exit with 3 or 20 when something is still open at the timeout.
    #[arg(long)]
    wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration, requires = "wait")]
    timeout: Duration,
}

pub(super) fn run(args: &SyncArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let client = Client::new(&global.state_dir()?);
    let volume = args.volume.as_deref();
    if !args.wait {
        client.sync(volume, Duration::ZERO)?;
        out.line("a flush was asked for; --wait waits for it", &json!({ "type": "sync", "waited": false }))?;
        return Ok(ExitCode::Ok);
    }
    let reply = client.sync(volume, args.timeout)?;
    let code = reply.exit_code();
    let mut text = match code {
        ExitCode::Ok => format!("synced: commit {}", reply.seq),
        _ => format!("not everything is synced (head is commit {})", reply.seq),
    };
    for what in &reply.degraded {
        text.push_str(&format!("\ndegraded: {what}"));
    }
    for what in &reply.partial {
        text.push_str(&format!("\nopen: {what}"));
    }
    let (partial, degraded) = (&reply.partial, &reply.degraded);
    let object = json!({
        "type": "sync", "waited": true, "seq": reply.seq, "partial": partial, "degraded": degraded, "code": code,
    });
    out.line(text, &object)?;
    Ok(code)
}

//! `tracker sync`: the barrier. With `--wait`, exit code 0 means that all changes made before the call are committed.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::global::Global;
use crate::daemon::control::Client;
use crate::error::{AppError, ExitCode};
use crate::output::Out;
use crate::units::parse_duration;
use crate::volume::status::VolumeSync;

/// Commit now. With --wait, return once every change made before the call is committed.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Only this volume.
    volume: Option<String>,
    /// Wait for the commit; exit with 3 or 20 when something is still open at the timeout.
    #[arg(long)]
    wait: bool,
    /// Wait until it is in a commit that is the state of one instant of the whole tree.
    #[arg(long, requires = "wait")]
    instant: bool,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration, requires = "wait")]
    timeout: Duration,
}

pub(super) fn run(args: &SyncArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let client = Client::new(&global.state_dir()?);
    let volume = args.volume.as_deref();
    if !args.wait {
        client.sync(volume, Duration::ZERO, false)?;
        out.line("a flush was asked for; --wait waits for it", &json!({ "type": "sync", "waited": false }))?;
        return Ok(ExitCode::Ok);
    }
    let reply = client.sync(volume, args.timeout, args.instant)?;
    let several = reply.volumes.len() > 1;
    for volume in &reply.volumes {
        out.line(
            text(volume, several),
            &Line { r#type: "sync", waited: true, code: volume.exit_code(), sync: volume },
        )?;
    }
    Ok(reply.exit_code())
}

/// One volume as an object, or as a line if all is well.
#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    waited: bool,
    #[serde(flatten)]
    sync: &'a VolumeSync,
    code: ExitCode,
}

fn text(sync: &VolumeSync, several: bool) -> String {
    let of = if several { format!("{}: ", sync.volume) } else { String::new() };
    let mut text = match sync.exit_code() {
        ExitCode::Ok => format!("{of}synced: commit {}", sync.seq),
        _ => format!("{of}not everything is synced (head is commit {})", sync.seq),
    };
    for (word, list) in [("degraded", &sync.degraded), ("open", &sync.partial)] {
        for what in list {
            text.push_str(&format!("\n{word}: {}: {what}", sync.volume));
        }
    }
    if let Some(failure) = &sync.failure {
        text.push_str(&format!("\nended: {}: {failure}", sync.volume));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::AppError;

    #[test]
    fn each_volume_has_its_line() {
        let fine = VolumeSync { volume: "a".into(), seq: 7, ..VolumeSync::default() };
        assert_eq!(text(&fine, false), "synced: commit 7");
        assert_eq!(text(&fine, true), "a: synced: commit 7");
        let open = VolumeSync { volume: "b".into(), seq: 3, partial: vec!["x: EIO".into()], ..VolumeSync::default() };
        assert_eq!(text(&open, true), "b: not everything is synced (head is commit 3)\nopen: b: x: EIO");
        let failure = Some(AppError::new(ExitCode::Locked, "another writer"));
        let ended = VolumeSync { volume: "c".into(), failure, ..VolumeSync::default() };
        assert_eq!(text(&ended, true), "c: not everything is synced (head is commit 0)\nended: c: another writer");
        let line = Line { r#type: "sync", waited: true, code: open.exit_code(), sync: &open };
        let line = serde_json::to_value(&line).unwrap();
        assert_eq!((&line["volume"], &line["seq"], &line["code"]), (&"b".into(), &3.into(), &3.into()));
    }
}

//! `tracker restore`: gives a volume back, as of a point in its history, into a directory.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{Global, Out, not_in_this_build};
use crate::error::{AppError, ExitCode};
use crate::location::VolumeRef;
use crate::units::{At, show_bytes, show_seconds};

/// Restore a volume into a directory; every file is verified before it is moved into place.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The volume, as STORE/VOLUME.
    #[arg(value_name = "STORE/VOLUME")]
    pub volume: VolumeRef,
    /// Where to; it must be absent or empty unless --merge is given.
    pub target: PathBuf,
    /// This commit, or the last one not later than this time [default: the newest].
    #[arg(long, value_name = "SEQ|TIME")]
    pub at: Option<At>,
    /// Onto an existing tree: fetch only what differs, remove what the volume does not have.
    #[arg(long)]
    pub merge: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// The store belongs to others: leave out devices and setuid bits.
    #[arg(long)]
    pub untrusted: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    pub at: Option<At>,
    pub merge: bool,
    pub dry_run: bool,
    pub untrusted: bool,
}

/// What a restore did, or with `dry_run` would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RestoreReport {
    pub seq: u64,
    /// RFC 3339.
    pub time: String,
    pub files: u64,
    /// Of the restored files.
    pub bytes: u64,
    /// Fetched from the store.
    pub fetched_bytes: u64,
    pub requests: u64,
    pub seconds: f64,
    /// What could not be restored as it was (an owner without the right to set it, ..): exit code 3 unless empty.
    pub partial: Vec<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    dry_run: bool,
    #[serde(flatten)]
    report: &'a RestoreReport,
}

pub(super) fn run(args: &RestoreArgs, _global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let (merge, dry_run, untrusted) = (args.merge, args.dry_run, args.untrusted);
    let options = RestoreOptions { at: args.at, merge, dry_run, untrusted };
    let target = super::absolute(&args.target)?;
    check_target(&target, &options)?;
    let report = restore(&args.volume, &target, &options)?;
    out.line(text(&report, dry_run), &Line { r#type: "restored", dry_run, report: &report })?;
    Ok(if report.partial.is_empty() { ExitCode::Ok } else { ExitCode::Partial })
}

/// Refuses what a restore could destroy.
fn check_target(target: &Path, options: &RestoreOptions) -> Result<(), AppError> {
    let shown = target.display();
    let mut entries = match std::fs::read_dir(target) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(AppError::new(ExitCode::Guard, format_args!("the target {shown} is not a directory"))
                .hint("name a directory that is absent or empty"));
        }
        Err(e) => return Err(AppError::new(ExitCode::Error, format_args!("cannot look into {shown}: {e}"))),
    };
    if options.merge || entries.next().is_none() {
        return Ok(());
    }
    Err(AppError::new(ExitCode::Guard, format_args!("the target {shown} is not empty"))
        .hint("restore into an absent or empty directory, or make the target equal to the volume with --merge"))
}

fn text(report: &RestoreReport, dry_run: bool) -> String {
    let did = if dry_run { "would restore" } else { "restored" };
    let (files, bytes) = (report.files, show_bytes(report.bytes));
    let (fetched, requests, seconds) =
        (show_bytes(report.fetched_bytes), report.requests, show_seconds(report.seconds));
    let mut text = format!("{did} commit {} of {}: {files} files, {bytes}", report.seq, report.time);
    text.push_str(&format!(" ({fetched} fetched by {requests} requests in {seconds})"));
    for what in &report.partial {
        text.push_str(&format!("\npartial: {what}"));
    }
    text
}

/// PLACEHOLDER: restores the volume into `target`, which passed `check_target`.
fn restore(_volume: &VolumeRef, _target: &Path, _options: &RestoreOptions) -> Result<RestoreReport, AppError> {
    Err(not_in_this_build("restore"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_with_something_in_it_is_refused_unless_merged() {
        let dir = tempfile::tempdir().unwrap();
        let plain = RestoreOptions::default();
        let merge = RestoreOptions { merge: true, ..plain };
        assert!(check_target(dir.path(), &plain).is_ok(), "an empty directory is fine");
        assert!(check_target(&dir.path().join("new/below"), &plain).is_ok(), "an absent one too");
        let file = dir.path().join("f");
        std::fs::write(&file, "x").unwrap();
        let refused = check_target(dir.path(), &plain).unwrap_err();
        assert_eq!(refused.code, ExitCode::Guard);
        assert!(refused.hint.is_some_and(|hint| hint.contains("--merge")));
        assert!(check_target(dir.path(), &merge).is_ok());
        assert_eq!(check_target(&file, &merge).unwrap_err().code, ExitCode::Guard);
    }
}

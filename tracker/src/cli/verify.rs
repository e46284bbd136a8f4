//! `tracker verify`: checks that the store holds what was committed.

use clap::Args;
use engine::model::Seq;
use serde::Serialize;

use super::global::Global;
use super::reading::{INCOMPLETE, app_error, choose, open};
use crate::error::{AppError, ExitCode};
use crate::output::Out;
use crate::repository;
use crate::repository::VerifyReport;
use crate::repository::location::VolumeRef;
use crate::units::{At, show_bytes};

/// Check the commits of a volume; with --read-data also every byte that they refer to.
///
/// Exit code 3 means that nothing is damaged, but the baseline is not complete: files are missing.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The volume, as STORE/VOLUME.
    #[arg(value_name = "STORE/VOLUME")]
    pub volume: VolumeRef,
    /// Up to this commit, or the last one not later than this time [default: the newest].
    #[arg(long, value_name = "SEQ|TIME")]
    pub at: Option<At>,
    /// Read all data and compare every file with its root.
    #[arg(long)]
    pub read_data: bool,
    /// Fail with 21 if the volume's newest commit is before this one: its history was cut off.
    #[arg(long, value_name = "SEQ")]
    pub expect_head: Option<u64>,
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    ok: bool,
    read_data: bool,
    #[serde(flatten)]
    report: &'a VerifyReport,
}

pub(super) fn run(args: &VerifyArgs, _global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let report = verify(args, out)?;
    let code = match (report.mismatches.is_empty(), report.baseline) {
        (false, _) => ExitCode::Mismatch,
        (true, Some(false)) => ExitCode::Partial,
        (true, _) => ExitCode::Ok,
    };
    let ok = code == ExitCode::Ok;
    let line = Line { r#type: "verified", ok, read_data: args.read_data, report: &report };
    out.line(text(&report), &line)?;
    Ok(code)
}

fn text(report: &VerifyReport) -> String {
    let VerifyReport { seq, baseline, first, commits, objects, files, bytes_read, mismatches, mismatch_count } = report;
    let verdict = match (mismatches.is_empty(), baseline) {
        (false, _) => "damaged",
        (true, Some(false)) => "incomplete",
        (true, _) => "ok",
    };
    let read = show_bytes(*bytes_read);
    let mut text = format!(
        "{verdict}: commits {first} to {seq}, {commits} commits, {objects} objects, {files} files, {read} read"
    );
    match baseline {
        Some(false) => text.push_str(&format!("\n{INCOMPLETE}")),
        Some(true) => {}
        None if mismatches.is_empty() => {
            text.push_str("\nnot recorded: whether the baseline is complete");
        }
        None => {}
    }
    for what in mismatches {
        text.push_str(&format!("\nmismatch: {what}"));
    }
    if *mismatch_count > mismatches.len() as u64 {
        text.push_str(&format!("\nmismatch: .. {mismatch_count} in all"));
    }
    text
}

/// Walks the hash chain; with `read_data` also rebuilds every file, in bounded memory.
fn verify(args: &VerifyArgs, out: &mut Out) -> Result<VerifyReport, AppError> {
    let reader = open(&args.volume)?;
    let expected = args.expect_head.map_or(Ok(()), |head| reader.expect_head(Seq(head)));
    expected.map_err(|error| app_error(&error))?;
    let seq = choose(&reader, args.at, out)?;
    repository::verify(&reader, seq, args.read_data).map_err(|error| app_error(&error))
}

//! `tracker log`: the commits of a volume, newest first.

use clap::Args;
use serde::Serialize;

use super::Out;
use super::status::columns;
use super::volume::{app_error, nanos, open};
use crate::cli::Global;
use crate::error::{AppError, ExitCode};
use crate::location::VolumeRef;
use crate::reading::ReadError;
use crate::units::{At, rfc3339, show_bytes};

/// List the commits of a volume, newest first.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The volume, as STORE/VOLUME.
    #[arg(value_name = "STORE/VOLUME")]
    pub volume: VolumeRef,
    /// Begin at this commit, or at the last one not later than this time [default: the newest].
    #[arg(long, value_name = "SEQ|TIME")]
    pub at: Option<At>,
    /// At most this many commits.
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "20", value_parser = at_least_one)]
    pub limit: usize,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| format!("`{text}` is no number of commits"))
}

/// One commit, as `log` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub seq: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    pub writer_epoch: u64,
    /// Files whose content or attributes changed.
    pub files: u64,
    /// Names set and unset.
    pub names: u64,
    /// Plain bytes of new literals.
    pub literal_bytes: u64,
    /// Bytes of the commit object and its packs as stored.
    pub stored_bytes: u64,
}

#[derive(Serialize)]
struct Line {
    r#type: &'static str,
    seq: u64,
    time: String,
    writer_epoch: u64,
    files: u64,
    names: u64,
    literal_bytes: u64,
    stored_bytes: u64,
}

pub(super) fn run(args: &LogArgs, _global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let entries = read_log(&args.volume, args.at, args.limit)?;
    if out.is_json() {
        for e in &entries {
            let (seq, writer_epoch, files, names) = (e.seq, e.writer_epoch, e.files, e.names);
            let (literal_bytes, stored_bytes) = (e.literal_bytes, e.stored_bytes);
            let time = rfc3339(e.time);
            out.line(
                "",
                &Line { r#type: "commit", seq, time, writer_epoch, files, names, literal_bytes, stored_bytes },
            )?;
        }
        return Ok(ExitCode::Ok);
    }
    out.text(table(&entries))?;
    Ok(ExitCode::Ok)
}

fn table(entries: &[LogEntry]) -> String {
    let mut rows = vec![["SEQ", "TIME", "FILES", "NAMES", "NEW", "STORED"].map(str::to_string)];
    rows.extend(entries.iter().map(|e| {
        [
            e.seq.to_string(),
            rfc3339(e.time),
            e.files.to_string(),
            e.names.to_string(),
            show_bytes(e.literal_bytes),
            show_bytes(e.stored_bytes),
        ]
    }));
    columns(&rows)
}

/// Reads at most `limit` commits downwards from `at` (or head), each checked against the hash chain.
fn read_log(volume: &VolumeRef, at: Option<At>, limit: usize) -> Result<Vec<LogEntry>, AppError> {
    let reader = open(volume)?;
    let mut entries = Vec::new();
    let from = reader.resolve(at).map_err(|error| app_error(&error))?;
    let read: Result<(), ReadError> = reader.history(from, limit, |commit| {
        entries.push(LogEntry {
            seq: commit.seq,
            time: nanos(commit.time),
            writer_epoch: commit.epoch,
            files: commit.files,
            names: commit.names,
            literal_bytes: commit.literal_bytes,
            stored_bytes: commit.stored_bytes,
        });
        Ok(())
    });
    read.map_err(|error| app_error(&error))?;
    Ok(entries)
}

//! `tracker log`: the commits of a volume, newest first.

use clap::Args;
use serde::Serialize;

use super::reading::{app_error, choose, open};
use super::table::columns;
use crate::cli::Global;
use crate::error::{AppError, ExitCode};
use crate::output::Out;
use crate::repository::location::VolumeRef;
use crate::repository::{ConsistencyField, ReadError};
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
    /// Nanoseconds since 1970; rises from commit to commit, whatever the clock did.
    pub time: u64,
    /// The wall clock, unadjusted.
    pub wall: u64,
    /// Whether the wall clock is before that of the previous commit.
    pub clock_set_back: bool,
    /// Whether the baseline is complete at it; `None`: it does not record that.
    pub baseline: Option<bool>,
    /// Whether it is the state of one instant; `None`: it does not record that.
    pub consistency: Option<ConsistencyField>,
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
    wall: String,
    clock_set_back: bool,
    baseline: Option<bool>,
    consistency: Option<ConsistencyField>,
    writer_epoch: u64,
    files: u64,
    names: u64,
    literal_bytes: u64,
    stored_bytes: u64,
}

pub(super) fn run(args: &LogArgs, _global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let entries = read_log(args, out)?;
    if out.is_json() {
        for e in &entries {
            let (seq, writer_epoch, files, names) = (e.seq, e.writer_epoch, e.files, e.names);
            let (literal_bytes, stored_bytes) = (e.literal_bytes, e.stored_bytes);
            let (time, wall) = (rfc3339(e.time), rfc3339(e.wall));
            let (clock_set_back, baseline, consistency) = (e.clock_set_back, e.baseline, e.consistency.clone());
            let line = Line {
                r#type: "commit",
                seq,
                time,
                wall,
                clock_set_back,
                baseline,
                consistency,
                writer_epoch,
                files,
                names,
                literal_bytes,
                stored_bytes,
            };
            out.line("", &line)?;
        }
        return Ok(ExitCode::Ok);
    }
    out.text(table(&entries))?;
    Ok(ExitCode::Ok)
}

fn table(entries: &[LogEntry]) -> String {
    let mut rows = vec![["SEQ", "TIME", "FILES", "NAMES", "NEW", "STORED", "CONSISTENCY", "NOTE"].map(str::to_string)];
    rows.extend(entries.iter().map(|e| {
        [
            e.seq.to_string(),
            rfc3339(e.wall),
            e.files.to_string(),
            e.names.to_string(),
            show_bytes(e.literal_bytes),
            show_bytes(e.stored_bytes),
            e.consistency.as_ref().map_or_else(|| "-".to_string(), ToString::to_string),
            note(e),
        ]
    }));
    columns(&rows)
}

fn note(entry: &LogEntry) -> String {
    let incomplete = (entry.baseline == Some(false)).then_some("baseline incomplete");
    let set_back = entry.clock_set_back.then_some("clock set back");
    incomplete.into_iter().chain(set_back).collect::<Vec<_>>().join(", ")
}

/// Reads at most `limit` commits downwards from `at` (or the head), each checked against the hash chain.
fn read_log(args: &LogArgs, out: &mut Out) -> Result<Vec<LogEntry>, AppError> {
    let reader = open(&args.volume)?;
    let mut entries = Vec::new();
    let from = choose(&reader, args.at, out)?;
    let read: Result<(), ReadError> = reader.history(from, args.limit, |commit| {
        entries.push(LogEntry {
            seq: commit.seq.0,
            time: commit.time.unix_ns(),
            wall: commit.wall.unix_ns(),
            clock_set_back: commit.set_back,
            baseline: commit.baseline,
            consistency: commit.consistency.map(ConsistencyField::from),
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

//! `tracker restore`: gives a volume back, as of a point in its history, into a directory.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::volume::{INCOMPLETE, app_error, choose, open, show_time};
use super::{Global, Out};
use crate::error::{AppError, ExitCode};
use crate::location::VolumeRef;
use crate::reading::{self, RestoreOptions};
use crate::source::target::{Shortfall, Warning};
use crate::units::{At, PathField, show_bytes, show_seconds};

/// Lines about what could not be restored that people get; `--json` gives the first 1,000.
const SHOWN: usize = 20;

/// Restore a volume into a directory; every file is verified before it is moved into place.
///
/// Exit code 3 says that all content is there, but some attribute or device is not: restoring owners, devices and some
/// extended attributes needs root. It also says that the first copy had not ended (see --partial).
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
    /// Onto an existing tree: files whose content is equal already are not fetched, others are replaced as a whole. It
    /// does not remove what the volume does not have, and it does not keep changes made to files the volume has.
    #[arg(long)]
    pub merge: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// The store belongs to others: leave out devices, setuid and setgid bits and file capabilities.
    #[arg(long)]
    pub untrusted: bool,
    /// Also a commit behind which no complete baseline stands: the first copy had not ended, and what it had is restored.
    #[arg(long)]
    pub partial: bool,
    /// Fail with 21 when the volume's newest commit is before this one: its history was cut off.
    #[arg(long, value_name = "SEQ")]
    pub expect_head: Option<u64>,
}

/// What a restore did, or with `dry_run` would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct RestoreReport {
    pub seq: u64,
    /// RFC 3339.
    pub time: String,
    /// Whether a complete baseline stands behind the commit; null: it does not record that.
    pub baseline: Option<bool>,
    /// Regular files; the other kinds are counted below.
    pub files: u64,
    pub dirs: u64,
    pub symlinks: u64,
    /// Devices, fifos, sockets.
    pub special: u64,
    /// Names beyond the first of a file.
    pub hard_links: u64,
    /// Of the restored files.
    pub bytes: u64,
    /// Of these, in holes.
    pub hole_bytes: u64,
    /// Files of an existing tree that were equal already (`--merge`).
    pub kept: u64,
    /// Objects that hold what had to be fetched.
    pub objects: u64,
    /// Fetched from the store for the files' content.
    pub fetched_bytes: u64,
    /// Requests for the files' content.
    pub requests: u64,
    pub seconds: f64,
    /// What could not be restored as it was (an owner without the right to set it, ..): exit code 3 unless empty.
    pub partial: Vec<Shortcoming>,
    /// How many there are; the list ends at 1,000.
    pub partial_count: u64,
    /// What `--untrusted` left out: no reason for exit code 3.
    pub left_out: Vec<Shortcoming>,
}

/// One attribute or device that is not as it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Shortcoming {
    #[serde(flatten)]
    pub path: PathField,
    pub what: String,
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
    let options = RestoreOptions { merge, dry_run, untrusted, partial: args.partial };
    let target = super::absolute(&args.target)?;
    // Before the store is asked: a wrong target is said at once.
    reading::check_target(&target, merge).map_err(|error| app_error(&error))?;
    let began = Instant::now();
    let reader = open(&args.volume)?;
    if let Some(head) = args.expect_head {
        reader.expect_head(head).map_err(|error| app_error(&error))?;
    }
    let seq = choose(&reader, args.at, out)?;
    let restored = reading::restore(&reader, seq, &target, &options).map_err(|error| app_error(&error))?;
    let report = report(&restored, untrusted, began.elapsed().as_secs_f64());
    out.line(text(&report, dry_run), &Line { r#type: "restored", dry_run, report: &report })?;
    Ok(if report.partial_count == 0 && report.baseline != Some(false) { ExitCode::Ok } else { ExitCode::Partial })
}

fn report(restored: &reading::RestoreReport, untrusted: bool, seconds: f64) -> RestoreReport {
    let stats = restored.stats;
    let (warnings, count) = &restored.warnings;
    let by_wish = |warning: &&Warning| untrusted && matches!(warning.what, Shortfall::Device | Shortfall::Privilege);
    let (left_out, partial): (Vec<&Warning>, Vec<&Warning>) = warnings.iter().partition(by_wish);
    let left_out_count = left_out.len() as u64;
    RestoreReport {
        seq: restored.seq,
        time: show_time(restored.time),
        baseline: restored.baseline,
        files: stats.files,
        dirs: stats.dirs,
        symlinks: stats.symlinks,
        special: stats.special,
        hard_links: stats.hard_links,
        bytes: stats.bytes,
        hole_bytes: stats.hole_bytes,
        kept: restored.kept,
        objects: restored.objects,
        fetched_bytes: restored.fetched_bytes,
        requests: restored.requests,
        seconds,
        partial: partial.into_iter().map(shortcoming).collect(),
        partial_count: count.saturating_sub(left_out_count),
        left_out: left_out.into_iter().map(shortcoming).collect(),
    }
}

fn shortcoming(warning: &Warning) -> Shortcoming {
    use std::os::unix::ffi::OsStrExt;
    let what = match &warning.what {
        Shortfall::Owner { uid, gid } => format!("owner {uid}:{gid} not set, setuid and setgid bits left out"),
        Shortfall::Xattr { name, cause } => format!("attribute {}: {cause}", PathField::new(name).for_people()),
        Shortfall::Device => "device not made".to_string(),
        Shortfall::Privilege => "setuid or setgid bit or file capability left out".to_string(),
    };
    Shortcoming { path: PathField::new(warning.path.as_os_str().as_bytes()), what }
}

fn text(report: &RestoreReport, dry_run: bool) -> String {
    let did = if dry_run { "would restore" } else { "restored" };
    let (files, bytes) = (report.files, show_bytes(report.bytes));
    let (fetched, requests, seconds) =
        (show_bytes(report.fetched_bytes), report.requests, show_seconds(report.seconds));
    let mut text = format!("{did} commit {} of {}: {files} files, {bytes}", report.seq, report.time);
    let (verb, objects) = (if dry_run { "to fetch" } else { "fetched" }, report.objects);
    text.push_str(&format!(" ({fetched} {verb} from {objects} objects by {requests} requests, {seconds})"));
    if report.kept > 0 {
        text.push_str(&format!("; {} files were equal already", report.kept));
    }
    if report.baseline == Some(false) {
        text.push_str(&format!("\nincomplete: {INCOMPLETE}"));
    }
    for (word, list) in [("partial", &report.partial), ("left out", &report.left_out)] {
        for what in list.iter().take(SHOWN) {
            text.push_str(&format!("\n{word}: {}: {}", what.path.for_people(), what.what));
        }
        if list.len() > SHOWN {
            text.push_str(&format!("\n{word}: .. and {} more", list.len() - SHOWN));
        }
    }
    text
}

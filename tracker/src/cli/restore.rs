//! `tracker restore`: restores a volume, as of a point in its history, into a directory.

use engine::model::Seq;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::global::Global;
use super::instant::{self, OlderInstant, Told};
use super::reading::{INCOMPLETE, app_error, choose, open, show_time};
use crate::config::guard;
use crate::error::{AppError, ExitCode};
use crate::output::Out;
use crate::quoting::quote_path;
use crate::repository;
use crate::repository::location::VolumeRef;
use crate::repository::{ConsistencyField, Failure, Older, ReadError, Reader, RestoreOptions};
use crate::target::{Bounded, Shortfall, Warning, remove_areas};
use crate::units::{At, PathField, show_bytes, show_seconds};

/// How many lines about what could not be restored are printed for people; `--json` lists the first 1,000.
const SHOWN: usize = 20;
/// How long the restore may take to end after a signal.
const GRACE: Duration = Duration::from_secs(5);

/// Restore a volume into a directory; every file is verified before it is moved into place.
///
/// Exit code 3 means that something is missing, and names it: an entry that could not be read or created, or an attribute
/// or device (owners, devices and some extended attributes need root). Everything else is restored. The target is closed to
/// other users until the end, and stays so if the restore did not complete. Code 3 also means that the baseline is not
/// complete (see --partial).
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
    /// The newest commit at or before it that is the state of one instant of the whole tree.
    #[arg(long)]
    pub instant: bool,
    /// Restore into an existing tree: files whose content is equal already are not fetched, others are replaced as a whole.
    /// It does not remove what the volume does not have, and it does not keep changes made to files the volume has.
    #[arg(long)]
    pub merge: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// The store is not trusted: leave out devices, setuid and setgid bits, file capabilities, the flags immutable and
    /// append-only, and projects.
    #[arg(long)]
    pub untrusted: bool,
    /// Restore a commit without a complete baseline too: what the first copy has so far.
    #[arg(long)]
    pub partial: bool,
    /// Fail with 21 if the volume's newest commit is before this one: its history was cut off.
    #[arg(long, value_name = "SEQ")]
    pub expect_head: Option<u64>,
}

/// What a restore did, or with `dry_run` would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct RestoreAnswer {
    pub seq: u64,
    /// RFC 3339.
    pub time: String,
    /// Whether the baseline is complete at the commit; null: it does not record that.
    pub baseline: Option<bool>,
    /// Whether the commit is the state of one instant; null: it does not record that.
    pub consistency: Option<ConsistencyField>,
    /// Where it is not: the newest one before it that is, if one was found.
    pub newest_instant: Option<OlderInstant>,
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
    /// Bytes fetched from the store for the files' content.
    pub fetched_bytes: u64,
    /// Requests for the files' content.
    pub requests: u64,
    /// Temporary files of an older version's interrupted restore, removed from the target.
    pub leftovers_removed: u64,
    pub seconds: f64,
    /// Entries that were not restored, the first 1,000, and how many there are: exit code 3 unless empty. What was at their
    /// place before is still there.
    pub failed: Vec<FailedEntry>,
    pub failed_count: u64,
    /// What could not be restored as it was (an owner without the right to set it, ..): exit code 3 unless empty.
    pub partial: Vec<Shortcoming>,
    /// How many there are; the list ends at 1,000.
    pub partial_count: u64,
    /// What `--untrusted` left out, which does not cause exit code 3. The first 1,000, and how many there are.
    pub left_out: Vec<Shortcoming>,
    pub left_out_count: u64,
}

/// One entry that is not restored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct FailedEntry {
    #[serde(flatten)]
    pub path: PathField,
    pub cause: String,
    /// For damaged content: the newest older commit with an undamaged version of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_in: Option<u64>,
    /// Its time, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_in_time: Option<String>,
    /// For damaged content, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older: Option<String>,
}

/// One attribute or device that was not restored.
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
    report: &'a RestoreAnswer,
}

pub(super) fn run(args: &RestoreArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let (merge, dry_run, untrusted) = (args.merge, args.dry_run, args.untrusted);
    let target = super::global::absolute(&args.target)?;
    // Before the store is contacted, so that a wrong target is reported at once.
    guard::check_restore(&target, args.volume.store.local(), global.state_dir().ok().as_deref())?;
    repository::check_target(&target, merge).map_err(|error| app_error(&error))?;
    let stop = if dry_run { None } else { Some(end_on_signals()?) };
    let options = RestoreOptions { merge, dry_run, untrusted, partial: args.partial, stop };
    let began = Instant::now();
    let reader = open(&args.volume)?;
    if let Some(head) = args.expect_head {
        reader.expect_head(Seq(head)).map_err(|error| app_error(&error))?;
    }
    let chosen = choose(&reader, args.at, out)?;
    let seq = if args.instant { instant::take(&reader, chosen)? } else { chosen };
    let instant = instant::tell(&reader, seq, true, out)?;
    let restored = repository::restore(&reader, seq, &target, &options).map_err(|error| told(&reader, seq, &error))?;
    let report = report(&restored, instant, began.elapsed().as_secs_f64());
    out.line(text(&report, dry_run), &Line { r#type: "restored", dry_run, report: &report })?;
    let whole = report.partial_count == 0 && report.failed_count == 0 && report.baseline != Some(false);
    Ok(if whole { ExitCode::Ok } else { ExitCode::Partial })
}

/// The error, and if the state itself is damaged the newest one before it that is not.
fn told(reader: &Reader, seq: Seq, error: &ReadError) -> AppError {
    let told = app_error(error);
    if !error.is_mismatch() || matches!(error, ReadError::Stopped { .. }) {
        return told;
    }
    match reader.newest_before(seq) {
        Some((whole, time)) => {
            let time = show_time(time);
            told.hint(format_args!("commit {whole} of {time} can be restored: --at {whole}"))
        }
        None => told.hint("no older commit can be rebuilt either; `tracker verify --read-data` says what is damaged"),
    }
}

/// Installs signal handling: the first SIGINT or SIGTERM sets the returned flag, and the restore ends by itself. If it
/// hangs on a store or a disk, or at a second signal, the process ends after removing its temporary area.
fn end_on_signals() -> Result<&'static AtomicBool, AppError> {
    static STOP: AtomicBool = AtomicBool::new(false);
    let failed = |e: std::io::Error| AppError::new(ExitCode::Error, format_args!("cannot listen for signals: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    drop(guard);
    let wait = move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            STOP.store(true, Ordering::Relaxed);
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, () = tokio::time::sleep(GRACE) => {} }
        });
        remove_areas();
        AppError::new(ExitCode::Interrupted, "interrupted; the target is incomplete and stays closed to others")
            .print(false);
        std::process::exit(ExitCode::Interrupted.number());
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(failed)?;
    Ok(&STOP)
}

fn report(restored: &repository::RestoreReport, instant: Told, seconds: f64) -> RestoreAnswer {
    let stats = restored.stats;
    let list = |of: &Bounded<Warning>| of.first.iter().map(shortcoming).collect();
    RestoreAnswer {
        seq: restored.seq.0,
        time: show_time(restored.time),
        baseline: restored.baseline,
        consistency: instant.field(),
        newest_instant: instant.newest,
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
        leftovers_removed: restored.leftovers,
        seconds,
        failed: restored.failed.first.iter().map(failed).collect(),
        failed_count: restored.failed.count,
        partial: list(&restored.warnings),
        partial_count: restored.warnings.count,
        left_out: list(&restored.left_out),
        left_out_count: restored.left_out.count,
    }
}

fn failed(failure: &Failure) -> FailedEntry {
    let (mut whole_in, mut whole_in_time) = (None, None);
    let older = failure.older.map(|older| match older {
        Older::Whole { seq, time } => {
            (whole_in, whole_in_time) = (Some(seq.0), Some(show_time(time)));
            format!("commit {seq} of {} has a whole version (`cat --at {seq}`)", show_time(time))
        }
        Older::NoneWithin { commits: 0 } => "there is no older commit to look for it in".into(),
        Older::NoneWithin { commits } => format!("none of the {commits} commits before has a whole version"),
        Older::NotLooked => "older commits were not looked at".into(),
    });
    FailedEntry { path: PathField::new(&failure.path), cause: failure.cause.clone(), whole_in, whole_in_time, older }
}

fn shortcoming(warning: &Warning) -> Shortcoming {
    use std::os::unix::ffi::OsStrExt;
    let what = match &warning.what {
        Shortfall::Owner { uid, gid } => format!("owner {uid}:{gid} not set, setuid and setgid bits left out"),
        Shortfall::Mode { mode, cause } => format!("mode {mode:04o} not set: {cause}"),
        Shortfall::Time { cause } => format!("modification time not set: {cause}"),
        Shortfall::Copy => "a copy, not a hard link: the file system makes none".to_string(),
        Shortfall::Xattr { name, cause } => format!("attribute {}: {cause}", PathField::new(name).for_people()),
        Shortfall::Device | Shortfall::DeviceUnwanted => "device not made".to_string(),
        Shortfall::Flags { names, cause } => format!("inode flags {}: {cause}", names.join(", ")),
        Shortfall::Project { project, cause } => format!("project {project} not set: {cause}"),
        Shortfall::Sealed => {
            "immutable or append-only in the target, so its other attributes were left as they are".into()
        }
        Shortfall::FlagsUnwanted { names, project } => {
            let project = (*project != 0).then(|| format!("project {project}"));
            let all: Vec<String> = names.iter().map(|name| (*name).to_owned()).chain(project).collect();
            format!("{} left out", all.join(", "))
        }
        Shortfall::Privilege => "setuid or setgid bit or file capability left out".to_string(),
    };
    Shortcoming { path: PathField::new(warning.path.as_os_str().as_bytes()), what }
}

fn text(report: &RestoreAnswer, dry_run: bool) -> String {
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
    if report.leftovers_removed > 0 {
        text.push_str(&format!(
            "; {} temporary files of an interrupted restore were removed",
            report.leftovers_removed
        ));
    }
    let failed = report.failed.iter().map(|failed| {
        let older = failed.older.as_ref().map(|older| format!("; {older}")).unwrap_or_default();
        (&failed.path, format!("{}{older}", failed.cause))
    });
    push_list(&mut text, "not restored", report.failed_count, failed);
    for (word, count, list) in
        [("partial", report.partial_count, &report.partial), ("left out", report.left_out_count, &report.left_out)]
    {
        push_list(&mut text, word, count, list.iter().map(|what| (&what.path, what.what.clone())));
    }
    text
}

fn push_list<'a>(text: &mut String, word: &str, count: u64, list: impl Iterator<Item = (&'a PathField, String)>) {
    for (path, what) in list.take(SHOWN) {
        let path = path.bytes();
        let path = if path.is_empty() { "the target itself".into() } else { quote_path(&path) };
        text.push_str(&format!("\n{word}: {path}: {what}"));
    }
    if count > SHOWN as u64 {
        text.push_str(&format!("\n{word}: .. and {} more", count - SHOWN as u64));
    }
}

//! Shared by the verbs that read a volume: opening it, and reporting why that failed.

use engine::manifest::Manifest;
use engine::model::Seq;
use engine::plan::PlanError;

use crate::error::{AppError, ExitCode, chain};
use crate::output::Out;
use crate::quoting::{quote_path, unquote};
use crate::repository;
use crate::repository::location::VolumeRef;
use crate::repository::{ReadError, Reader};
use crate::store::{self, StoreOptions};
use crate::units::{At, rfc3339};

/// Opens the volume for reading.
pub(super) fn open(volume: &VolumeRef) -> Result<Reader, AppError> {
    let opened = store::open(&volume.store, &StoreOptions::default()).map_err(|error| AppError::from_store(&error))?;
    repository::open(opened, &volume.volume).map_err(|error| app_error(&error))
}

/// The commit that a user means. If clocks disagree, so that another commit could be meant, warns on stderr, and with
/// `--json` also in an object of the type `warning`.
pub(super) fn choose(reader: &Reader, at: Option<At>, out: &mut Out) -> Result<Seq, AppError> {
    let chosen = reader.choose(at).map_err(|error| app_error(&error))?;
    if let Some(warning) = chosen.clocks {
        out.warn("clock", &warning)?;
    }
    Ok(chosen.seq)
}

/// The message for a state without a complete baseline.
pub(super) const INCOMPLETE: &str = "the baseline is not complete at this commit: files of the first copy are missing";

/// The exit code and the hint for a failed read.
pub(super) fn app_error(error: &ReadError) -> AppError {
    let told = |code, hint: &str| AppError::new(code, chain(error)).hint(hint);
    match error {
        ReadError::Plan(PlanError::NoSuchPath { path }) => {
            let path = quote_path(path);
            AppError::new(ExitCode::Error, format_args!("{path} is not in the volume at this time"))
                .hint("`tracker ls -r STORE/VOLUME` lists its names")
        }
        ReadError::Store(error) => AppError::from_store(error),
        ReadError::Stopped { cause, .. } => {
            let told = app_error(cause);
            let hint = "what is restored is whole; restore again with --merge to go on";
            AppError::new(told.code, error).hint(hint)
        }
        ReadError::Interrupted => AppError::new(ExitCode::Interrupted, error),
        ReadError::VolumeAbsent { .. } => told(
            ExitCode::Absent,
            "write STORE/VOLUME: everything before the last slash is the store, the rest is the volume's name",
        ),
        ReadError::NoCommit { .. } => told(ExitCode::Absent, "wait until its first flush is committed"),
        ReadError::SeqAbsent { .. } | ReadError::TimeAbsent { .. } | ReadError::Pruned { .. } => {
            told(ExitCode::Absent, "`tracker log STORE/VOLUME` lists the commits there are")
        }
        ReadError::NoInstant { .. } => told(
            ExitCode::Absent,
            "without --instant the commit is taken as it is; `tracker log` says of each why it is not of one instant",
        ),
        ReadError::Incomplete { .. } => told(
            ExitCode::Partial,
            "wait until `protect` says `ready`; --partial restores what is there, `tracker log` marks such commits",
        ),
        ReadError::Version { .. } => told(ExitCode::Error, "read it with a newer tracker"),
        ReadError::Foreign { .. } => told(ExitCode::Error, "name a store that tracker wrote"),
        ReadError::NotEmpty { .. } => {
            told(ExitCode::Guard, "restore into an absent or empty directory, or onto what is there with --merge")
        }
        ReadError::NotADirectory { .. } => told(ExitCode::Guard, "name a directory that is absent or empty"),
        error if error.is_mismatch() => told(
            ExitCode::Mismatch,
            "`tracker verify --read-data` says what else is damaged; an older commit may be whole (--at)",
        ),
        error => AppError::new(ExitCode::Error, chain(error)),
    }
}

/// The path that a user means: as typed, or, if the volume has no such path, as `ls` quotes it (see [`crate::quoting`]; a
/// shell has already undone that). `./` and repeated slashes are dropped.
pub(super) fn path_inside(manifest: &Manifest, typed: &[u8]) -> Vec<u8> {
    let normal = |path: &[u8]| {
        let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        parts.join(&b'/')
    };
    let literal = normal(typed);
    let there = |path: &Vec<u8>| manifest.resolve(path).is_some();
    if there(&literal) {
        return literal;
    }
    unquote(typed).map(|path| normal(&path)).filter(there).unwrap_or(literal)
}

/// A commit's time as RFC 3339.
pub(super) fn show_time(time: engine::model::Time) -> String {
    rfc3339(time.unix_ns())
}

//! Errors of a start in the words of a user.

use crate::error::{AppError, ExitCode};
use crate::repository::WriteError;
use crate::volume::world::WorldError;

pub(crate) fn failed(what: &str, error: impl std::fmt::Display) -> AppError {
    AppError::new(ExitCode::Error, format_args!("{what}: {error}"))
}

pub(crate) fn world_error(error: WorldError) -> AppError {
    match error {
        WorldError::Write(WriteError::Store(error)) => AppError::from_store(&error),
        WorldError::Write(WriteError::Read(error)) if !error.is_mismatch() => {
            failed("cannot read the volume back", error)
        }
        WorldError::Write(WriteError::Object { .. } | WriteError::Read(_)) => AppError::new(ExitCode::Mismatch, error)
            .hint("`tracker verify` says what else is damaged; nothing was written"),
        error => failed("cannot start", error),
    }
}

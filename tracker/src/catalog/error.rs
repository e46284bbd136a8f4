//! Why the catalog could not do what was asked.

use std::path::PathBuf;

use engine::model::Seq;
use thiserror::Error;

/// Why a catalog call failed. Nothing of a failed call has been stored.
#[derive(Debug, Error)]
pub enum CatalogError {
    #[error("no catalog at {}", path.display())]
    Absent { path: PathBuf },
    #[error("a catalog exists already at {}", path.display())]
    Exists { path: PathBuf },
    #[error("catalog {} has version {found}, this program knows {known}", path.display())]
    Version { path: PathBuf, found: i64, known: i64 },
    #[error("{} is an SQLite file, but not a catalog of tracker", path.display())]
    Foreign { path: PathBuf },
    #[error("catalog row of {table} is damaged: {what}")]
    Damaged { table: &'static str, what: &'static str },
    #[error("an intent for seq {seq} is still unsettled")]
    Unsettled { seq: Seq },
    #[error("settling seq {seq}, but the intent is {found:?}")]
    WrongIntent { seq: Seq, found: Option<Seq> },
    #[error("all {} numbers for packs are given", u32::MAX)]
    AttemptsUsedUp,
    #[error("catalog cannot write to {}: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("catalog database: {source}")]
    Sqlite {
        #[from]
        source: rusqlite::Error,
    },
}

/// Result of a catalog call.
pub type Result<T> = std::result::Result<T, CatalogError>;

//! Why a volume cannot be read or restored: which object, and what is wrong with it. The command line chooses the exit
//! codes.

use std::path::PathBuf;

use engine::format::DecodeError;
use engine::manifest::ManifestError;
use engine::model::{Root, Seq};
use engine::plan::PlanError;
use thiserror::Error;

use crate::store::{ErrorKind, StoreError};
use crate::target::TargetError;

/// Keys are whole: `volume/commits/..`.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error(transparent)]
    Store(StoreError),
    #[error("there is no volume `{volume}` in {store}")]
    VolumeAbsent { volume: String, store: String },
    #[error("volume `{volume}` has no commit yet")]
    NoCommit { volume: String },
    #[error("there is no commit {seq}: the newest one of volume `{volume}` is {head}")]
    SeqAbsent { volume: String, seq: Seq, head: Seq },
    /// The commits that lead there were pruned.
    #[error(
        "commit {seq} of volume `{volume}` cannot be rebuilt: {key} is pruned and there is no checkpoint in its place"
    )]
    Pruned { volume: String, seq: Seq, key: String },
    #[error("no commit of volume `{volume}` up to {seq} is of one instant ({looked} were looked at)")]
    NoInstant { volume: String, seq: Seq, looked: u64 },
    #[error("volume `{volume}` has no commit as old as {when}")]
    TimeAbsent { volume: String, when: String },
    #[error("the baseline is not complete at commit {seq} of volume `{volume}`: files of the first copy are missing")]
    Incomplete { volume: String, seq: Seq },
    #[error("{key} was not written by tracker: {source}")]
    Foreign { key: String, source: DecodeError },
    #[error("{key}: {source}")]
    Version { key: String, source: DecodeError },
    #[error("{key} is damaged: {source}")]
    Damaged { key: String, source: DecodeError },
    /// The object is undamaged, but does not belong at its place.
    #[error("{key} does not follow from what comes before it: {source}")]
    Refused { key: String, source: ManifestError },
    #[error("{key} is named in the volume, but is not in the store")]
    Missing { key: String },
    #[error("{key} has the hash {found}, but {named_by} says {expected}")]
    Hash { key: String, found: String, expected: String, named_by: String },
    /// Undamaged and in its place, but somebody else may have put it there.
    #[error("{key} is named by no commit: it is not used")]
    Unnamed { key: String },
    #[error("{key} holds another state than the commits up to there give")]
    Contradicts { key: String },
    #[error("the newest commit is {head}, but {expected} was there before: the end of the history is cut off")]
    Cut { head: Seq, expected: Seq },
    #[error("{path}: the content has the root {}, the commit says {}", root_text(found), root_text(expected))]
    Root { path: String, found: Root, expected: Root },
    /// An entry that no restore can create, committed before the encoder refused such entries.
    #[error("{key}: {path} is {what}: no restore can make it")]
    Unmakeable { key: String, path: String, what: &'static str },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("{path} is no regular file but a {kind}")]
    NotAFile { path: String, kind: &'static str },
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("the target {} is not empty", path.display())]
    NotEmpty { path: PathBuf },
    #[error("the target {} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error("cannot {step} {}: {source}", path.display())]
    Directory { step: &'static str, path: PathBuf, source: std::io::Error },
    #[error("interrupted")]
    Interrupted,
    /// A restore ended early.
    #[error("{cause}. {restored} of {files} files were restored; the target stays closed to others")]
    Stopped { restored: u64, files: u64, cause: Box<ReadError> },
    #[error("cannot write the output: {0}")]
    Output(std::io::Error),
}

impl ReadError {
    /// An object's bytes cannot be decoded.
    pub(crate) fn damaged(key: impl Into<String>, source: DecodeError) -> ReadError {
        let key = key.into();
        match source {
            DecodeError::Magic { .. } => ReadError::Foreign { key, source },
            DecodeError::Version { .. } => ReadError::Version { key, source },
            _ => ReadError::Damaged { key, source },
        }
    }

    /// Whether the store's bytes are not what was committed (exit code 21), in whatever form.
    pub fn is_mismatch(&self) -> bool {
        match self {
            ReadError::Damaged { .. }
            | ReadError::Refused { .. }
            | ReadError::Missing { .. }
            | ReadError::Hash { .. }
            | ReadError::Unnamed { .. }
            | ReadError::Contradicts { .. }
            | ReadError::Cut { .. }
            | ReadError::Unmakeable { .. }
            | ReadError::Root { .. } => true,
            ReadError::Store(error) => error.kind == ErrorKind::Corrupt,
            ReadError::Stopped { cause, .. } => cause.is_mismatch(),
            _ => false,
        }
    }

    /// The object that the error is about, if there is one.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            ReadError::Damaged { key, .. }
            | ReadError::Refused { key, .. }
            | ReadError::Missing { key }
            | ReadError::Hash { key, .. }
            | ReadError::Foreign { key, .. }
            | ReadError::Version { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Whether the error concerns the requested object, rather than the store failing to answer: another object may be
    /// readable.
    pub(crate) fn is_about_object(&self) -> bool {
        self.is_mismatch() || matches!(self, ReadError::Foreign { .. } | ReadError::Version { .. })
    }
}

fn root_text(root: &Root) -> String {
    match root {
        Root::Blake3(hash) => hex(hash),
        Root::Sparse(hash) => format!("sparse:{}", hex(hash)),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

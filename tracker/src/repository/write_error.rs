//! Why an object of a volume cannot be written, and how often that is tried.

use engine::format::{EncodeError, Key};

use crate::repository::error::ReadError;
use crate::store::StoreError;

/// Tries of an object whose outcome stays unknown.
pub(super) const ATTEMPTS: u32 = 3;

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("pack {key} is in the store with other bytes than were made: they are put under another name")]
    ForeignPack { key: String },
    #[error(
        "the store ({store}) no longer has {key}, though this host has committed to it: nothing is committed until it is back"
    )]
    Lost { key: String, store: String },
    #[error("object {key}: {cause}")]
    Object { key: String, cause: String },
    #[error("the volume has ended")]
    Ended,
}

impl WriteError {
    pub(super) fn object(key: &Key, cause: impl std::fmt::Display) -> WriteError {
        WriteError::Object { key: key.to_string(), cause: cause.to_string() }
    }
}

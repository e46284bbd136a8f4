//! What ends a flush.

use engine::format::EncodeError;

use crate::catalog::CatalogError;
use crate::repository::{ReadError, WriteError};
use crate::source::SourceError;
use crate::store::StoreError;
use crate::volume::marks::dispatcher::DispatcherError;

/// Errors that end a flush. A file that cannot be read does not.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error(transparent)]
    Dispatcher(#[from] DispatcherError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("no random numbers: {cause}")]
    Random { cause: String },
    #[error("the catalog and a file's content do not fit: {cause}")]
    Plan { cause: String },
    #[error("a paused control group cannot be let go on: {cause}")]
    Paused { cause: String },
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<StoreError> for WorldError {
    fn from(error: StoreError) -> WorldError {
        WriteError::from(error).into()
    }
}

impl From<ReadError> for WorldError {
    fn from(error: ReadError) -> WorldError {
        WriteError::from(error).into()
    }
}

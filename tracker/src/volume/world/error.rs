//! What ends a flush.

use engine::format::EncodeError;

use crate::catalog::CatalogError;
use crate::repository::{ReadError, WriteError};
use crate::source::SourceError;
use crate::store::StoreError;
use crate::volume::marks::dispatcher::DispatcherError;

/// What ends a flush. Files that cannot be read are not among them.
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

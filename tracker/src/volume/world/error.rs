//! What ends a flush.

use engine::format::EncodeError;

use crate::catalog::CatalogError;
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
    Store(#[from] StoreError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("pack {key} is in the store with other bytes than were made: they are put under another name")]
    ForeignPack { key: String },
    #[error("no random numbers: {cause}")]
    Random { cause: String },
    #[error("the catalog and a file's content do not fit: {cause}")]
    Plan { cause: String },
    #[error(transparent)]
    Read(#[from] crate::repository::ReadError),
    #[error(
        "the store ({store}) no longer has {key}, though this host has committed to it: nothing is committed until it is back"
    )]
    Lost { key: String, store: String },
    #[error("object {key}: {cause}")]
    Object { key: String, cause: String },
}

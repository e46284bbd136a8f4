//! Why a file's new content could not be planned.

use crate::delta::DeltaError;
use crate::tree::TreeError;

/// Why a file's content could not be planned.
#[derive(Debug, thiserror::Error)]
pub enum ImageError<E> {
    #[error(transparent)]
    Tree(TreeError<E>),
    #[error("cannot read signature group {group}")]
    Signature { group: u64, source: E },
    #[error("cannot make a delta against the base's signature")]
    Delta { source: DeltaError },
    #[error("block {index} follows block {before}: blocks must be given in ascending order")]
    Order { before: u64, index: u64 },
    #[error("the size changed from {old_size} to {new_size}, but tail block {index} was not given")]
    MissingTail { index: u64, old_size: u64, new_size: u64 },
    #[error("block {index} was given with {got} bytes of {want}")]
    ShortBlock { index: u64, got: usize, want: usize },
}

impl<E> From<TreeError<E>> for ImageError<E> {
    fn from(error: TreeError<E>) -> Self {
        ImageError::Tree(error)
    }
}

impl<E> From<DeltaError> for ImageError<E> {
    fn from(source: DeltaError) -> Self {
        ImageError::Delta { source }
    }
}

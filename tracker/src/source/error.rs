//! Why something in the source could not be found, opened or read.

use std::path::{Path, PathBuf};

use engine::model::{InodeId, Kind};
use engine::source::FileError;
use rustix::io::Errno;
use thiserror::Error;

/// Why something in the source could not be found or read. Paths are relative to the source.
#[derive(Debug, Error)]
pub enum SourceError {
    #[error("source {}: {source}", crate::quoting::path(path))]
    Root { path: PathBuf, source: std::io::Error },
    /// Nothing is there, or a parent is not a directory (any more).
    #[error("{} is not there", crate::quoting::path(path))]
    Gone { path: PathBuf },
    #[error("{} lies on another mount", crate::quoting::path(path))]
    MountPoint { path: PathBuf },
    #[error("{}: {source}", crate::quoting::path(path))]
    Io { path: PathBuf, source: std::io::Error },
}

impl SourceError {
    /// Nothing is at the path: the file was moved or removed.
    pub fn is_gone(&self) -> bool {
        matches!(self, SourceError::Gone { .. })
    }

    /// The cause, for callers that name the path themselves.
    pub fn cause(&self) -> String {
        match self {
            SourceError::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    pub(super) fn at(path: &Path, errno: Errno) -> SourceError {
        let path = path.to_path_buf();
        match errno {
            // ELOOP: a symlink where a directory (or the file itself) was.
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => SourceError::Gone { path },
            Errno::XDEV => SourceError::MountPoint { path },
            errno => SourceError::Io { path, source: errno.into() },
        }
    }
}

/// Why a file was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("inode {} (born {}) is there, not {} (born {})", found.ino, found.generation, expected.ino, expected.generation)]
    Mismatch { expected: InodeId, found: InodeId },
    #[error("it is a {kind:?}, not a regular file")]
    NotAFile { kind: Kind },
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl From<OpenError> for FileError {
    fn from(error: OpenError) -> FileError {
        match error {
            OpenError::Mismatch { .. } | OpenError::Source(SourceError::Gone { .. }) => FileError::Moved,
            OpenError::Source(error) => FileError::Unreadable { cause: error.cause() },
            other => FileError::Unreadable { cause: other.to_string() },
        }
    }
}

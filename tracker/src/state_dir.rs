//! The state directory: made private, and held by one process at a time.
//!
//! It knows lock and socket; the catalogs below it belong to `catalog`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::control;
use crate::error::{AppError, ExitCode};

/// A locked state directory; free again when dropped, also by kill -9.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Holds the lock as long as it is open.
    _lock: File,
}

impl StateDir {
    /// Makes the directory (mode 0700) where it is absent, and locks it. `ExitCode::Locked` when another process has it.
    pub fn lock(path: &Path) -> Result<StateDir, AppError> {
        let shown = path.display();
        let failed = |what: &str, e: io::Error| {
            AppError::new(ExitCode::Error, format_args!("cannot {what} the state directory {shown}: {e}"))
                .hint("name a directory that may be written with --state-dir")
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(|e| failed("make", e))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(path.join("lock")).map_err(|e| failed("open", e))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(StateDir { path: path.to_path_buf(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(AppError::new(ExitCode::Locked, format_args!("another tracker uses the state directory {shown}"))
                    .hint("`tracker status` shows it; give a second one its own --state-dir, or use `tracker daemon`"))
            }
            Err(e) => Err(failed("lock", e.into())),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn socket(&self) -> PathBuf {
        control::socket_path(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_process_at_a_time_in_private() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let first = StateDir::lock(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let refused = StateDir::lock(&path).unwrap_err();
        assert_eq!(refused.code, ExitCode::Locked);
        drop(first);
        StateDir::lock(&path).unwrap();
    }

    #[test]
    fn a_file_in_its_place_is_an_error_with_a_hint() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("f");
        fs::write(&path, "").unwrap();
        let error = StateDir::lock(&path).unwrap_err();
        assert_eq!(error.code, ExitCode::Error);
        assert!(error.hint.is_some());
    }
}

//! The state directory: private, and locked by one process at a time.
//!
//! It knows lock and socket; the catalogs below it belong to `catalog`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::daemon::control;
use crate::error::{AppError, ExitCode};

/// A locked state directory. The lock is released when dropped, also by kill -9.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Holds the lock while it is open.
    lock: File,
}

impl StateDir {
    /// Creates the directory (mode 0700) if absent, and locks it. `ExitCode::Locked` if another process has locked it.
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
            Ok(()) => Ok(StateDir { path: path.to_path_buf(), lock }),
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

    /// Whether the locked directory is still at its path. If that cannot be checked, the answer is yes.
    pub fn is_in_place(&self) -> bool {
        let there = match fs::metadata(self.path.join("lock")) {
            Ok(there) => there,
            Err(error) => return error.kind() != io::ErrorKind::NotFound,
        };
        self.lock.metadata().map_or(true, |held| (held.dev(), held.ino()) == (there.dev(), there.ino()))
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
    fn one_that_was_removed_or_made_again_is_noticed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        let state = StateDir::lock(&path).unwrap();
        assert!(state.is_in_place());
        fs::rename(&path, parent.path().join("away")).unwrap();
        assert!(!state.is_in_place());
        let _other = StateDir::lock(&path).unwrap();
        assert!(!state.is_in_place());
        fs::remove_dir_all(&path).unwrap();
        fs::rename(parent.path().join("away"), &path).unwrap();
        assert!(state.is_in_place());
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

//! Why a step of the restore failed.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use crate::quoting::quote_path;

/// Why a step of the restore failed. Paths are relative to the target.
#[derive(Debug, Error)]
pub enum TargetError {
    #[error("target {}: {source}", path.display())]
    Root { path: PathBuf, source: std::io::Error },
    /// An empty path, or one with `..`, a leading `/` or an empty name: paths from the store are not trusted.
    #[error("{} is no path beneath the target", shown(path))]
    BadPath { path: PathBuf },
    /// The directory that was created or found at this path is not there any more, or never was.
    #[error("the directory {} could not be made, or was replaced meanwhile", shown(path))]
    NotOurs { path: PathBuf },
    #[error("cannot {step} {}: {source}", shown(path))]
    Io { step: &'static str, path: PathBuf, source: std::io::Error },
}

impl TargetError {
    /// Nothing more can be written: the disk or a quota is full, or this process cannot open more files.
    pub fn is_fatal(&self) -> bool {
        let full = [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::NOMEM];
        match self {
            TargetError::Root { .. } => true,
            TargetError::BadPath { .. } | TargetError::NotOurs { .. } => false,
            TargetError::Io { source, .. } => Errno::from_io_error(source).is_some_and(|errno| full.contains(&errno)),
        }
    }
}

fn shown(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    match path.as_os_str().as_bytes() {
        b"" => "the target itself".into(),
        bytes => quote_path(bytes),
    }
}

pub(crate) fn io<'a>(step: &'static str, rel: &'a Path) -> impl Fn(Errno) -> TargetError + 'a {
    move |errno| TargetError::Io { step, path: rel.to_path_buf(), source: errno.into() }
}

//! The state of a restore's target while it is written.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use engine::model::Dev;

use crate::source::beneath::{Beneath, open_root};
use crate::target::area::Area;
use crate::target::error::TargetError;
use crate::target::identity::Identity;
use crate::target::warning::{Bounded, Shortfall, Warning};

/// How to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetOptions {
    /// The store is not trusted: leave out devices, setuid and setgid bits, file capabilities, flags that make files
    /// immutable, and projects.
    pub untrusted: bool,
    /// Whether flags that are not in the commit were absent. Commits of format version 1 do not record flags.
    pub flags_known: bool,
    /// fsync each file before it gets its name.
    pub sync: bool,
    /// The target was not empty (`--merge`): whatever blocks an entry is removed, and existing directories keep what their
    /// old and their new mode both allow.
    pub merge: bool,
}

/// The directory that a tree is written to. Threads that write different files can share it.
#[derive(Debug)]
pub struct Target {
    pub(crate) beneath: Beneath,
    pub(crate) options: TargetOptions,
    /// The directories that were created or found, by path. Includes the target itself after `prepare`.
    pub(crate) dirs: Mutex<HashMap<PathBuf, Identity>>,
    /// One for each mount and device beneath the target.
    pub(crate) areas: Mutex<HashMap<(Dev, u64), Arc<Area>>>,
    pub(crate) warnings: Mutex<(Bounded<Warning>, Bounded<Warning>)>,
}

impl Target {
    /// Opens an existing directory. Nothing is changed yet.
    pub fn open(dir: &Path, options: TargetOptions) -> Result<Target, TargetError> {
        let fd = open_root(dir).map_err(|source| TargetError::Root { path: dir.to_path_buf(), source })?;
        Ok(Target {
            beneath: Beneath::new(fd, true),
            options,
            dirs: Mutex::default(),
            areas: Mutex::default(),
            warnings: Mutex::default(),
        })
    }

    /// What could not be restored so far, and what `untrusted` left out.
    pub fn warnings(&self) -> (Bounded<Warning>, Bounded<Warning>) {
        self.warnings.lock().clone()
    }

    pub(crate) fn warn(&self, rel: &Path, what: Shortfall) {
        let mut warnings = self.warnings.lock();
        let list = if what.by_wish() { &mut warnings.1 } else { &mut warnings.0 };
        list.push(Warning { path: rel.to_path_buf(), what });
    }
}

//! Prepares the target, and looks at what is in it.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use engine::model::Meta;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::source::flags::is_sealed;
use crate::source::restore_area::{self, is_area};
use crate::source::stat::{SourceStat, stat_fd};
use crate::target::error::{TargetError, io};
use crate::target::identity::Identity;
use crate::target::state::Target;

impl Target {
    /// Closes the target to others, until its `finish_dir`, and makes its area. `meta` is what it will have.
    pub fn prepare(&self, meta: &Meta) -> Result<(), TargetError> {
        let rel = Path::new("");
        self.close_to_others(rel, self.beneath.root(), meta)?;
        let at = Identity::of(self.beneath.root()).map_err(io("stat", rel))?;
        self.dirs.lock().insert(PathBuf::new(), at);
        if is_sealed(self.beneath.root()) {
            // Everything may be there already; otherwise each entry that cannot be made is reported.
            return Ok(());
        }
        self.area(rel, at).map_err(io("make the temporary area in", rel)).map(|_| ())
    }

    /// Removes the areas, since nothing more is made. Before directories are finished, because it changes their times.
    pub fn remove_own_areas(&self) {
        self.areas.lock().clear();
    }

    /// Whether the target is empty, apart from the area of an interrupted restore.
    pub fn is_empty(&self) -> Result<bool, TargetError> {
        use std::os::unix::ffi::OsStrExt;
        let names = self.names(Path::new(""))?;
        Ok(names.iter().all(|name| is_area(self.beneath.root(), name.as_bytes())))
    }

    /// The names in a directory of the target.
    pub fn names(&self, rel: &Path) -> Result<Vec<OsString>, TargetError> {
        let fd = self.beneath.open(rel, OFlags::RDONLY | OFlags::DIRECTORY).map_err(io("open", rel))?;
        restore_area::names(fd.as_fd()).map_err(io("list", rel))
    }

    /// What lies at `rel` now; `None` when nothing does.
    pub fn stat(&self, rel: &Path) -> Result<Option<SourceStat>, TargetError> {
        match self.beneath.open(rel, OFlags::PATH) {
            Ok(fd) => stat_fd(&fd).map(Some).map_err(io("stat", rel)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(io("stat", rel)(errno)),
        }
    }
}

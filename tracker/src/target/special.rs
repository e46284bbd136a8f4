//! Symlinks, fifos, sockets and devices.

use std::os::fd::AsFd;
use std::path::Path;

use engine::model::{Kind, Meta};
use rustix::io::Errno;

use crate::target::error::{TargetError, io};
use crate::target::nodes::make_in;
use crate::target::place::{Made, Unplaced};
use crate::target::state::Target;
use crate::target::warning::Shortfall;

impl Target {
    /// Makes a symlink, fifo, socket or device with all its attributes and names, replacing what is there. Returns the
    /// names that could not be given; none for a device that was left out (with a warning).
    pub fn make_special(&self, names: &[&Path], meta: &Meta) -> Result<Vec<Unplaced>, TargetError> {
        let Some(first) = names.first() else { return Ok(Vec::new()) };
        let device = matches!(meta.kind, Kind::CharDevice | Kind::BlockDevice);
        if device && self.options.untrusted {
            self.warn(first, Shortfall::DeviceUnwanted);
            return Ok(Vec::new());
        }
        if let Some(what) = meta.unmakeable() {
            let source = std::io::Error::other(format!("it is {what}"));
            return Err(TargetError::Io { step: "make", path: first.to_path_buf(), source });
        }
        if self.options.merge && self.is_there_for_good(names, meta) {
            return Ok(Vec::new());
        }
        let area = self.area_of(first)?;
        match make_in(&area, meta) {
            Err(Errno::PERM) if device => {
                self.warn(first, Shortfall::Device);
                Ok(Vec::new())
            }
            Err(errno) => Err(io("make", first)(errno)),
            Ok((name, fd)) => {
                self.give(first, &fd, meta);
                let made = Made { area: &area, name, fd: fd.as_fd(), meta };
                let failed = self.put(&made, names);
                let _ = area.discard(&made.name);
                Ok(failed)
            }
        }
    }
}

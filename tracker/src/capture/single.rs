//! Detaches and attaches single programs of a running capture without loading any. For tests that leave out one program
//! after the other; loading all of them each time would take a minute.

use std::fs;

use super::{
    attach::attach_pinned,
    error::CaptureError,
    load::pin_error,
    pin_files::{link_path, program_path},
    points,
    running::{Attached, Capture},
};

impl Capture {
    /// Detaches these programs, of which some may not be attached; they stay loaded. Returns those that were attached. They
    /// may still run for some milliseconds.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn take_off(&mut self, programs: &[&str]) -> Result<Vec<&'static str>, CaptureError> {
        let (off, on) = std::mem::take(&mut self.attached).into_iter().partition(|one| programs.contains(&one.name));
        self.attached = on;
        let off: Vec<Attached> = off;
        for one in &off {
            let path = link_path(&self.pin_dir, one.name);
            fs::remove_file(&path).map_err(|source| CaptureError::File { what: "remove pin", path, source })?;
        }
        Ok(off.into_iter().map(|one| one.name).collect())
    }

    /// Attaches again what `take_off` returned, in the original order.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn put_on(&mut self, programs: &[&'static str]) -> Result<(), CaptureError> {
        for name in programs {
            let none = || CaptureError::ObjectLacks { what: "program", name };
            let point = points::every().into_iter().find(|point| point.program == *name).ok_or_else(none)?;
            let (path, pin) = (program_path(&self.pin_dir, name), link_path(&self.pin_dir, name));
            let link = attach_pinned(point, &path)?;
            link.pin(&pin).map_err(|source| pin_error(pin.clone(), source))?;
            self.attached.push(Attached::open(&self.pin_dir, name)?);
        }
        Ok(())
    }
}

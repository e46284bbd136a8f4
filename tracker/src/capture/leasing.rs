//! Takes and renews the lease of a capture, and tells whether it was over.

use common::maps::ctrl;

use super::config::CaptureConfig;
use super::error::CaptureError;
use super::keeper::Keeper;
use super::lease::{is_over, monotonic_ns};
use super::owner::Owner;
use super::pin_files::map_path;
use super::running::Capture;
use super::sys::{self, Table};
use super::tables::OWNER;

impl Capture {
    /// Takes the lease, and returns whether it was over before, so that changes may not have been marked. The order makes
    /// this reliable: after `grace` all programs that began under the old lease have ended, and those that did not mark
    /// have recorded it.
    pub(super) fn lease_is_over(&mut self, config: &CaptureConfig) -> Result<bool, CaptureError> {
        let failed = |source| CaptureError::Map { what: "reading", map: "CTRL", source };
        if was_over(&self.maps.ctrl).map_err(failed)? {
            return Ok(true);
        }
        self.keep(config)?;
        self.grace()?;
        Ok(self.maps.ctrl.get(ctrl::LAPSED).map_err(failed)? != Some(0))
    }

    /// Starts renewing the lease, if the capture has one.
    pub(super) fn keep(&mut self, config: &CaptureConfig) -> Result<(), CaptureError> {
        let Some(lease) = &config.lease else { return Ok(()) };
        let failed = |source| CaptureError::Map { what: "setting", map: OWNER, source };
        let path = map_path(&self.pin_dir, OWNER);
        let owner = match sys::open_pin(&path) {
            Ok(fd) => Table::new(fd).map_err(failed)?,
            Err(_) => {
                let owner = Table::array(1, OWNER).map_err(failed)?;
                sys::pin(&path, owner.fd()).map_err(failed)?;
                owner
            }
        };
        let who = Owner::this_process(&lease.state_dir, lease.lasts);
        let ctrl = self.maps.ctrl.again().map_err(failed)?;
        let record = owner.again().map_err(failed)?;
        self.keeper = Some(Keeper::start(ctrl, owner, who, lease.lasts).map_err(failed)?);
        self.owner = Some(record);
        Ok(())
    }

    /// Whether a change was not marked since the last call, because the lease was over. Each lapse is reported once.
    pub(super) fn take_lapse(&self) -> Result<bool, CaptureError> {
        let failed = |source| CaptureError::Map { what: "reading", map: "CTRL", source };
        let lapsed = self.has_lapsed()?;
        if lapsed {
            // A program that has not recorded it yet does so after this, and the next check finds it.
            self.maps.ctrl.set(ctrl::LAPSED, 0).map_err(failed)?;
        }
        Ok(lapsed)
    }

    /// As `take_lapse`, which will tell it still.
    pub(super) fn has_lapsed(&self) -> Result<bool, CaptureError> {
        let failed = |source| CaptureError::Map { what: "reading", map: "CTRL", source };
        Ok(self.maps.ctrl.get(ctrl::LAPSED).map_err(failed)?.unwrap_or(0) != 0)
    }
}

/// Whether the lease that is found at a start was over.
fn was_over(control: &Table<u32, u64>) -> std::io::Result<bool> {
    Ok(control.get(ctrl::LEASE)?.is_none_or(|until| is_over(until, monotonic_ns())))
}

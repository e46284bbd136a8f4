//! The lease of a pinned capture: programs mark until it is over, and a thread of the living process moves it on. So what a
//! process leaves in the kernel costs nothing for ever.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use common::maps::ctrl;

use super::owner::{self, Owner, Words};
use super::pins::map_path;
use super::sys::{self, Table};
use super::tables::OWNER;
use super::{Capture, CaptureConfig, CaptureError};

/// Longest gap between two renewals.
const GAP_MAX: Duration = Duration::from_secs(60);

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the programs.
pub(super) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// When a lease that is given at `now` ends.
pub(super) fn until(now: u64, lease: Duration) -> u64 {
    now.saturating_add(u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX))
}

/// Whether a lease was over at `now`; one that was never given is not.
pub(super) fn is_over(until: u64, now: u64) -> bool {
    until <= now
}

/// How often a lease is moved on: well before a quarter of it has passed.
pub(super) fn gap(lease: Duration) -> Duration {
    (lease / 4).min(GAP_MAX)
}

/// The maps that a renewal writes.
#[derive(Debug)]
struct Renewal {
    ctrl: Table<u32, u64>,
    owner: Table<u32, Words>,
    who: Owner,
    lease: Duration,
}

impl Renewal {
    fn make(&mut self) -> std::io::Result<()> {
        self.ctrl.set(ctrl::LEASE, until(monotonic_ns(), self.lease))?;
        self.who.seen = owner::unix_seconds();
        self.owner.set(0, self.who.words())
    }
}

type Stop = (Mutex<bool>, Condvar);

/// Renews until it is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Renews at once, and from then on by a thread.
    ///
    /// # Errors
    /// When the maps refuse or the thread cannot be started.
    pub(super) fn start(
        ctrl: Table<u32, u64>,
        owner: Table<u32, Words>,
        who: Owner,
        lease: Duration,
    ) -> std::io::Result<Self> {
        let mut renewal = Renewal { ctrl, owner, who, lease };
        renewal.make()?;
        let stop = Arc::new(Stop::default());
        let (asked, every) = (Arc::clone(&stop), gap(lease));
        let thread = std::thread::Builder::new().name("lease".into()).spawn(move || {
            let (flag, changed) = &*asked;
            let mut stopped = flag.lock().unwrap_or_else(PoisonError::into_inner);
            while !*stopped {
                stopped = changed.wait_timeout(stopped, every).unwrap_or_else(PoisonError::into_inner).0;
                if !*stopped && let Err(error) = renewal.make() {
                    // What follows from a lease that is over is noticed at the next drain.
                    tracing::warn!(%error, "the lease of the kernel's programs cannot be renewed");
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let (flag, changed) = &*self.stop;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in there was printed by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Capture {
    /// Takes the lease, and tells whether it was over before, so that changes may not have been marked. The order makes it
    /// sure: programs that began under the old lease have ended after `grace`, and those that did not mark have noted it.
    pub(super) fn lease_is_over(&mut self, config: &CaptureConfig) -> Result<bool, CaptureError> {
        let failed = |source| CaptureError::Map { what: "reading", map: "CTRL", source };
        if was_over(&self.maps.ctrl).map_err(failed)? {
            return Ok(true);
        }
        self.keep(config)?;
        self.grace()?;
        Ok(self.maps.ctrl.get(ctrl::LAPSED).map_err(failed)? != Some(0))
    }

    /// Renews the lease from now on, if the capture is to have one.
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

    /// Whether a change was not marked since the last call, because the lease was over. It is told once.
    pub(super) fn take_lapse(&self) -> Result<bool, CaptureError> {
        let failed = |source| CaptureError::Map { what: "reading", map: "CTRL", source };
        let lapsed = self.maps.ctrl.get(ctrl::LAPSED).map_err(failed)?.unwrap_or(0) != 0;
        if lapsed {
            // A program that has not noted it yet does so after this, and the next look finds it.
            self.maps.ctrl.set(ctrl::LAPSED, 0).map_err(failed)?;
        }
        Ok(lapsed)
    }
}

/// Whether the lease that is found at a start was over.
fn was_over(control: &Table<u32, u64>) -> std::io::Result<bool> {
    Ok(control.get(ctrl::LEASE)?.is_none_or(|until| is_over(until, monotonic_ns())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_once_and_one_never_given_does_not() {
        let given = until(1_000, Duration::from_nanos(500));
        assert!(!is_over(given, 1_499) && is_over(given, 1_500));
        assert!(!is_over(u64::MAX, u64::MAX - 1));
        assert_eq!(until(u64::MAX - 1, Duration::from_secs(1)), u64::MAX);
    }

    #[test]
    fn a_lease_is_renewed_long_before_its_end() {
        assert_eq!(gap(Duration::from_secs(8)), Duration::from_secs(2));
        assert_eq!(gap(Duration::from_secs(86_400)), GAP_MAX);
    }
}

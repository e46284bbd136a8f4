//! Renews the lease of a pinned capture, by a thread of the running process.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use common::maps::ctrl;
use parking_lot::{Condvar, Mutex};

use super::lease::{gap, monotonic_ns, until};
use super::owner::{self, Owner, Words};
use super::sys::Table;

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

/// Renews the lease until it is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Renews at once, and from then on in a thread.
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
            let mut stopped = flag.lock();
            while !*stopped {
                changed.wait_for(&mut stopped, every);
                if !*stopped && let Err(error) = renewal.make() {
                    // The next drain notices a lease that is over.
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
        *flag.lock() = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // The panic hook has already printed a panic of that thread.
            let _ = thread.join();
        }
    }
}

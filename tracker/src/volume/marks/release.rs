//! The end of a process that serves volumes: whether its capture stays in the kernel, and what is noted before it goes.

use std::sync::Arc;
use std::time::Duration;

use engine::dirty::Marks;
use engine::model::Ino;

use crate::error::chain;
use crate::volume::clock::now_ns;
use crate::volume::marks::dispatcher::{Dispatcher, DispatcherError};
use crate::volume::marks::notes::RUN;
use crate::volume::marks::subscriber::Subscriber;

/// A call that began this long before the end may still be writing: a write sets the time when it begins and the bytes
/// afterwards, so times alone would not show it.
const LONG_WRITE: Duration = Duration::from_secs(60);

/// What is known when a process ends on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Its volumes are meant to come back.
    pub keep: bool,
    /// The capture existed before this process.
    pub resumed: bool,
    /// The baseline of some volume is committed.
    pub committed: bool,
}

impl Ending {
    /// Whether the programs go on marking: only for volumes that come back, and only once something is committed.
    pub(crate) fn keeps_tracking(self) -> bool {
        self.keep && (self.resumed || self.committed)
    }
}

impl Dispatcher {
    /// Saves the last marks in the catalogs and detaches everything. The next start compares by listings; files that times
    /// could not prove are noted for a re-read. If that cannot be noted, the capture stays until its lease is over.
    ///
    /// # Errors
    /// When marks cannot be saved or pins cannot be removed.
    pub(crate) fn release(&self) -> Result<(), DispatcherError> {
        if self.inner().capture.is_none() {
            return Ok(());
        }
        self.drain()?;
        let mut inner = self.inner();
        inner.subscribers.iter().try_for_each(read_again)?;
        if let Some(capture) = inner.capture.take() {
            capture.detach()?;
        }
        Ok(())
    }
}

impl Dispatcher {
    /// Releases one volume while the others go on: saves its last marks, stops watching its inodes, and makes its next
    /// start compare, as after [`Dispatcher::release`].
    ///
    /// # Errors
    /// When marks cannot be saved or the maps cannot be changed. The volume is still registered then.
    pub(crate) fn let_go(&self, subscriber: &Arc<Subscriber>) -> Result<(), DispatcherError> {
        // First: whatever fails later, the next start must not trust marks that are no longer made.
        subscriber.catalog.set_note(RUN, "0")?;
        let dev = subscriber.dev;
        if self.inner().capture.is_some() {
            self.drain()?;
            read_again(subscriber)?;
            subscriber.catalog.each_inodes(|inodes| self.unwatch(&subscriber.pending, dev, inodes))?;
        }
        self.remove(subscriber);
        let inner = self.inner();
        let shared = inner.subscribers.iter().any(|other| other.dev == dev);
        if let (Some(capture), false) = (&inner.capture, shared) {
            capture.untrack(dev)?;
        }
        Ok(())
    }
}

/// Notes files that changed shortly before for reading at the next start.
fn read_again(subscriber: &Arc<Subscriber>) -> Result<(), DispatcherError> {
    let now = Duration::from_nanos(now_ns());
    let since = i64::try_from(now.saturating_sub(LONG_WRITE).as_secs()).unwrap_or(0);
    let recent = subscriber.catalog.files_changed_since(since)?;
    let marks: Vec<(Ino, Marks)> = recent.into_iter().map(|ino| (ino, Marks::rescan())).collect();
    Ok(subscriber.pending.add(&marks, now_ns())?)
}

/// As [`Dispatcher::release`], but only logs errors, since the process ends anyway.
pub(crate) fn release(dispatcher: &Dispatcher) {
    match dispatcher.release() {
        Ok(()) => tracing::debug!("the capture is detached"),
        Err(error) => tracing::warn!(
            error = chain(&error),
            "the capture stays in the kernel until its lease is over or `tracker untrack` removes it"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_meant_to_come_back_and_came_to_something_stays() {
        let ending = |keep, resumed, committed| Ending { keep, resumed, committed }.keeps_tracking();
        assert!(ending(true, false, true), "a daemon's volume with a baseline");
        assert!(ending(true, true, false), "one whose store is away now, and that was tracked before");
        assert!(!ending(true, false, false), "a first start that failed");
        for resumed in [false, true] {
            for committed in [false, true] {
                assert!(!ending(false, resumed, committed), "nobody said that it comes back");
            }
        }
    }
}

//! Failover: replaces a capture that was found to miss changes while the daemon runs, by the next back end or in the end by
//! none.
//!
//! Nobody knows which changes the failed capture missed, and nothing is marked during the exchange. So every file of every
//! volume is compared afterwards; a note in each catalog makes the next process do it if this one dies first.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::capture::{Capture, choose};
use crate::error::chain;
use crate::volume::marks::compare::{COMPARE, Compare};
use crate::volume::marks::dispatcher::{Dispatcher, DispatcherError, Inner};
use crate::volume::marks::restart::Failure;
use crate::volume::marks::subscriber::Subscriber;
use engine::model::{Dev, Ino};

impl Dispatcher {
    /// Ends the back end in operation, starts the next one that works, and has everything read again. Does nothing if
    /// another volume has done so since `failovers`.
    ///
    /// # Errors
    /// When a catalog cannot be written: either nothing was done yet, or the next drain tries again.
    pub fn fail(&self, failovers: u64, failure: &Failure) -> Result<(), DispatcherError> {
        let mut inner = self.inner();
        if self.failovers() != failovers {
            return Ok(());
        }
        for subscriber in &inner.subscribers {
            subscriber.catalog.set_note(COMPARE, Compare::Everything.word())?;
        }
        inner.quiet = None;
        inner.subscribers.iter().for_each(|subscriber| subscriber.forget_counted());
        if let Some(failed) = inner.capture.take() {
            let back_end = failed.back_end();
            tracing::error!(back_end = back_end.name(), what = failure.what, "capture has missed a change");
            inner.against.push((back_end, failure.what.clone()));
            if let Err(error) = failed.detach() {
                tracing::warn!(error = chain(&error), "the failed back end cannot be detached");
            }
            self.start_next(&mut inner);
        }
        inner.reread_all = Some(failure.cause);
        let reread = inner.reread_everything();
        // Afterwards: who sees it without the lock finds the marks pending.
        self.failovers.fetch_add(1, Ordering::Release);
        reread
    }

    /// Leaves `inner` without a capture if no back end can be started.
    fn start_next(&self, inner: &mut Inner) {
        let mut facts = choose::KernelFacts::gather_for(self.restart.only);
        facts.against.extend(inner.against.iter().cloned());
        let (capture, _) = match Capture::start_best(&self.restart.wanted, facts, &self.restart.prove) {
            Ok(started) => started,
            Err(choice) => {
                tracing::error!(reasons = ?choice.reasons, "no other back end can be used: volumes scan from now on");
                return;
            }
        };
        inner.left_over = false;
        if let Err(error) = inner.subscribers.iter().try_for_each(|subscriber| watch_all(&capture, subscriber)) {
            tracing::error!(error = chain(&error), "the next back end cannot watch: volumes scan from now on");
            // Otherwise the next process would take its pins over as intact.
            if let Err(error) = capture.detach() {
                tracing::warn!(error = chain(&error), "it cannot be detached either");
            }
            return;
        }
        (self.restart.chosen)(&capture);
        inner.capture = Some(capture);
        inner.earlier_dio = Some(Instant::now());
    }
}

impl Inner {
    /// Makes everything that a failed capture may have missed pending, if not done yet.
    pub(crate) fn reread_everything(&mut self) -> Result<(), DispatcherError> {
        let Some(cause) = self.reread_all else { return Ok(()) };
        for subscriber in &self.subscribers {
            subscriber.widen(cause, |ino| ino != Ino::NONE)?;
            // The marks are pending now, and outlive this process.
            subscriber.catalog.set_note(COMPARE, Compare::Listings.word())?;
        }
        self.reread_all = None;
        Ok(())
    }
}

/// Watches all inodes of a volume, which must happen before anything is compared.
fn watch_all(capture: &Capture, subscriber: &Subscriber) -> Result<(), DispatcherError> {
    capture.track(subscriber.dev, false)?;
    let fresh: Vec<(Dev, Ino)> = subscriber.pending.fresh().into_iter().map(|ino| (subscriber.dev, ino)).collect();
    capture.watch_in(subscriber.slot, &fresh)?;
    subscriber.catalog.each_inodes(|inodes| {
        let keys: Vec<(Dev, Ino)> = inodes.iter().map(|ino| (subscriber.dev, *ino)).collect();
        capture.watch_in(subscriber.slot, &keys)?;
        Ok(())
    })
}

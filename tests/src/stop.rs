//! Ends threads that a test has started.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Ends the threads that check it, also if a test fails.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

//! Which files have their writes marked by what is written, not by whole folios: the programs decide, where it is possible and worth it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use common::maps::exact;
use engine::source::Exactly;

use super::sys;

/// Asks about files of one capture.
#[derive(Debug)]
pub struct ExactProbe {
    exact_now: OwnedFd,
}

impl ExactProbe {
    pub(super) const fn new(exact_now: OwnedFd) -> Self {
        Self { exact_now }
    }

    /// How the writes of an open file are marked. `may_begin`: exactly from now on, if that is possible.
    #[must_use]
    pub fn ask(&self, file: BorrowedFd<'_>, may_begin: bool) -> Exactly {
        let answer = u64::try_from(file.as_raw_fd())
            .map(|descriptor| sys::run_once(self.exact_now.as_fd(), &[descriptor, may_begin.into()]));
        match answer {
            Ok(Ok(exact::FROM_NOW)) => Exactly::FromNow,
            Ok(Ok(exact::YES)) => Exactly::Already,
            _ => Exactly::No,
        }
    }
}

//! Has the kernel programs mark what is written to a file by what is written, not by whole folios.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use common::maps::exact;
use engine::source::Exactly;

use super::sys;

/// Asks for files of one capture.
#[derive(Debug)]
pub struct ExactProbe {
    exact_now: OwnedFd,
    ext4: bool,
    xfs: bool,
}

impl ExactProbe {
    /// `ext4`, `xfs`: whether the kernel tells of every buffered write there, and of every mapping.
    pub(super) const fn new(exact_now: OwnedFd, ext4: bool, xfs: bool) -> Self {
        Self { exact_now, ext4, xfs }
    }

    /// Asks for a file on ext4.
    #[must_use]
    pub fn on_ext4(&self, file: BorrowedFd<'_>) -> Exactly {
        if self.ext4 { self.ask(file) } else { Exactly::No }
    }

    /// Asks for a file on XFS.
    #[must_use]
    pub fn on_xfs(&self, file: BorrowedFd<'_>) -> Exactly {
        if self.xfs { self.ask(file) } else { Exactly::No }
    }

    fn ask(&self, file: BorrowedFd<'_>) -> Exactly {
        let answer =
            u64::try_from(file.as_raw_fd()).map(|descriptor| sys::run_once(self.exact_now.as_fd(), descriptor));
        match answer {
            Ok(Ok(exact::FROM_NOW)) => Exactly::FromNow,
            Ok(Ok(exact::YES)) => Exactly::Already,
            _ => Exactly::No,
        }
    }
}

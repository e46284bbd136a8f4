//! What applications have begun and not ended.

use crate::model::Ino;

/// An operation that holds the inode lock, or a direct write: started and marked, not yet visible.
#[derive(Clone, Debug)]
pub(super) enum Stalled {
    Punch {
        ino: Ino,
        block: u64,
        keeps_page: bool,
    },
    Direct {
        token: u64,
        ino: Ino,
        block: u64,
        count: u64,
        fill: u8,
    },
    /// A buffered write between its change time and its last byte.
    Write {
        ino: Ino,
        at: u64,
        end: u64,
        byte: u8,
    },
    /// The fault is handled (and marked), the store has not happened yet.
    Store {
        ino: Ino,
        at: usize,
        byte: u8,
    },
}

impl Stalled {
    /// Whether it holds the lock of this inode.
    pub(super) fn locks(&self, ino: Ino) -> bool {
        matches!(self, Stalled::Punch { ino: held, .. } | Stalled::Write { ino: held, .. } if *held == ino)
    }
}

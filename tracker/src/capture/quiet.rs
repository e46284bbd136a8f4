//! What tells whether a volume is quiet: counters of changes, one slot for each volume, in memory that is shared with the kernel
//! and read without a system call; and a program that tells of one file whether it can be stored to through a mapping.
#![expect(unsafe_code, reason = "the kernel's array of counters is mapped into this process")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use common::limits::{SLOT_OF_ALL, SLOT_OF_NONE, SLOTS};
use common::maps::mapped;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::sys;

/// Bytes of the array; the kernel rounds them up to whole pages.
const BYTES: usize = SLOTS as usize * size_of::<u64>();

/// The counters, mapped. They stay readable when the capture has ended, and stand still then.
#[derive(Debug)]
struct ChangeCounters(NonNull<AtomicU64>);

// SAFETY: the memory is shared with the kernel anyway, and only read, atomically.
unsafe impl Send for ChangeCounters {}
// SAFETY: as above.
unsafe impl Sync for ChangeCounters {}

impl ChangeCounters {
    /// Maps the CHANGES map, an array of `SLOTS` words that was made with `BPF_F_MMAPABLE`.
    fn map(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = unsafe { mmap(std::ptr::null_mut(), BYTES, ProtFlags::READ, MapFlags::SHARED, fd, 0) }?;
        NonNull::new(at.cast()).map(Self).ok_or(Errno::FAULT)
    }

    /// How many changes the kernel has counted for this slot so far. Two equal answers: none between them. A program stores its
    /// mark before it counts, so marks that are read after this call hold all that is counted here.
    fn of(&self, slot: u32) -> u64 {
        // Neither count ever falls, so their sum stands still only where both do.
        let sum = self.word(slot).wrapping_add(self.word(SLOT_OF_ALL));
        fence(Ordering::SeqCst);
        sum
    }

    fn word(&self, slot: u32) -> u64 {
        let slot = if slot < SLOTS { slot as usize } else { SLOT_OF_ALL as usize };
        // SAFETY: the mapping has `SLOTS` words, aligned to a page.
        let word = unsafe { &*self.0.as_ptr().add(slot) };
        word.load(Ordering::SeqCst)
    }
}

impl Drop for ChangeCounters {
    fn drop(&mut self) {
        // SAFETY: made by `map`, and nothing refers to it any more.
        let unmapped = unsafe { munmap(self.0.as_ptr().cast(), BYTES) };
        debug_assert!(unmapped.is_ok(), "a mapping of this process can be unmapped");
    }
}

/// Looks for moments in which nothing changes. It outlives the capture it is of, and then sees no change any more: whoever uses
/// it makes sure that the capture is still the same.
#[derive(Debug)]
pub struct QuietProbe {
    counters: ChangeCounters,
    mapped_now: OwnedFd,
}

impl QuietProbe {
    pub(super) fn new(changes: BorrowedFd<'_>, mapped_now: OwnedFd) -> Result<Self, Errno> {
        // The program notes whose capture this is. It is asked about no descriptor of ours, and where it fails it is not needed.
        let _ = sys::run_once(mapped_now.as_fd(), u64::from(u32::MAX));
        Ok(Self { counters: ChangeCounters::map(changes)?, mapped_now })
    }

    /// As `ChangeCounters::of`.
    #[must_use]
    pub fn changes(&self, slot: u32) -> u64 {
        self.counters.of(slot)
    }

    /// Whether a file can be stored to through a mapping now; `None` where that cannot be told.
    #[must_use]
    pub fn is_mapped(&self, file: BorrowedFd<'_>) -> Option<bool> {
        let descriptor = u64::try_from(file.as_raw_fd()).ok()?;
        match sys::run_once(self.mapped_now.as_fd(), descriptor).ok()? {
            mapped::NO => Some(false),
            mapped::YES => Some(true),
            _ => None,
        }
    }
}

/// The slot in which changes of the volume of this name are counted: the same in every process of a state directory.
#[must_use]
pub fn slot_of(volume: &str) -> u32 {
    let hash = blake3::hash(volume.as_bytes());
    let number = hash.as_bytes().first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    // Neither that of all volumes nor that of none.
    SLOT_OF_ALL + 1 + number % (SLOT_OF_NONE - SLOT_OF_ALL - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_a_slot_of_its_own() {
        for name in ["", "a", "data", "postgres"] {
            assert!((1..SLOT_OF_NONE).contains(&slot_of(name)), "{name}");
        }
        assert_ne!(slot_of("a"), slot_of("b"));
    }
}

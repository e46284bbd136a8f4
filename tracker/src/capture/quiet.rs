//! What tells whether a volume is quiet: counters of changes, one slot for each volume, in memory that is shared with the kernel
//! and read without a system call; and a program that tells of one file whether it can be stored to through a mapping.
#![expect(unsafe_code, reason = "the kernel's array of counters is mapped into this process")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use common::limits::{SLOT_OF_ALL, SLOT_OF_NONE, SLOTS};
use common::maps::{ctrl, mapped};
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::lease::monotonic_ns;
use super::sys::{self, Table};

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

/// For how long writes are counted after they were asked for: also when this process dies, no longer.
const COUNTED: Duration = Duration::from_secs(10);
/// What is left of that when it is asked for again.
const LEFT: Duration = Duration::from_secs(5);
/// What is left of that when it counts as over: the counters are read a little later.
const OVER: Duration = Duration::from_secs(1);

/// Held while a time is set until which writes are counted.
static ASKING: Mutex<()> = Mutex::new(());

/// Has the kernel count writes that set no mark of their own.
#[derive(Debug, Default)]
struct WriteCounting {
    /// Until when they are counted, in ns of `CLOCK_MONOTONIC`.
    until: AtomicU64,
    /// How often they were not.
    gaps: AtomicU64,
}

impl WriteCounting {
    /// Goes on counting. The answer is another one whenever writes were not counted since the last call. `ask` has the kernel count
    /// until then.
    fn go_on(&self, now: impl Fn() -> u64, ask: impl FnOnce(u64) -> std::io::Result<()>) -> u64 {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let left = self.until.load(Ordering::SeqCst).saturating_sub(now());
        if left < ns(OVER) {
            self.gaps.fetch_add(1, Ordering::SeqCst);
        }
        if left < ns(LEFT) {
            // The volumes of a capture share the word. The clock is read inside, so that nobody sets it back.
            let _one_at_a_time = ASKING.lock();
            let until = now() + ns(COUNTED);
            // If it is refused, every call is another gap.
            self.until.store(ask(until).map_or(0, |()| until), Ordering::SeqCst);
        }
        self.gaps.load(Ordering::SeqCst)
    }
}

/// Looks for moments in which nothing changes. It outlives the capture it is of, and then sees no change any more: whoever uses
/// it makes sure that the capture is still the same.
#[derive(Debug)]
pub struct QuietProbe {
    counters: ChangeCounters,
    mapped_now: OwnedFd,
    /// The control words, where writes are counted only while somebody asks for it.
    control: Option<Table<u32, u64>>,
    writes: WriteCounting,
}

impl QuietProbe {
    /// `control`: the control words, where writes are counted only while somebody asks for it.
    pub(super) fn new(
        changes: BorrowedFd<'_>,
        mapped_now: OwnedFd,
        control: Option<Table<u32, u64>>,
    ) -> Result<Self, Errno> {
        // The program notes whose capture this is. It is asked about no descriptor of ours, and where it fails it is not needed.
        let _ = sys::run_once(mapped_now.as_fd(), &[u64::from(u32::MAX)]);
        let writes = WriteCounting::default();
        Ok(Self { counters: ChangeCounters::map(changes)?, mapped_now, control, writes })
    }

    /// As `ChangeCounters::of`. Where writes have to be asked for, they are counted from the first call on.
    #[must_use]
    pub fn changes(&self, slot: u32) -> u64 {
        // Asked for before the counters are read: a write that begins after that is counted.
        let ask =
            |control: &Table<u32, u64>| self.writes.go_on(monotonic_ns, |until| control.set(ctrl::WRITES_UNTIL, until));
        let gaps = self.control.as_ref().map_or(0, ask);
        self.counters.of(slot).wrapping_add(gaps)
    }

    /// How many changes were counted for this slot, without writes that set no mark: if it has not risen, nothing was marked.
    #[must_use]
    pub fn marked(&self, slot: u32) -> u64 {
        self.counters.of(slot)
    }

    /// Whether a file can be stored to through a mapping now; `None` where that cannot be told.
    #[must_use]
    pub fn is_mapped(&self, file: BorrowedFd<'_>) -> Option<bool> {
        let descriptor = u64::try_from(file.as_raw_fd()).ok()?;
        match sys::run_once(self.mapped_now.as_fd(), &[descriptor]).ok()? {
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
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_volume_has_a_slot_of_its_own() {
        for name in ["", "a", "data", "postgres"] {
            assert!((1..SLOT_OF_NONE).contains(&slot_of(name)), "{name}");
        }
        assert_ne!(slot_of("a"), slot_of("b"));
    }

    /// Two answers are the same only where writes were counted between them.
    #[test]
    fn a_time_in_which_writes_were_not_counted_is_a_change() {
        let writes = WriteCounting::default();
        let asked = Cell::new(0);
        let at = |second: u64| {
            let ask = |until| {
                asked.set(until / 1_000_000_000);
                Ok(())
            };
            writes.go_on(|| second * 1_000_000_000, ask)
        };
        let first = at(100);
        assert_eq!(asked.get(), 110);
        assert_eq!((at(104), asked.get()), (first, 110), "there is time enough left");
        assert_eq!((at(107), asked.get()), (first, 117), "it is asked for again");
        assert_ne!(at(130), first, "it was over");
        let second = at(131);
        assert_eq!(at(132), second);
        // The counters are read a little after the clock.
        assert_ne!(writes.go_on(|| 139_500_000_000, |_| Err(std::io::ErrorKind::Other.into())), second);
        let refused = at(140);
        assert_ne!(refused, second, "it was refused");
        assert_eq!(at(141), refused);
    }
}

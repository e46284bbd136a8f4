//! Atomic read-modify-write on map values, which two CPUs may change at once.

use core::intrinsics::{AtomicOrdering, atomic_and, atomic_cxchg, atomic_or, atomic_xadd};

/// Sets `bits` in `*word`, unless they are all set. Reads first, so that hot cache lines stay shared.
///
/// # Safety
/// `word` points into a live map value.
#[inline(always)]
pub(crate) unsafe fn or(word: *mut u64, bits: u64) {
    // SAFETY: by contract; a torn read is impossible for an aligned word.
    unsafe {
        if core::ptr::read_volatile(word) & bits != bits {
            atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(word, bits);
        }
    }
}

/// Sets `bits` in `*word`, and returns what it was. Whoever reads another word after this sees what was stored before others did the same.
///
/// # Safety
/// `word` points into a live map value.
#[inline(always)]
pub(crate) unsafe fn fetch_or(word: *mut u64, bits: u64) -> u64 {
    // SAFETY: by contract. The result is used, so that this is the instruction that orders (`BPF_FETCH`, since Linux 5.12).
    core::hint::black_box(unsafe { atomic_or::<u64, u64, { AtomicOrdering::SeqCst }>(word, bits) })
}

/// Clears all but `bits` of `*word`, and returns what it was.
///
/// # Safety
/// `word` points into a live map value.
#[inline(always)]
pub(crate) unsafe fn fetch_and(word: *mut u64, bits: u64) -> u64 {
    // SAFETY: by contract, and as `fetch_or`.
    core::hint::black_box(unsafe { atomic_and::<u64, u64, { AtomicOrdering::SeqCst }>(word, bits) })
}

/// Adds `more` to `*word`.
///
/// # Safety
/// `word` points into a live map value.
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u64, more: u64) {
    // SAFETY: by contract.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, more) };
}

/// Adds `more` to `*word`, after everything that was stored before: whoever reads this sees that, too.
///
/// # Safety
/// `word` points into a live map value.
#[inline(always)]
pub(crate) unsafe fn add_after(word: *mut u64, more: u64) {
    // SAFETY: by contract. An addition whose result is used is not known to all processors that programs are compiled for.
    unsafe {
        fetch_or(word, 0);
        add(word, more);
    }
}

/// Replaces `*word` by `new` while `better(*word, new)` holds; false if that did not succeed within `tries`.
///
/// # Safety
/// `word` points into a live map value.
#[inline(always)]
pub(crate) unsafe fn replace_if(word: *mut u64, new: u64, tries: u32, better: impl Fn(u64, u64) -> bool) -> bool {
    for _ in 0..tries {
        // SAFETY: by contract.
        let old = unsafe { core::ptr::read_volatile(word) };
        if !better(old, new) {
            return true;
        }
        // SAFETY: by contract.
        let (_, done) =
            unsafe { atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new) };
        if done {
            return true;
        }
    }
    false
}

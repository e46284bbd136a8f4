//! Which types are keys and values of maps: the kernel reads and writes their bytes.
#![expect(unsafe_code, reason = "that every bit pattern is a value is a promise of each type")]

/// Integers and `repr(C)` structs of integers without padding: every bit pattern is a value.
///
/// # Safety
/// The type has no padding and no invalid bit pattern.
pub(super) unsafe trait Plain: Copy {
    /// All bits zero.
    const ZERO: Self;
}
// SAFETY: an integer.
unsafe impl Plain for u32 {
    const ZERO: Self = 0;
}
// SAFETY: an integer.
unsafe impl Plain for u64 {
    const ZERO: Self = 0;
}
// SAFETY: an array of integers.
unsafe impl<const N: usize> Plain for [u64; N] {
    const ZERO: Self = [0; N];
}
// SAFETY: integers only; its size is asserted in `common` to be the sum of theirs.
unsafe impl Plain for common::maps::GroupKey {
    const ZERO: Self = Self { ino: 0, dev: 0, group: 0 };
}
// SAFETY: as above.
unsafe impl Plain for common::maps::GroupMarks {
    const ZERO: Self = Self::NONE;
}
// SAFETY: as above.
unsafe impl Plain for common::maps::InodeKey {
    const ZERO: Self = Self { ino: 0, dev: 0, pad: 0 };
}
// SAFETY: as above.
unsafe impl Plain for common::maps::InodeMark {
    const ZERO: Self = Self { flags: 0, from: 0, end: 0 };
}
// SAFETY: as above.
unsafe impl Plain for common::maps::WriterKey {
    const ZERO: Self = Self { cgroup: 0, slot: 0, pad: 0 };
}
// SAFETY: as above.
unsafe impl Plain for common::maps::LastWrite {
    const ZERO: Self = Self { task: 0, inode: 0, start: 0, end: 0 };
}
// SAFETY: as above.
unsafe impl Plain for common::maps::Inflight {
    const ZERO: Self = Self { ino: 0, start: 0, len: 0, began_ns: 0, dev: 0, flags: 0 };
}

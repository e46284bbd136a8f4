//! The kernel object that this binary carries.

use std::path::PathBuf;

use crate::test_switches;

include!(concat!(env!("OUT_DIR"), "/object.rs"));

/// The kernel object in this binary; `None` if it was built without one (`cargo xtask build-ebpf` makes one).
#[must_use]
pub fn object() -> Option<&'static [u8]> {
    static OBJECT: std::sync::OnceLock<Option<&'static [u8]>> = std::sync::OnceLock::new();
    *OBJECT.get_or_init(|| match test_switches::value::<PathBuf>("TRACKER_EBPF_OBJECT") {
        // Read once per process and kept, like the embedded one.
        Some(path) => std::fs::read(path).ok().map(|bytes| &*bytes.leak()),
        None => EMBEDDED.map(|aligned| &aligned.0),
    })
}

/// Bytes with the alignment of ELF headers, which `include_bytes` alone does not give.
#[repr(C, align(32))]
struct Aligned<T: ?Sized>(T);

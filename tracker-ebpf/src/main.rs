//! The kernel object: one thin program per hook of `common::hooks`, over one record core.
//!
//! A program turns its tracepoint's arguments into (inode, range) and passes them to `record`. It decides only whether to
//! mark or to widen. Each program is `pub fn` because the macro exports it under its own name, by which user space finds
//! it.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(unsafe_code, reason = "every helper call and every kernel pointer of a BPF program is unsafe by nature")]
#![expect(
    internal_features,
    reason = "the BPF target has no core::sync::atomic read-modify-write operations, only the intrinsics"
)]

mod atomic;
mod calls;
mod functions;
mod globals;
mod kernel;
mod maps;
mod programs;
mod record;
mod writers;
mod writes;

/// The verifier rejects every path that could reach this.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Only GPL-compatible programs may read kernel memory and the task's registers.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub(crate) static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

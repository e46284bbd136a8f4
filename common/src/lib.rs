//! What the kernel object and user space must agree on: map keys and values, hooks, kernel struct fields, limits.
//!
//! Data only. Nothing here allocates, does a system call, or decides more than "which bytes of a file does this range touch".
#![no_std]

pub mod fields;
pub mod functions;
pub mod hooks;
pub mod limits;
pub mod maps;
pub mod ranges;
pub mod syscalls;

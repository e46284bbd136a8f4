//! Reads kernel objects through the offsets in `globals`. Every read can fail; the caller then widens.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    bindings::task_struct,
    helpers::{bpf_probe_read_kernel, generated},
};
use common::{
    fields::ABSENT,
    limits::BLOCK_BYTES,
    syscalls::{self, Cause},
};

use crate::globals;

/// Address of a kernel object.
pub(crate) type Address = *const c_void;

/// Reads the member at `offset` of the object at `base`.
#[inline(always)]
pub(crate) fn member<T>(base: Address, offset: &Global<u32>) -> Option<T> {
    let offset = offset.load();
    if base.is_null() || offset == ABSENT {
        return None;
    }
    // SAFETY: the helper checks the address; a bad one is an error, not a fault.
    unsafe { bpf_probe_read_kernel(base.byte_add(offset as usize).cast::<T>()) }.ok()
}

/// The inode of a `kiocb`'s file.
#[inline(always)]
pub(crate) fn kiocb_inode(kiocb: Address) -> Option<Address> {
    member(member(kiocb, &globals::KIOCB_FILE)?, &globals::FILE_INODE)
}

/// The VFS inode inside an `xfs_inode`.
#[inline(always)]
pub(crate) fn xfs_inode(inode: Address) -> Option<Address> {
    let offset = globals::XFS_VNODE.load();
    if inode.is_null() || offset == ABSENT {
        return None;
    }
    Some(inode.wrapping_byte_add(offset as usize))
}

/// First byte and length of a folio in its file.
#[inline(always)]
pub(crate) fn folio_range(folio: Address) -> Option<(u64, u64)> {
    let index: u64 = member(folio, &globals::FOLIO_INDEX)?;
    let flags: u64 = member(folio, &globals::FOLIO_FLAGS)?;
    let head = globals::PG_HEAD.load();
    let pages = if flags >> (head & 63) & 1 == 0 {
        1
    } else if globals::FOLIO_PAGES.load() != ABSENT {
        u64::from(member::<u32>(folio, &globals::FOLIO_PAGES)?)
    } else {
        let order = if globals::FOLIO_ORDER.load() != ABSENT {
            member::<u8>(folio, &globals::FOLIO_ORDER)?
        } else {
            // Since 6.6 it is the lowest byte of the second page's flags.
            (member::<u64>(folio, &globals::FOLIO_FLAGS_1)? & 0xff) as u8
        };
        1 << (order & 63)
    };
    // A large folio without pages was misread.
    if pages == 0 {
        return None;
    }
    Some((index.wrapping_mul(BLOCK_BYTES), pages.wrapping_mul(BLOCK_BYTES)))
}

/// The file type bits of the inode's mode.
#[inline(always)]
pub(crate) fn file_type(inode: Address) -> Option<u16> {
    Some(member::<u16>(inode, &globals::INODE_MODE)? & 0o170_000)
}

/// Whether it can be found out which system call a task is in.
#[inline(always)]
fn knows_calls() -> bool {
    globals::REGS_SYSCALL.load() != ABSENT && globals::REGS_IP.load() != ABSENT
}

/// The registers with which the current task entered the kernel.
#[inline(always)]
fn registers() -> Address {
    // SAFETY: both helpers are available to tracing programs; the second takes what the first gives.
    unsafe {
        let task: *mut task_struct = generated::bpf_get_current_task_btf();
        generated::bpf_task_pt_regs(task) as Address
    }
}

/// Whether the current task has never been in user mode, so that it has no registers of it: a kernel thread, or a worker of io_uring.
/// False where that cannot be told.
#[inline(always)]
pub(crate) fn is_kernel_thread() -> bool {
    knows_calls() && member::<u64>(registers(), &globals::REGS_IP) == Some(0)
}

/// Whether the current task may be inside `ioctl`. Kernel threads are not: their system call is 0.
#[inline(always)]
pub(crate) fn may_be_ioctl() -> bool {
    !knows_calls() || member::<u64>(registers(), &globals::REGS_SYSCALL).is_none_or(syscalls::is_ioctl)
}

/// Whether the current task is inside `open_by_handle_at`. False where that cannot be told.
#[inline(always)]
pub(crate) fn opens_by_handle() -> bool {
    knows_calls() && member::<u64>(registers(), &globals::REGS_SYSCALL).is_some_and(syscalls::is_open_by_handle)
}

/// What the current task is doing, judged by its system call; with `Truncate`, the requested size.
#[inline(always)]
pub(crate) fn cause() -> (Cause, u64) {
    if !knows_calls() || globals::REGS_ARGUMENT_2.load() == ABSENT {
        return (Cause::Unknown, 0);
    }
    let regs = registers();
    // The registers of a kernel thread, an io_uring worker or its poll thread are not those of a system call: there it is
    // 0.
    match member::<u64>(regs, &globals::REGS_IP) {
        None | Some(0) => return (Cause::Unknown, 0),
        Some(_) => {}
    }
    match member::<u64>(regs, &globals::REGS_SYSCALL).map_or(Cause::Unknown, syscalls::cause) {
        Cause::Truncate => match member::<u64>(regs, &globals::REGS_ARGUMENT_2) {
            Some(size) => (Cause::Truncate, size),
            None => (Cause::Unknown, 0),
        },
        cause => (cause, 0),
    }
}

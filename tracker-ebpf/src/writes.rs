//! Marks by what a buffered write has written, where a folio is larger than that.
//!
//! `writeback_dirty_folio` tells of a folio, once until it is clean again: of a write into a folio that is dirty it does not tell, and
//! one of 1 MiB is marked whole for 4 KiB. The hooks here tell of every buffered write of ext4 and XFS with its range. So a folio's own
//! mark is left out where
//! - a write of the same task explains why it became dirty, and
//! - no store through a mapping can hide in it. Such a store sets no mark while the folio is dirty. So the first writable mapping of
//!   a file is told of when it is made, before any store: the whole file is marked then, and its folios from then on.
//!
//! What explains no mark is marked by the folio, as without these hooks.

use core::ffi::c_void;

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext};
use common::{
    fields::ABSENT,
    hooks::{HookId, counter_cell},
    limits,
    maps::{LastWrite, counter, ctrl, exact, flag, near, watched},
    syscalls::{EXT4_MAGIC, XFS_MAGIC},
};

use crate::{
    atomic, globals,
    kernel::{self, Address},
    maps::{self, NEAR, WRITES, count},
    programs,
    record::{Marked, Target},
};

/// `VM_SHARED` and `VM_MAYWRITE` of `include/linux/mm.h`, the same from 2.6 to 6.18: stores reach the file, now or after `mprotect`.
const SHARED_MAY_WRITE: u64 = 0x08 | 0x20;

/// Remembers that the current task writes `len` bytes at `start`, which are marked; 0: what it makes dirty next, nothing explains.
#[inline(always)]
fn note(inode: Address, start: u64, len: u64) {
    let task = bpf_get_current_pid_tgid();
    if let Some(last) = WRITES.get_ptr_mut(task as u32 & (limits::WRITES_ENTRIES - 1)) {
        let write = LastWrite { task, inode: inode as u64, start, end: start.saturating_add(len) };
        // Another task with the same entry may mix its own into this. Then a folio is not explained, or by the range of the other.
        // SAFETY: the map just returned the pointer.
        unsafe { core::ptr::write_volatile(last, write) };
    }
}

/// Whether the last write of the current task touches these `len` bytes at `start`.
#[inline(always)]
pub(crate) fn is_of_last(inode: Address, start: u64, len: u64) -> bool {
    let task = bpf_get_current_pid_tgid();
    let Some(last) = WRITES.get(task as u32 & (limits::WRITES_ENTRIES - 1)) else { return false };
    last.task == task && last.inode == inode as u64 && last.start < start.saturating_add(len) && start < last.end
}

/// Whether the writes of this inode may be marked exactly. Where not, none of its folios is dirty: the first one that becomes so since
/// the inode is in memory, under its lock, is marked whole and says so here.
#[inline(always)]
fn is_near(inode: Address) -> bool {
    NEAR.get(near(inode as u64)).is_some_and(|value| *value != 0)
}

/// From now on the hooks look at writes of this inode.
#[inline(always)]
pub(crate) fn look_at(inode: Address) {
    if let Some(value) = NEAR.get_ptr_mut(near(inode as u64)) {
        // SAFETY: the map just returned the pointer.
        unsafe { core::ptr::write_volatile(value, 1) };
    }
}

/// A buffered write of `len` bytes at `start`: of bytes that are there already, or under the inode lock.
#[inline(always)]
fn written(inode: Address, hook: HookId, start: u64, len: u64) -> Option<()> {
    if !is_near(inode) {
        return None;
    }
    let marked = Marked::of_every_write(inode, hook).is_some_and(|target| target.written(start, len));
    // Also what is not marked, because an earlier write of the task explains none of its folios.
    note(inode, start, if marked { len } else { 0 });
    Some(())
}

/// The current task does something else to this inode than a write that is marked. It may make folios dirty that its last write touched.
#[inline(always)]
pub(crate) fn forget(inode: Address) {
    if is_near(inode) {
        note(inode, 0, 0);
    }
}

/// `ext4_write_end(inode, position, length, copied)`: after the bytes were copied, before the folio becomes dirty (Linux 6.1 to 6.18).
#[raw_tracepoint(tracepoint = "ext4_write_end")]
pub(crate) fn ext4_write(ctx: RawTracePointContext) -> Option<()> {
    written(ctx.arg(0), HookId::Ext4Write, ctx.arg(1), u64::from(ctx.arg::<u32>(2)))
}

/// `ext4_da_write_end(inode, position, length, copied)`: as `ext4_write_end`.
#[raw_tracepoint(tracepoint = "ext4_da_write_end")]
pub(crate) fn ext4_da_write(ctx: RawTracePointContext) -> Option<()> {
    written(ctx.arg(0), HookId::Ext4DaWrite, ctx.arg(1), u64::from(ctx.arg::<u32>(2)))
}

/// `ext4_journalled_write_end(inode, position, length, copied)`: as `ext4_write_end`, where the data go through the journal (for this file
/// since `chattr +j`). The journal's thread makes folios dirty later, so they explain themselves.
#[raw_tracepoint(tracepoint = "ext4_journalled_write_end")]
pub(crate) fn ext4_journalled(ctx: RawTracePointContext) -> Option<()> {
    let inode: Address = ctx.arg(0);
    if !is_near(inode) {
        return None;
    }
    note(inode, 0, 0);
    let target = Marked::of_every_write(inode, HookId::Ext4JournalledWrite)?;
    target.unsure();
    target.written(ctx.arg(1), u64::from(ctx.arg::<u32>(2)));
    Some(())
}

/// `xfs_file_buffered_write(kiocb, iter)`: with the inode locked, which a reader waits for, before the bytes are copied
/// (`xfs_file_buffered_write`, Linux 6.1 to 6.18). The position is final: `xfs_file_write_checks` was called.
#[raw_tracepoint(tracepoint = "xfs_file_buffered_write")]
pub(crate) fn xfs_write(ctx: RawTracePointContext) -> Option<()> {
    let kiocb: Address = ctx.arg(0);
    let Some(inode) = kernel::kiocb_inode(kiocb) else {
        count(counter::LOST);
        return None;
    };
    let start = kernel::member::<u64>(kiocb, &globals::KIOCB_POS);
    match (start, kernel::member::<u64>(ctx.arg(1), &globals::ITER_COUNT)) {
        (Some(start), Some(len)) => written(inode, HookId::XfsWrite, start, len),
        // Into a dirty folio no other hook would tell of it.
        _ => {
            count(counter::UNREADABLE);
            Target::marked(inode, HookId::XfsWrite)?.flags(flag::RESCAN);
            Some(())
        }
    }
}

/// `ma_write(function, state, pivot, entry)`: an entry is stored into a maple tree, since Linux 6.1 also each mapping of a process into
/// its own (`mas_store_prealloc`), before it can be used. What is no mapping has no such file.
#[raw_tracepoint(tracepoint = "ma_write")]
pub(crate) fn mapping(ctx: RawTracePointContext) -> Option<()> {
    let vma: Address = ctx.arg(3);
    let file: Address = kernel::member(vma, &globals::VMA_FILE)?;
    if file.is_null() {
        return None;
    }
    let flags = kernel::member::<u64>(vma, &globals::VMA_FLAGS).unwrap_or(SHARED_MAY_WRITE);
    if flags & SHARED_MAY_WRITE != SHARED_MAY_WRITE {
        return None;
    }
    let target = Target::perhaps(kernel::member(file, &globals::FILE_INODE)?)?;
    count(counter_cell(HookId::Mapping));
    now_mapped(&target, maps::watched(target.dev, target.ino)?);
    Some(())
}

/// From now on, stores through a mapping are possible. Those into folios that are dirty now would set no mark.
#[inline(always)]
fn now_mapped(target: &Target, value: *mut u64) {
    // First, so that no folio's mark is left out after the whole file was marked.
    // SAFETY: a pointer the map just gave.
    let before = unsafe { atomic::fetch_or(value, watched::MAPPED) };
    if watched::tells_every_write(before)
        && let Some(marked) = target.if_marked()
    {
        marked.flags(flag::WHOLE);
    }
}

/// From now on the writes of this file are marked exactly, if that is possible. It costs each write a program that tells of it. That is
/// worth it where a folio of several blocks becomes dirty, and where user space asks for it, which then writes the file back.
#[inline(always)]
pub(crate) fn begin(target: &Marked, inode: Address, mapping: Address) {
    let on = maps::control(ctrl::EXACT_ON);
    if on == 0 || target.was_mapped() || globals::VMA_FILE.load() == ABSENT {
        return;
    }
    let wanted = match target.magic() {
        EXT4_MAGIC => exact::EXT4,
        XFS_MAGIC => exact::XFS,
        _ => return,
    };
    // A mapping that was made before this inode was watched.
    if on & wanted == 0 || programs::is_writably_mapped(mapping) != Some(false) {
        return;
    }
    let Some(value) = maps::watched(target.dev, target.ino) else { return };
    look_at(inode);
    // SAFETY: a pointer the map just gave.
    let before = unsafe { atomic::fetch_or(value, watched::EXACT) };
    if before & watched::MAPPED != 0 {
        // A mapping was made meanwhile. It saw no reason to mark the file, but a write may have left out its folio's mark since.
        target.flags(flag::WHOLE);
    }
}

/// Whether the writes of the file of a descriptor of the calling process, argument 0, are marked exactly (`common::maps::exact`). If not,
/// they are from now on where argument 1 is not 0. Run by user space, and attached to nothing, as `mapped_now`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/writeback_dirty_folio")]
extern "C" fn exact_now(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    is_exact_now(ctx.arg(0), ctx.arg::<u64>(1) != 0).unwrap_or(exact::NO)
}

#[inline(always)]
fn is_exact_now(descriptor: u64, may_begin: bool) -> Option<u32> {
    let inode = programs::descriptor_inode(descriptor)?;
    let target = Target::perhaps(inode)?;
    let value = maps::watched(target.dev, target.ino)?;
    let mapping = kernel::member(inode, &globals::INODE_MAPPING)?;
    if programs::is_writably_mapped(mapping)? {
        now_mapped(&target, value);
        return None;
    }
    // SAFETY: a pointer the map just gave.
    let before = unsafe { core::ptr::read_volatile(value) };
    if !watched::tells_every_write(before) {
        if may_begin {
            begin(&target.if_marked()?, inode, mapping);
        }
        // SAFETY: as above.
        let now = unsafe { core::ptr::read_volatile(value) };
        // A write under way may have passed its hook before: a folio that it makes dirty from now on is marked whole.
        return watched::tells_every_write(now).then_some(exact::FROM_NOW);
    }
    if watched::is_exact(before) {
        return Some(exact::YES);
    }
    // SAFETY: as above.
    unsafe { atomic::fetch_and(value, !watched::UNSURE) };
    Some(exact::FROM_NOW)
}

/// Sets the slot of a watched inode, and answers 1; 0: it is not watched (`common::maps::watched::PROGRAM`).
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/writeback_dirty_folio")]
extern "C" fn set_slot(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let (dev, ino, slot): (u32, u64, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let Some(value) = maps::watched(dev, ino) else { return 0 };
    // SAFETY: the map just returned the pointer.
    unsafe { atomic::fetch_and(value, watched::kept_with(slot)) };
    1
}

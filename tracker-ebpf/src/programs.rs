//! The programs: one per hook, named as in `common::hooks`.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_ktime_get_ns, bpf_probe_read_kernel},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use common::{
    hooks::HookId,
    limits::BLOCK_BYTES,
    maps::{Inflight, counter, ctrl, flag, mapped},
    syscalls::{BTRFS_MAGIC, Cause, OVERLAY_MAGIC, TMPFS_MAGIC},
};

use crate::{
    globals,
    kernel::{self, Address},
    maps::{self, INFLIGHT, count},
    record::{Marked, Target},
    writers::is_daemon,
    writes,
};

/// `iov_iter.data_source`: memory is the source, so the file is written.
const SOURCE: u8 = 1;
/// `FALLOC_FL_KEEP_SIZE`; with no other bit, content stays.
const KEEP_SIZE: u64 = 1;

/// `writeback_dirty_folio(folio, mapping)`
#[raw_tracepoint(tracepoint = "writeback_dirty_folio")]
pub(crate) fn dirty_folio(ctx: RawTracePointContext) -> Option<()> {
    let mapping: Address = ctx.arg(1);
    let Some(inode) = kernel::member::<Address>(mapping, &globals::MAPPING_HOST) else {
        count(counter::LOST);
        return None;
    };
    let target = Target::marked(inode, HookId::DirtyFolio)?;
    match kernel::folio_range(ctx.arg(0)) {
        // Its write is marked, and stores that hide in a dirty folio would have been told of by a mapping.
        Some((start, len)) if target.is_exact() && writes::is_of_last(inode, start, len) => {}
        Some((start, len)) => {
            if target.tells_every_write() {
                writes::look_at(inode);
                target.unsure();
            } else if len > BLOCK_BYTES {
                writes::begin(&target, inode, mapping);
            }
            target.range(start, len);
            if is_writably_mapped(mapping) == Some(true) {
                target.flags(flag::MAPPED);
            }
        }
        None => {
            count(counter::UNREADABLE);
            target.flags(flag::RESCAN);
        }
    }
    Some(())
}

/// The inode of a direct request; counts if it cannot be read, because nothing can be marked then.
#[inline(always)]
fn kiocb_inode(kiocb: Address) -> Option<Address> {
    let inode = kernel::kiocb_inode(kiocb);
    if inode.is_none() {
        count(counter::LOST);
    }
    inode
}

/// `iomap_dio_rw_begin(kiocb, iter, dio_flags, done_before)`
///
/// Remembers every direct write of a tracked superblock, watched or not: the inode may be watched before it completes.
#[raw_tracepoint(tracepoint = "iomap_dio_rw_begin")]
pub(crate) fn dio_begin(ctx: RawTracePointContext) -> Option<()> {
    dio_began(ctx.arg(0), ctx.arg(1))
}

/// A direct request begins.
#[inline(always)]
pub(crate) fn dio_began(kiocb: Address, iter: Address) -> Option<()> {
    let target = Target::of(kiocb_inode(kiocb)?, HookId::DioBegin)?;
    let key = kiocb as u64;
    let source = kernel::member::<u8>(iter, &globals::ITER_SOURCE);
    if source.is_some_and(|source| source != SOURCE) {
        // A read. Its kiocb may have belonged to a write that failed before it could complete.
        if INFLIGHT.get_ptr(key).is_some() {
            let _ = INFLIGHT.remove(key);
        }
        return Some(());
    }
    let start = kernel::member::<u64>(kiocb, &globals::KIOCB_POS);
    let len = kernel::member::<u64>(iter, &globals::ITER_COUNT);
    let (Some(start), Some(len)) = (start, len) else {
        count(counter::UNREADABLE);
        maps::set_control(ctrl::MARK_UNKNOWN_DIO, 1);
        if let Some(marked) = target.if_marked() {
            marked.flags(flag::RESCAN);
        }
        return Some(());
    };
    // SAFETY: a helper without arguments.
    let began_ns = unsafe { bpf_ktime_get_ns() };
    let entry = Inflight { ino: target.ino, start, len, began_ns, dev: target.dev, flags: 0 };
    if INFLIGHT.insert(key, entry, 0).is_err() {
        count(counter::INFLIGHT_FULL);
        maps::set_control(ctrl::MARK_UNKNOWN_DIO, 1);
    }
    if let Some(marked) = target.if_marked() {
        marked.range(start, len);
    }
    Some(())
}

/// `iomap_dio_complete(kiocb, error, ret)`
///
/// Marks what was submitted, not what succeeded: a failed write may have partly reached the disk.
#[raw_tracepoint(tracepoint = "iomap_dio_complete")]
pub(crate) fn dio_complete(ctx: RawTracePointContext) -> Option<()> {
    let kiocb: Address = ctx.arg(0);
    let key = kiocb as u64;
    // SAFETY: copied at once; the entry is this request's own until it is removed below.
    if let Some(&entry) = unsafe { INFLIGHT.get(key) } {
        count(common::hooks::counter_cell(HookId::DioComplete));
        if let Some(marked) = Marked::by_number(entry.dev, entry.ino) {
            marked.range(entry.start, entry.len);
        }
        let _ = INFLIGHT.remove(key);
        return Some(());
    }
    dio_unknown(kiocb, Some(ctx.arg(2)))
}

/// Completion of a direct request without a known begin, with `done` bytes or an error; `None`: unknown.
#[inline(always)]
pub(crate) fn dio_unknown(kiocb: Address, done: Option<i64>) -> Option<()> {
    if maps::control(ctrl::MARK_UNKNOWN_DIO) == 0 && maps::control(ctrl::MARK_EARLIER_DIO) == 0 {
        return Some(());
    }
    // A write whose begin did not fit or was before the programs, or any read. The position has already moved past it.
    let target = Target::marked(kiocb_inode(kiocb)?, HookId::DioComplete)?;
    count(counter::UNKNOWN_DIO);
    match (kernel::member::<u64>(kiocb, &globals::KIOCB_POS), done) {
        (Some(end), Some(done)) if done > 0 && end >= done as u64 => target.range(end - done as u64, done as u64),
        (Some(_), Some(0)) => {}
        _ => target.flags(flag::RESCAN),
    }
    Some(())
}

/// `mapping_map_writable` counts mappings that are shared and may be written.
#[inline(always)]
pub(crate) fn is_writably_mapped(mapping: Address) -> Option<bool> {
    kernel::member::<i32>(mapping, &globals::MAPPING_WRITABLE).map(|count| count > 0)
}

/// Whether the file of a descriptor of the calling process, argument 0, can be stored to through a mapping (`common::maps::mapped`).
/// Run by user space as a test run of a raw tracepoint (`bpf_prog_test_run_raw_tp`, since 5.10), and attached to nothing. Not by
/// aya's macro, which drops what a program returns.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/writeback_dirty_folio")]
extern "C" fn mapped_now(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    maps::set_control(ctrl::DAEMON, bpf_get_current_pid_tgid() >> 32);
    match descriptor_inode(ctx.arg(0)).and_then(of_page_cache) {
        None => mapped::UNKNOWN,
        Some(false) => mapped::NO,
        Some(true) => mapped::YES,
    }
}

#[inline(always)]
pub(crate) fn descriptor_inode(descriptor: u64) -> Option<Address> {
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() } as Address;
    let table: Address = kernel::member(kernel::member(task, &globals::TASK_FILES)?, &globals::FILES_TABLE)?;
    let files: Address = kernel::member(table, &globals::TABLE_FILES)?;
    // The descriptor is open, so the table has it; a wrong one reads nothing or another pointer, and no fault.
    let at = files.wrapping_byte_add((descriptor & 0xffff_ffff) as usize * size_of::<Address>());
    // SAFETY: the helper checks the address.
    let file = unsafe { bpf_probe_read_kernel(at.cast::<Address>()) }.ok()?;
    kernel::member(file, &globals::FILE_INODE)
}

/// Of an overlay's own inode nothing can be told: mappings are those of the inode below.
#[inline(always)]
fn of_page_cache(inode: Address) -> Option<bool> {
    let sb: Address = kernel::member(inode, &globals::INODE_SB)?;
    if kernel::member::<u64>(sb, &globals::SB_MAGIC)? == OVERLAY_MAGIC {
        return None;
    }
    is_writably_mapped(kernel::member(inode, &globals::INODE_MAPPING)?)
}

/// A timestamp of `inode` was set.
#[inline(always)]
fn tick(inode: Address, hook: HookId) -> Option<()> {
    tick_cell(inode, common::hooks::counter_cell(hook))
}

/// As `tick`, with the counter of the hook.
#[inline(always)]
pub(crate) fn tick_cell(inode: Address, cell: u32) -> Option<()> {
    let target = Target::marked_cell(inode, cell)?;
    let flags = match kernel::file_type(inode) {
        Some(0o040_000) => flag::NAMES,
        Some(0o100_000) => match target.magic() {
            TMPFS_MAGIC => flag::META | flag::WHOLE | flag::DATA_NO_RANGE,
            BTRFS_MAGIC => match kernel::cause() {
                (Cause::Unknown, _) => flag::META | flag::WHOLE,
                (Cause::Truncate, size) => {
                    // The tick may come before or after the inode has its new size. Everything that was cut or never
                    // existed is after the requested size.
                    target.from(size);
                    flag::META
                }
                _ => flag::META,
            },
            0 => flag::META | flag::RESCAN,
            _ => flag::META,
        },
        Some(_) => flag::META,
        None => flag::META | flag::NAMES | flag::RESCAN,
    };
    if is_daemon() && kernel::opens_by_handle() {
        // A look asks whether a file still lives. For one that does not, btrfs and ext4 make a bad inode with its number, and give
        // it times (`iget_failed`). The call itself changes nothing, and nobody else's change is made in the daemon's task. The mark
        // stays: what has the number of a dead daemon is not trusted.
        target.flags_uncounted(flags);
    } else {
        target.flags(flags);
    }
    Some(())
}

/// `inode_set_ctime_to_ts(inode, ts)`
#[raw_tracepoint(tracepoint = "inode_set_ctime_to_ts")]
pub(crate) fn ctime_set(ctx: RawTracePointContext) -> Option<()> {
    tick(ctx.arg(0), HookId::CtimeSet)
}

/// `ctime_ns_xchg(inode, old, new, cur)`
#[raw_tracepoint(tracepoint = "ctime_ns_xchg")]
pub(crate) fn ctime_xchg(ctx: RawTracePointContext) -> Option<()> {
    tick(ctx.arg(0), HookId::CtimeXchg)
}

/// `ctime_xchg_skip(inode, ts)`
#[raw_tracepoint(tracepoint = "ctime_xchg_skip")]
pub(crate) fn ctime_skip(ctx: RawTracePointContext) -> Option<()> {
    tick(ctx.arg(0), HookId::CtimeSkip)
}

/// `ext4_fallocate_enter(inode, offset, len, mode)`
#[raw_tracepoint(tracepoint = "ext4_fallocate_enter")]
pub(crate) fn ext4_fallocate(ctx: RawTracePointContext) -> Option<()> {
    writes::forget(ctx.arg(0));
    let target = Target::marked(ctx.arg(0), HookId::Ext4Fallocate)?;
    let (start, len, mode): (u64, u64, u32) = (ctx.arg(1), ctx.arg(2), ctx.arg(3));
    if u64::from(mode) & !KEEP_SIZE == 0 {
        target.range(start, len);
    } else {
        // Kernels before 6.15 also come here for other modes, some of which move everything after the offset.
        target.from(start);
    }
    Some(())
}

/// `ext4_punch_hole(inode, offset, len, mode)`: parts of blocks are zeroed in memory.
#[raw_tracepoint(tracepoint = "ext4_punch_hole")]
pub(crate) fn ext4_punch(ctx: RawTracePointContext) -> Option<()> {
    writes::forget(ctx.arg(0));
    Target::marked(ctx.arg(0), HookId::Ext4Punch)?.range(ctx.arg(1), ctx.arg(2));
    Some(())
}

/// `ext4_zero_range(inode, offset, len, mode)`: as `ext4_punch_hole`.
#[raw_tracepoint(tracepoint = "ext4_zero_range")]
pub(crate) fn ext4_zero(ctx: RawTracePointContext) -> Option<()> {
    writes::forget(ctx.arg(0));
    Target::marked(ctx.arg(0), HookId::Ext4Zero)?.range(ctx.arg(1), ctx.arg(2));
    Some(())
}

/// `ext4_collapse_range(inode, offset, len)`
#[raw_tracepoint(tracepoint = "ext4_collapse_range")]
pub(crate) fn ext4_collapse(ctx: RawTracePointContext) -> Option<()> {
    Target::marked(ctx.arg(0), HookId::Ext4Collapse)?.from(ctx.arg(1));
    Some(())
}

/// `ext4_insert_range(inode, offset, len)`
#[raw_tracepoint(tracepoint = "ext4_insert_range")]
pub(crate) fn ext4_insert(ctx: RawTracePointContext) -> Option<()> {
    Target::marked(ctx.arg(0), HookId::Ext4Insert)?.from(ctx.arg(1));
    Some(())
}

/// `ext4_truncate_exit(inode)`
#[raw_tracepoint(tracepoint = "ext4_truncate_exit")]
pub(crate) fn ext4_truncate(ctx: RawTracePointContext) -> Option<()> {
    let inode: Address = ctx.arg(0);
    let target = Target::marked(inode, HookId::Ext4Truncate)?;
    match kernel::member::<u64>(inode, &globals::INODE_SIZE) {
        Some(size) => target.from(size),
        None => {
            count(counter::UNREADABLE);
            target.flags(flag::RESCAN);
        }
    }
    Some(())
}

/// The number of blocks in `ext4_es_remove_extent` that reaches the end of the file: `EXT_MAX_BLOCKS`.
const EXT4_LAST_BLOCK: u64 = 0xffff_ffff;

/// `ext4_es_remove_extent(inode, first block, blocks)`
///
/// The cached mapping of a range is dropped, because other blocks will be mapped there. Its callers hold the inode's lock
/// (`ext4_move_extents` and `swap_inode_boot_loader` by `lock_two_nondirectories`, Linux 6.1 to 6.18), so a flush that
/// swaps after this mark waits for the change before it reads.
///
/// `ext4_move_extents`, which only an `ioctl` calls, leaves the donor's old pages in memory (Linux 6.1 to 6.18), so such a
/// file must be read from the disk. All other callers drop the pages first, or do not change what is mapped.
#[raw_tracepoint(tracepoint = "ext4_es_remove_extent")]
pub(crate) fn ext4_remap(ctx: RawTracePointContext) -> Option<()> {
    let inode: Address = ctx.arg(0);
    let target = Target::marked(inode, HookId::Ext4Remap)?;
    // The inode is being removed from memory, which changes nothing: `ext4_clear_inode` drops the whole mapping.
    if kernel::member::<u32>(inode, &globals::INODE_COUNT) == Some(0) {
        return Some(());
    }
    let (first, blocks) = (u64::from(ctx.arg::<u32>(1)), u64::from(ctx.arg::<u32>(2)));
    let flags = if kernel::may_be_ioctl() { flag::REMAPPED } else { 0 };
    match kernel::member::<u8>(inode, &globals::INODE_BLKBITS) {
        Some(bits) if bits < 32 && first + blocks < EXT4_LAST_BLOCK => {
            target.range_and(flags, first << bits, blocks << bits);
        }
        Some(bits) if bits < 32 => target.range_and(flags, first << bits, u64::MAX),
        _ => {
            count(counter::UNREADABLE);
            target.flags(flag::RESCAN | flags);
        }
    }
    Some(())
}

/// The target of an `xfs_inode`.
#[inline(always)]
fn xfs_target(inode: Address, hook: HookId) -> Option<Marked> {
    let Some(inode) = kernel::xfs_inode(inode) else {
        count(counter::LOST);
        return None;
    };
    Target::marked(inode, hook)
}

/// Widens an `xfs_inode`.
#[inline(always)]
fn xfs_whole(inode: Address, hook: HookId) -> Option<()> {
    xfs_target(inode, hook)?.flags(flag::WHOLE);
    Some(())
}

/// `xfs_reflink_remap_range(source, source offset, len, destination, destination offset)`
#[raw_tracepoint(tracepoint = "xfs_reflink_remap_range")]
pub(crate) fn xfs_remap(ctx: RawTracePointContext) -> Option<()> {
    xfs_target(ctx.arg(3), HookId::XfsRemap)?.range(ctx.arg(4), ctx.arg(2));
    Some(())
}

/// `xfs_exchrange_mappings(request, inode 1, inode 2)`
#[raw_tracepoint(tracepoint = "xfs_exchrange_mappings")]
pub(crate) fn xfs_exchange(ctx: RawTracePointContext) -> Option<()> {
    let first = xfs_whole(ctx.arg(1), HookId::XfsExchange);
    xfs_whole(ctx.arg(2), HookId::XfsExchange).or(first)
}

/// `xfs_swap_extent_after(inode, which)`; fires for both inodes.
#[raw_tracepoint(tracepoint = "xfs_swap_extent_after")]
pub(crate) fn xfs_swap(ctx: RawTracePointContext) -> Option<()> {
    xfs_whole(ctx.arg(0), HookId::XfsSwap)
}

/// `xfs_collapse_file_space(inode)`
#[raw_tracepoint(tracepoint = "xfs_collapse_file_space")]
pub(crate) fn xfs_collapse(ctx: RawTracePointContext) -> Option<()> {
    xfs_whole(ctx.arg(0), HookId::XfsCollapse)
}

/// `xfs_insert_file_space(inode)`
#[raw_tracepoint(tracepoint = "xfs_insert_file_space")]
pub(crate) fn xfs_insert(ctx: RawTracePointContext) -> Option<()> {
    xfs_whole(ctx.arg(0), HookId::XfsInsert)
}

/// `xfs_free_file_space(inode)`
#[raw_tracepoint(tracepoint = "xfs_free_file_space")]
pub(crate) fn xfs_free(ctx: RawTracePointContext) -> Option<()> {
    xfs_whole(ctx.arg(0), HookId::XfsFree)
}

/// `xfs_zero_file_space(inode)`
#[raw_tracepoint(tracepoint = "xfs_zero_file_space")]
pub(crate) fn xfs_zero(ctx: RawTracePointContext) -> Option<()> {
    xfs_whole(ctx.arg(0), HookId::XfsZero)
}

/// `xfs_itruncate_extents_start(inode, new size)`
#[raw_tracepoint(tracepoint = "xfs_itruncate_extents_start")]
pub(crate) fn xfs_truncate(ctx: RawTracePointContext) -> Option<()> {
    xfs_target(ctx.arg(0), HookId::XfsTruncate)?.from(ctx.arg(1));
    Some(())
}

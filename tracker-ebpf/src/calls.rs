//! What the hooked functions change: from a function's arguments to marks. `common::functions` says why each is hooked.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    programs::{FEntryContext, FExitContext, ProbeContext},
};
use common::{
    functions::{FunctionId, counter_cell},
    maps::{Inflight, call_key, counter, ctrl, flag},
};

use crate::{
    globals,
    kernel::{self, Address},
    maps::{self, INFLIGHT, count},
    programs,
    record::{Marked, Target},
};

/// `ATTR_SIZE` of `include/linux/fs.h`, the same since 2.6: the size is being set.
const ATTR_SIZE: u32 = 1 << 3;
/// `FALLOC_FL_COLLAPSE_RANGE` and `FALLOC_FL_INSERT_RANGE`, which move everything after the offset.
const MOVES: u64 = 0x08 | 0x20;

/// A function's arguments, however it is hooked.
pub(crate) trait Args {
    /// The argument at `at`, counted from 0.
    fn number(&self, at: usize) -> u64;

    /// The same, as an address.
    #[inline(always)]
    fn address(&self, at: usize) -> Address {
        self.number(at) as Address
    }
}

impl Args for FEntryContext {
    #[inline(always)]
    fn number(&self, at: usize) -> u64 {
        self.arg(at)
    }
}

impl Args for FExitContext {
    #[inline(always)]
    fn number(&self, at: usize) -> u64 {
        self.arg(at)
    }
}

impl Args for ProbeContext {
    #[inline(always)]
    fn number(&self, at: usize) -> u64 {
        self.arg(at).unwrap_or(0)
    }
}

/// One inode and what changes in it.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    inode: Address,
    flags: u64,
    start: u64,
    /// 0: no range, `u64::MAX`: everything from `start` on.
    len: u64,
}

impl Change {
    #[inline(always)]
    const fn flags(inode: Address, flags: u64) -> Self {
        Self { inode, flags, start: 0, len: 0 }
    }

    #[inline(always)]
    const fn range(inode: Address, start: u64, len: u64) -> Self {
        Self { inode, flags: 0, start, len }
    }
}

/// `None` also for a name that leads to no inode.
#[inline(always)]
fn dentry_inode(dentry: Address) -> Option<Address> {
    kernel::member(dentry, &globals::DENTRY_INODE).filter(|inode: &Address| !inode.is_null())
}

#[inline(always)]
fn parent_inode(dentry: Address) -> Option<Address> {
    dentry_inode(kernel::member(dentry, &globals::DENTRY_PARENT)?)
}

#[inline(always)]
fn file_inode(file: Address) -> Option<Address> {
    kernel::member(file, &globals::FILE_INODE)
}

/// `notify_change(idmap, dentry, attr, delegated)`
#[inline(always)]
pub(crate) fn setattr(args: &impl Args) -> Option<Change> {
    let inode = dentry_inode(args.address(1))?;
    let attr = args.address(2);
    let valid = kernel::member::<u32>(attr, &globals::IATTR_VALID);
    if valid.is_some_and(|valid| valid & ATTR_SIZE == 0) {
        return Some(Change::flags(inode, flag::META));
    }
    // Everything after the new size is gone, even if the file grows again. If the size is unknown: everything.
    let size = kernel::member::<u64>(attr, &globals::IATTR_SIZE).filter(|_| valid.is_some());
    Some(Change { inode, flags: flag::META, start: size.unwrap_or(0), len: u64::MAX })
}

/// `vfs_fallocate(file, mode, offset, len)`, and the file systems' own functions with the same arguments.
#[inline(always)]
pub(crate) fn fallocate(args: &impl Args) -> Option<Change> {
    let inode = file_inode(args.address(0))?;
    let (mode, start, len) = (args.number(1), args.number(2), args.number(3));
    let len = if mode & MOVES == 0 { len } else { u64::MAX };
    Some(Change { flags: flag::META, ..Change::range(inode, start, len) })
}

/// `vfs_clone_file_range(source, start, target, start, len, flags)`, and `vfs_copy_file_range` with the same arguments.
#[inline(always)]
pub(crate) fn copy(args: &impl Args) -> Option<Change> {
    let inode = file_inode(args.address(2))?;
    // A clone of length 0 goes to the end of the source.
    let len = match args.number(4) {
        0 => u64::MAX,
        len => len,
    };
    Some(Change { flags: flag::META, ..Change::range(inode, args.number(3), len) })
}

/// A function whose argument 1 is the dentry whose attributes it changes.
#[inline(always)]
pub(crate) fn attributes(args: &impl Args) -> Option<Change> {
    Some(Change::flags(dentry_inode(args.address(1))?, flag::META))
}

/// `iomap_dio_complete(dio)`; the range is the one recorded at the begin.
#[inline(always)]
pub(crate) fn dio_done(args: &impl Args) -> Option<Change> {
    let kiocb: Address = kernel::member(args.address(0), &globals::DIO_IOCB)?;
    let key = kiocb as u64;
    // SAFETY: copied at once; the entry is this request's own.
    let Some(&begun) = (unsafe { INFLIGHT.get(key) }) else {
        programs::dio_unknown(kiocb, None);
        return None;
    };
    enter_range(FunctionId::DioDone, &begun);
    let _ = INFLIGHT.remove(key);
    None
}

/// A file whose content is exchanged with another's, while its pages stay in memory.
#[inline(always)]
pub(crate) fn exchanged<const AT: usize>(args: &impl Args) -> Option<Change> {
    Some(Change::flags(file_inode(args.address(AT))?, flag::META | flag::RESCAN | flag::REMAPPED))
}

/// `btrfs_do_encoded_write(kiocb, ..)`
#[inline(always)]
pub(crate) fn encoded(args: &impl Args) -> Option<Change> {
    Some(Change::flags(kernel::kiocb_inode(args.address(0))?, flag::META | flag::WHOLE))
}

/// Names in the directory `inode` changed, or are about to change under its lock, which a listing waits for.
#[inline(always)]
fn names(inode: Address, id: FunctionId) {
    apply(&Change::flags(inode, flag::META | flag::NAMES), id);
}

/// `d_instantiate(dentry, inode)`: the last step of a creation or a link.
#[inline(always)]
pub(crate) fn instantiate(args: &impl Args, id: FunctionId) -> Option<()> {
    if !args.address(1).is_null() {
        apply(&Change::flags(args.address(1), flag::META), id);
    }
    names(parent_inode(args.address(0))?, id);
    Some(())
}

/// `d_move(dentry, target)` and `d_exchange(one, other)`: the last step of a rename, under the locks of both directories.
#[inline(always)]
pub(crate) fn moved(args: &impl Args, id: FunctionId) -> Option<()> {
    for dentry in [args.address(0), args.address(1)] {
        if let Some(inode) = dentry_inode(dentry) {
            apply(&Change::flags(inode, flag::META), id);
        }
        if let Some(parent) = parent_inode(dentry) {
            names(parent, id);
        }
    }
    Some(())
}

/// `vfs_unlink(idmap, directory, dentry, ..)` and `vfs_rmdir`.
#[inline(always)]
pub(crate) fn removed(args: &impl Args, id: FunctionId) -> Option<()> {
    names(args.address(1), id);
    apply(&Change::flags(dentry_inode(args.address(2))?, flag::META), id);
    Some(())
}

/// `noop_dirty_folio(mapping, folio)`
#[inline(always)]
pub(crate) fn tmpfs_dirty(args: &impl Args, id: FunctionId) -> Option<()> {
    let inode: Address = kernel::member(args.address(0), &globals::MAPPING_HOST)?;
    match kernel::folio_range(args.address(1)) {
        Some((start, len)) => apply(&Change::range(inode, start, len), id),
        None => {
            count(counter::UNREADABLE);
            apply(&Change::flags(inode, flag::RESCAN), id);
        }
    }
    Some(())
}

/// `__iomap_dio_rw(kiocb, iter, ..)`
#[inline(always)]
pub(crate) fn dio_rw(args: &impl Args, _: FunctionId) -> Option<()> {
    programs::dio_began(args.address(0), args.address(1))
}

/// `inode_set_ctime_current(inode)`
#[inline(always)]
pub(crate) fn ctime_current(args: &impl Args, id: FunctionId) -> Option<()> {
    programs::tick_cell(args.address(0), counter_cell(id))
}

/// `generic_write_checks(kiocb, from)`: a buffered or direct write begins. ext4, XFS and btrfs hold the inode lock of a buffered one
/// here and until its last byte is there (`ext4_buffered_write_iter`, `xfs_file_buffered_write`, `btrfs_buffered_write`, 6.1 to 6.12),
/// so whoever waits for that lock after this mark finds the bytes.
#[inline(always)]
pub(crate) fn written(args: &impl Args, id: FunctionId) -> Option<()> {
    if is_looked_for() {
        apply(&Change::flags(kernel::kiocb_inode(args.address(0))?, flag::META), id);
    }
    Some(())
}

/// `file_update_time(file)`: called for a fault that makes a page writable (`ext4_page_mkwrite`, `btrfs_page_mkwrite` and the handler
/// of XFS, 6.1 to 6.12), before the page is dirtied.
#[inline(always)]
pub(crate) fn write_fault(args: &impl Args, id: FunctionId) -> Option<()> {
    if is_looked_for() {
        apply(&Change::flags(file_inode(args.address(0))?, flag::META), id);
    }
    Some(())
}

/// Whether somebody looks for an instant. Otherwise what has set no mark before is written to without one.
#[inline(always)]
fn is_looked_for() -> bool {
    let until = maps::control(ctrl::WRITES_UNTIL);
    // SAFETY: a helper without arguments.
    until != 0 && unsafe { bpf_ktime_get_ns() } < until
}

/// Marks a change.
#[inline(always)]
pub(crate) fn apply(change: &Change, id: FunctionId) {
    if let Some(target) = Target::marked_cell(change.inode, counter_cell(id)) {
        mark(&target, change.flags, change.start, change.len);
    }
}

#[inline(always)]
fn mark(inode: &Marked, flags: u64, start: u64, len: u64) {
    match len {
        0 => {}
        u64::MAX => inode.from(start),
        len => inode.range(start, len),
    }
    if flags != 0 {
        inode.flags(flags);
    }
}

/// A probed function was entered: marks its change, which stays in flight until `leave`.
#[inline(always)]
pub(crate) fn enter(change: &Change, id: FunctionId) {
    let Some(target) = Target::marked_cell(change.inode, counter_cell(id)) else { return };
    let (flags, start, len) = (change.flags as u32, change.start, change.len);
    enter_range(id, &Inflight { ino: target.ino, start, len, began_ns: 0, dev: target.dev, flags });
}

#[inline(always)]
fn enter_range(id: FunctionId, change: &Inflight) {
    // SAFETY: a helper without arguments.
    let began_ns = unsafe { bpf_ktime_get_ns() };
    if INFLIGHT.insert(key(id), Inflight { began_ns, ..*change }, 0).is_err() {
        // Its end will not be marked: only comparing everything helps.
        count(counter::INFLIGHT_FULL);
        count(counter::LOST);
    }
    if let Some(inode) = Marked::by_number(change.dev, change.ino) {
        mark(&inode, u64::from(change.flags), change.start, change.len);
    }
}

/// A probed function returned.
#[inline(always)]
pub(crate) fn leave(id: FunctionId) {
    let key = key(id);
    // SAFETY: copied at once; no other task has this key.
    let Some(&change) = (unsafe { INFLIGHT.get(key) }) else { return };
    if let Some(inode) = Marked::by_number(change.dev, change.ino) {
        mark(&inode, u64::from(change.flags), change.start, change.len);
    }
    let _ = INFLIGHT.remove(key);
}

/// A task is in at most one call of each function: none of them calls itself on a tracked file system.
#[inline(always)]
fn key(id: FunctionId) -> u64 {
    call_key(bpf_get_current_pid_tgid() as u32, id as u32)
}

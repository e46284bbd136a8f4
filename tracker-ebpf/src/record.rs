//! The record core: from (inode, what changed) to marks in the current generation.
//!
//! A mark that does not fit is widened: block bits, else a flag of the inode, else the bit of its hash, which cannot fail.

use core::hint::black_box;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_log_ebpf::debug;
use common::{
    hooks::{HookId, counter_cell},
    limits::{self, CAS_TRIES, GROUP_BLOCKS, GROUP_WORDS, RANGE_GROUPS_MAX},
    maps::{GroupKey, GroupMarks, InodeKey, InodeMark, counter, ctrl, flag, mode, overflow_bit, watched},
    ranges::{self, Bits, Blocks, Place},
};

use crate::{
    atomic, globals,
    kernel::{self, Address},
    maps::{self, CHANGES, DIRTY0, DIRTY1, INODE0, INODE1, OVERFLOW0, OVERFLOW1, SUPERS, WATCH, count},
    writers::written_by,
};

/// `BPF_NOEXIST`: insert, never replace.
pub(crate) const NO_REPLACE: u64 = 1;

/// An inode of a tracked superblock.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Superblock device.
    pub(crate) dev: u32,
    /// Inode number.
    pub(crate) ino: u64,
    /// The superblock itself.
    pub(crate) sb: Address,
    /// `mode` of the superblock.
    mode: u32,
}

impl Target {
    /// The inode at `inode`, if its superblock is tracked; then also counts the event for `hook`.
    #[inline(always)]
    pub(crate) fn of(inode: Address, hook: HookId) -> Option<Self> {
        Self::of_cell(inode, counter_cell(hook))
    }

    #[inline(always)]
    fn of_cell(inode: Address, cell: u32) -> Option<Self> {
        let Some((sb, dev)) = superblock(inode) else {
            count(counter::LOST);
            return None;
        };
        // SAFETY: the value is only copied; superblocks are added and removed by user space, never reused by programs.
        let mode = *unsafe { SUPERS.get(dev) }?;
        let Some(ino) = kernel::member::<u64>(inode, &globals::INODE_INO) else {
            count(counter::LOST);
            return None;
        };
        count(cell);
        Some(Self { dev, ino, sb, mode })
    }

    /// The inode at `inode`, if it is to be marked.
    #[inline(always)]
    pub(crate) fn marked(inode: Address, hook: HookId) -> Option<Marked> {
        Self::marked_cell(inode, counter_cell(hook))
    }

    /// As `marked`, with the counter of the hook.
    #[inline(always)]
    pub(crate) fn marked_cell(inode: Address, cell: u32) -> Option<Marked> {
        let target = Self::of_cell(inode, cell)?;
        let marked = target.if_marked()?;
        // The level is a read-only global, off by default: the verifier then removes the line.
        debug!(&(), "counter {} dev {} ino {}", cell, target.dev, target.ino);
        Some(marked)
    }

    /// This inode, if changes of it are to be marked.
    #[inline(always)]
    pub(crate) fn if_marked(&self) -> Option<Marked> {
        let watched = watched_value(self.mode, self.dev, self.ino)?;
        lease_holds().then_some(Marked { dev: self.dev, ino: self.ino, watched, sb: self.sb })
    }

    /// The inode at `inode`, if its superblock is tracked. Counts nothing, also not what cannot be read: it may be no inode.
    #[inline(always)]
    pub(crate) fn perhaps(inode: Address) -> Option<Self> {
        let (sb, dev) = superblock(inode)?;
        // SAFETY: as above.
        let mode = *unsafe { SUPERS.get(dev) }?;
        Some(Self { dev, ino: kernel::member(inode, &globals::INODE_INO)?, sb, mode })
    }
}

/// An inode whose changes are marked.
#[derive(Clone, Copy)]
pub(crate) struct Marked {
    /// Superblock device.
    pub(crate) dev: u32,
    /// Inode number.
    pub(crate) ino: u64,
    /// Where its volume's changes are counted, and whether with their writer: argument of `changed`. Also what is known of its pages.
    watched: u64,
    /// Its superblock; null where the event has no inode at hand.
    sb: Address,
}

impl Marked {
    /// Inode `ino` of superblock `dev`, if it is to be marked: for events that have no inode at hand. Those are ends of what began
    /// earlier, and may run in an interrupt of any task, so none is recorded as their writer.
    #[inline(always)]
    pub(crate) fn by_number(dev: u32, ino: u64) -> Option<Self> {
        // SAFETY: the value is only copied.
        let of_super = *unsafe { SUPERS.get(dev) }?;
        let watched = watched_value(of_super, dev, ino)? | NO_WRITER;
        lease_holds().then_some(Self { dev, ino, watched, sb: core::ptr::null() })
    }

    /// Whether a write of it that a hook reports is marked by that hook alone.
    #[inline(always)]
    pub(crate) fn is_exact(&self) -> bool {
        watched::is_exact(self.watched)
    }

    /// Whether hooks mark each of its writes. Once it is mapped, folios are marked whole, and each flush writes it back.
    #[inline(always)]
    pub(crate) fn tells_every_write(&self) -> bool {
        watched::tells_every_write(self.watched)
    }

    /// Whether it can be stored to through a mapping, or was, since it is watched.
    #[inline(always)]
    pub(crate) fn was_mapped(&self) -> bool {
        self.watched & watched::MAPPED != 0
    }

    /// Marks its folios whole until it is asked about again.
    #[inline(always)]
    pub(crate) fn unsure(&self) {
        if let Some(value) = maps::watched(self.dev, self.ino) {
            // SAFETY: the map just returned the pointer.
            unsafe { atomic::fetch_or(value, watched::UNSURE) };
        }
    }

    /// Its writes are marked by what they write, and so by hooks that every write passes.
    #[inline(always)]
    pub(crate) fn of_every_write(inode: Address, hook: HookId) -> Option<Self> {
        let target = Target::of(inode, hook)?;
        let watched = watched_value(0, target.dev, target.ino)?;
        if !watched::tells_every_write(watched) {
            return None;
        }
        Some(Self { dev: target.dev, ino: target.ino, watched, sb: target.sb })
    }

    /// Marks `len` bytes at `start`, however many these are; false: it is not marked, since the lease is over. Mostly they lie in one
    /// block that is marked already: then the clock, which costs as much as the rest, is not asked.
    #[inline(always)]
    pub(crate) fn written(&self, start: u64, len: u64) -> bool {
        if !self.marked_again(start, len) {
            if !lease_holds() {
                return false;
            }
            self.long_range(start, len);
        }
        true
    }

    /// Whether these bytes lie in one block that is marked. Then counts them: the change time told of its writer. A swap meanwhile makes
    /// no difference: the bytes are in the file, or come under a lock that the drain's reader waits for.
    #[inline(always)]
    fn marked_again(&self, start: u64, len: u64) -> bool {
        let Place::Bits(blocks) = ranges::place(start, len) else { return false };
        if blocks.first != blocks.last {
            return false;
        }
        let map = if generation() == 0 { &DIRTY0 } else { &DIRTY1 };
        let group = (blocks.first / GROUP_BLOCKS) as u32;
        let Some(value) = map.get_ptr_mut(GroupKey { ino: self.ino, dev: self.dev, group }) else { return false };
        let bit = blocks.first & (GROUP_BLOCKS - 1);
        // SAFETY: the map just returned the pointer, and `bit` is one of its bits.
        let word = unsafe { core::ptr::read_volatile(value.cast::<u64>().add((bit / 64) as usize)) };
        if word >> (bit & 63) & 1 == 0 {
            return false;
        }
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*value).times, 1) };
        changed(self.watched | NO_WRITER);
        true
    }

    #[inline(always)]
    fn long_range(&self, start: u64, len: u64) {
        const PIECE: u64 = limits::GROUP_BYTES * (RANGE_GROUPS_MAX - 1);
        if len > PIECE * limits::WRITE_PIECES_MAX {
            return self.range(start, len);
        }
        let end = start.saturating_add(len);
        for piece in 0..limits::WRITE_PIECES_MAX {
            let at = start.saturating_add(piece * PIECE);
            if at >= end {
                break;
            }
            let rest = end - at;
            self.range(at, if rest < PIECE { rest } else { PIECE });
        }
    }

    /// Magic number of the file system, 0 if it cannot be read.
    #[inline(always)]
    pub(crate) fn magic(&self) -> u64 {
        kernel::member(self.sb, &globals::SB_MAGIC).unwrap_or(0)
    }

    /// Marks `len` bytes at `start`.
    #[inline(always)]
    pub(crate) fn range(&self, start: u64, len: u64) {
        mark_range(home(generation(), self.dev), self.ino, start, len, self.watched);
    }

    /// Marks `len` bytes at `start`, and sets `flags` in the same generation: none is drained without the other.
    #[inline(always)]
    pub(crate) fn range_and(&self, flags: u64, start: u64, len: u64) {
        let generation = generation();
        if flags != 0 {
            inode_mark(generation, self.dev, self.ino, flags, u64::MAX, 0);
        }
        mark_range(home(generation, self.dev), self.ino, start, len, self.watched);
    }

    /// Marks everything from `start` on.
    #[inline(always)]
    pub(crate) fn from(&self, start: u64) {
        inode_mark(generation(), self.dev, self.ino, flag::FROM, start, u64::MAX);
        changed(self.watched);
    }

    /// Sets `flags`, which have no range.
    #[inline(always)]
    pub(crate) fn flags(&self, flags: u64) {
        self.flags_uncounted(flags);
        changed(self.watched);
    }

    /// Sets `flags`, where nothing has changed.
    #[inline(always)]
    pub(crate) fn flags_uncounted(&self, flags: u64) {
        inode_mark(generation(), self.dev, self.ino, flags, u64::MAX, 0);
    }
}

/// In the argument of `changed`, beside the value of the WATCH map: the current task is not known to have made the change.
const NO_WRITER: u64 = 1 << 63;

/// Counts a change, after its mark was made: whoever reads the marks after the counter has those of every change it counts. Then
/// counts it for the cgroup of the current task, too. A global function, as `mark_range`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn changed(watched: u64) -> u64 {
    let slot = watched::slot(watched);
    if let Some(at) = CHANGES.get_ptr_mut(slot) {
        // SAFETY: a pointer the map just gave.
        unsafe { atomic::add_after(at, 1) };
    }
    if watched & NO_WRITER == 0 {
        written_by(slot);
    }
    0
}

/// Superblock and its device of an inode.
#[inline(always)]
fn superblock(inode: Address) -> Option<(Address, u32)> {
    let sb: Address = kernel::member(inode, &globals::INODE_SB)?;
    Some((sb, kernel::member(sb, &globals::SB_DEV)?))
}

/// Whether the lease still holds, so that the marks will be read. If not, records that this mark was not made: a process
/// that still comes back must compare.
#[inline(always)]
fn lease_holds() -> bool {
    let until = maps::control(ctrl::LEASE);
    // SAFETY: a helper without arguments.
    if until == u64::MAX || unsafe { bpf_ktime_get_ns() } < until {
        return true;
    }
    maps::set_control(ctrl::LAPSED, 1);
    false
}

/// Where changes of the inode are counted and what is known of its pages, if it is to be marked.
#[inline(always)]
fn watched_value(of_super: u32, dev: u32, ino: u64) -> Option<u64> {
    match WATCH.get_ptr(InodeKey::new(dev, ino)) {
        // SAFETY: the map just returned the pointer; volatile, because other CPUs change the value.
        Some(value) => Some(unsafe { core::ptr::read_volatile(value) }),
        None if of_super == mode::ALL => Some(limits::SLOT_OF_ALL as u64),
        None => None,
    }
}

/// The generation, read once per mark: all of a mark's words go to the same set.
#[inline(always)]
fn generation() -> u64 {
    maps::control(ctrl::GENERATION) & 1
}

/// Marks `len` bytes at `start` of an inode, and counts that as `watched` says. `home` is the generation and the device. The number it
/// returns means nothing.
///
/// Exported and with only numbers as arguments, which makes it a global function for the verifier: checked once in each program
/// that has it, not once for each path to it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mark_range(home: u64, ino: u64, start: u64, len: u64, watched: u64) -> u64 {
    let (generation, dev) = (home >> 32, home as u32);
    match ranges::place(start, len) {
        Place::Nothing => {}
        Place::Span(start, u64::MAX) => inode_mark(generation, dev, ino, flag::FROM, start, u64::MAX),
        Place::Span(start, end) => inode_mark(generation, dev, ino, flag::RANGE, start, end),
        Place::Bits(blocks) => mark_blocks(generation, dev, ino, blocks),
    }
    changed(watched);
    0
}

#[inline(always)]
fn mark_blocks(generation: u64, dev: u32, ino: u64, blocks: Blocks) {
    let first = blocks.first / GROUP_BLOCKS;
    let last = blocks.last / GROUP_BLOCKS;
    for step in 0..RANGE_GROUPS_MAX {
        let group = first + step;
        if group > last {
            break;
        }
        if mark_group(home(generation, dev), ino, group, blocks.first, blocks.last) != 0 {
            count(counter::DIRTY_FULL);
            inode_mark(generation, dev, ino, flag::RESCAN, u64::MAX, 0);
            return;
        }
    }
}

/// Generation and device in one number, because a global function has at most five arguments.
#[inline(always)]
fn home(generation: u64, dev: u32) -> u64 {
    generation << 32 | u64::from(dev)
}

/// Sets the bits of blocks `first..=last` that are in `group`; not 0 if there is no room. A global function, as `mark_range`.
#[unsafe(no_mangle)]
#[inline(never)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "a copy would be on the stack")]
extern "C" fn mark_group(home: u64, ino: u64, group: u64, first: u64, last: u64) -> u64 {
    let map = if home >> 32 == 0 { &DIRTY0 } else { &DIRTY1 };
    let key = GroupKey { ino, dev: home as u32, group: group as u32 };
    let mut found = map.get_ptr_mut(key);
    if found.is_none() {
        // Without bits first: the code that sets them is here only once. If it fails, another CPU was faster, or the map is full.
        if map.insert(key, &NO_MARKS, NO_REPLACE).is_ok() {
            count(counter::GROUPS_NEW);
        }
        found = map.get_ptr_mut(key);
    }
    let Some(value) = found else { return 1 };
    or_group(value, Bits::of(Blocks { first, last }, group));
    // SAFETY: the map just returned the pointer.
    unsafe { atomic::add(&raw mut (*value).times, 1) };
    0
}

/// A group of which nothing is marked. Not on the stack, where the verifier would follow each byte that is zeroed.
static NO_MARKS: GroupMarks = GroupMarks::NONE;

#[inline(always)]
fn or_group(value: *mut GroupMarks, mut bits: Bits) {
    for _ in 0..GROUP_WORDS {
        let (word, mask, rest) = bits.lowest_word();
        // SAFETY: the map just returned the pointer, and `word` is below its length.
        unsafe { atomic::or(value.cast::<u64>().add(word), mask) };
        let Some(rest) = rest else { break };
        // The compiler knows how far these go, which the verifier does not, and would leave out what keeps `word` in its bounds.
        bits = Bits { first: black_box(rest.first), ..rest };
    }
}

/// Merges `flags` and, if they have one, the range `from..end` into the mark of an inode.
#[inline(always)]
fn inode_mark(generation: u64, dev: u32, ino: u64, flags: u64, from: u64, end: u64) {
    if merge_inode(home(generation, dev), ino, flags, from, end) != 0 {
        count(counter::INODE_FULL);
        overflow(generation, dev, ino);
    }
}

/// As `inode_mark`; not 0 if there is no room. A global function, as `mark_range`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn merge_inode(home: u64, ino: u64, flags: u64, from: u64, end: u64) -> u64 {
    let map = if home >> 32 == 0 { &INODE0 } else { &INODE1 };
    let key = InodeKey::new(home as u32, ino);
    let mark = InodeMark { flags, from, end };
    if let Some(value) = map.get_ptr_mut(key) {
        merge(value, &mark);
        return 0;
    }
    if map.insert(key, mark, NO_REPLACE).is_ok() {
        count(counter::INODES_NEW);
        return 0;
    }
    match map.get_ptr_mut(key) {
        Some(value) => {
            merge(value, &mark);
            0
        }
        None => 1,
    }
}

#[inline(always)]
fn merge(value: *mut InodeMark, mark: &InodeMark) {
    // SAFETY: the map just returned the pointer; the fields are aligned words.
    unsafe {
        let mut flags = mark.flags;
        if flags & (flag::FROM | flag::RANGE) != 0 {
            let lowered = atomic::replace_if(&raw mut (*value).from, mark.from, CAS_TRIES, |old, new| new < old);
            let raised = atomic::replace_if(&raw mut (*value).end, mark.end, CAS_TRIES, |old, new| new > old);
            if !lowered || !raised {
                count(counter::CAS_BOUND);
                flags |= flag::RESCAN;
            }
        }
        // Last: a reader that sees the flag sees the range. (The reader waits a grace period anyway.)
        atomic::or(&raw mut (*value).flags, flags);
    }
}

/// Sets the bit of the inode's hash.
#[inline(always)]
fn overflow(generation: u64, dev: u32, ino: u64) {
    count(counter::OVERFLOW);
    let map = if generation == 0 { &OVERFLOW0 } else { &OVERFLOW1 };
    let bit = overflow_bit(dev, ino);
    if let Some(word) = map.get_ptr_mut((bit / 64) & (limits::OVERFLOW_WORDS - 1)) {
        // SAFETY: the map just returned the pointer.
        unsafe { atomic::or(word, 1 << (bit & 63)) };
    }
}

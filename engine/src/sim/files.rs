//! A small file system with a page cache, and applications that change it in every way the hooks must see.

use std::collections::{BTreeMap, BTreeSet};

use super::fine::Unseen;
use super::folios::Rules;
use super::kernel::{Kernel, Rng};
use super::numbers::Numbers;
use super::stalled::Stalled;
use crate::dirty::Marks;
use crate::model::{BLOCK_BYTES, Ino, InodeId, Kind, Time};
use crate::source::Stat;

/// Inode numbers of the protected directory, and of one beside it on the same file system.
pub(super) const ROOT: Ino = Ino(1);
pub(super) const OUTSIDE: Ino = Ino(2);

pub(super) const BLOCK: usize = BLOCK_BYTES as usize;
pub(super) const BLOCKS_MAX: u64 = 6;
pub(super) const FILES_MAX: usize = 14;

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) generation: u64,
    pub(super) nlink: u32,
    pub(super) mode: u32,
    pub(super) time: u64,
    pub(super) data: Vec<u8>,
    pub(super) holes: BTreeSet<u64>,
    /// Pages that are dirty, and pages a mapping may store to without a fault.
    pub(super) dirty: BTreeSet<u64>,
    pub(super) writable: BTreeSet<u64>,
    /// A mapping exists through which it can be stored to.
    pub(super) mapped: bool,
    /// Clean pages with other content than their blocks.
    pub(super) stale: BTreeMap<u64, Vec<u8>>,
    pub(super) entries: Vec<(Vec<u8>, Ino)>,
    /// Of a symlink.
    pub(super) target: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) rng: Rng,
    pub(super) kernel: Kernel,
    pub(super) inodes: BTreeMap<Ino, Inode>,
    pub(super) next_ino: u64,
    pub(super) free: Vec<Ino>,
    pub(super) clock: u64,
    pub(super) stalled: Vec<Stalled>,
    pub(super) token: u64,
    pub(super) numbers: Numbers,
    /// Inodes that were looked at since their change time was set: the next change sets another one. `None`: changes are not
    /// modelled so finely.
    pub(super) armed: Option<BTreeSet<Ino>>,
    pub(super) unseen: Unseen,
    /// Symlinks are replaced by renames all the time.
    pub(super) symlinks: bool,
    exchanges: bool,
    /// Folios have several blocks, and writes are marked by these rules.
    pub(super) large: Option<Rules>,
    /// In one of so many steps a mapping goes.
    unmaps: u64,
    /// Inodes and their generations.
    pub(super) committed: BTreeSet<(Ino, u64)>,
}

impl Files {
    pub(super) fn new(seed: u64) -> Files {
        let mut files = Files {
            rng: Rng::new(seed),
            kernel: Kernel::default(),
            inodes: BTreeMap::new(),
            next_ino: 3,
            free: Vec::new(),
            clock: 1,
            stalled: Vec::new(),
            token: 0,
            // Not in all runs, so that the other seeds behave as before these were added.
            symlinks: seed % 7 == 5,
            exchanges: seed % 5 == 1,
            large: seed.is_multiple_of(6).then_some(Rules::All),
            // Mappings that stay hide other stores than mappings that come and go.
            unmaps: if seed.is_multiple_of(2) { 4 } else { 60 },
            committed: BTreeSet::new(),
            numbers: Numbers::Lasting,
            armed: None,
            unseen: Unseen::All,
        };
        for ino in [ROOT, OUTSIDE] {
            files.inodes.insert(ino, inode(Kind::Dir, ino.0));
        }
        files
    }

    pub(super) fn stat(&self, ino: Ino) -> Option<Stat> {
        let inode = self.inodes.get(&ino)?;
        let time = Time { sec: inode.time as i64, nsec: 0 };
        Some(Stat {
            inode: InodeId { ino, generation: self.numbers.generation(inode.generation) },
            kind: inode.kind,
            mode: inode.mode,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: inode.data.len() as u64,
            nlink: inode.nlink,
            mtime: time,
            ctime: time,
        })
    }

    /// Write-back: pages become clean, mappings fault again.
    pub(super) fn clean(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.dirty.clear();
            inode.writable.clear();
        }
    }

    /// The operation that holds the inode lock ends first.
    pub(super) fn barrier(&mut self, ino: Ino) {
        let (mine, others) = std::mem::take(&mut self.stalled).into_iter().partition(|s| s.locks(ino));
        self.stalled = others;
        for stalled in mine {
            self.finish(stalled);
        }
    }

    pub(super) fn locked(&self, ino: Ino) -> bool {
        self.stalled.iter().any(|s| s.locks(ino))
    }

    /// All operations under way end.
    pub(super) fn quiesce(&mut self) {
        for stalled in std::mem::take(&mut self.stalled) {
            self.finish(stalled);
        }
        self.kernel.grace();
    }

    pub(super) fn finish(&mut self, stalled: Stalled) {
        match stalled {
            Stalled::Punch { ino, block, keeps_page: true } => {
                if let Some(inode) = self.inodes.get_mut(&ino) {
                    inode.exchange(block);
                }
            }
            Stalled::Punch { ino, block, .. } => {
                if let Some(inode) = self.inodes.get_mut(&ino) {
                    inode.stale.remove(&block);
                    let at = block as usize * BLOCK;
                    let end = (at + BLOCK).min(inode.data.len());
                    if at < end {
                        inode.data[at..end].fill(0);
                        inode.holes.insert(block);
                        inode.dirty.remove(&block);
                        inode.writable.remove(&block);
                    }
                }
            }
            Stalled::Direct { token, ino, block, count, fill } => {
                self.fill(ino, block * BLOCK_BYTES, count * BLOCK_BYTES, fill);
                self.seen_by_time_alone(ino);
                if let Some((_, start, end)) = self.kernel.in_flight.remove(&token) {
                    let mut marks = Marks::meta();
                    marks.mark_bytes(start, end);
                    self.kernel.mark(&mut self.rng, ino, marks);
                }
            }
            Stalled::Write { ino, at, end, byte } => self.copy(ino, at, end, byte),
            Stalled::Store { ino, at, byte } => {
                if self.armed.is_some() {
                    self.fault(ino, (at / BLOCK) as u64);
                }
                if let Some(slot) = self.inodes.get_mut(&ino).and_then(|inode| inode.data.get_mut(at)) {
                    *slot = byte;
                }
            }
        }
    }

    pub(super) fn fill(&mut self, ino: Ino, at: u64, len: u64, byte: u8) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            let end = (at + len) as usize;
            let old = inode.data.len();
            if end > old {
                inode.data.resize(end, 0);
                for block in (old as u64).div_ceil(BLOCK_BYTES)..at / BLOCK_BYTES {
                    inode.holes.insert(block);
                }
            }
            (at / BLOCK_BYTES..(at + len).div_ceil(BLOCK_BYTES)).for_each(|block| inode.takes_page(block));
            inode.data[at as usize..end].fill(byte);
            for block in at / BLOCK_BYTES..(at + len).div_ceil(BLOCK_BYTES) {
                inode.holes.remove(&block);
            }
        }
    }

    pub(super) fn tick(&mut self, ino: Ino) {
        self.clock += 1;
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.time = self.numbers.changed(inode.time, self.clock);
        }
    }

    pub(super) fn names_changed(&mut self, dir: Ino) {
        self.tick(dir);
        self.kernel.mark(&mut self.rng, dir, Marks::names());
    }

    pub(super) fn meta_changed(&mut self, ino: Ino) {
        self.tick(ino);
        self.kernel.mark(&mut self.rng, ino, Marks::meta());
    }

    pub(super) fn pick(&mut self, kind: Kind) -> Option<Ino> {
        let all: Vec<Ino> =
            self.inodes.iter().filter(|(_, i)| i.kind == kind && i.nlink > 0).map(|(n, _)| *n).collect();
        (!all.is_empty()).then(|| all[self.rng.below(all.len() as u64) as usize])
    }

    pub(super) fn pick_entry(&mut self, kind: Option<Kind>) -> Option<(Ino, usize)> {
        let mut all = Vec::new();
        for (dir, inode) in &self.inodes {
            for (at, (_, ino)) in inode.entries.iter().enumerate() {
                if kind.is_none_or(|kind| self.inodes.get(ino).is_some_and(|i| i.kind == kind)) {
                    all.push((*dir, at));
                }
            }
        }
        (!all.is_empty()).then(|| all[self.rng.below(all.len() as u64) as usize])
    }

    /// One step of some application.
    pub(super) fn step(&mut self) {
        self.kernel.progress(&mut self.rng);
        if !self.stalled.is_empty() && self.rng.one_in(3) {
            let at = self.rng.below(self.stalled.len() as u64) as usize;
            // Often long: a shorter stall would end before a read could overtake it.
            let long = matches!(self.stalled.get(at), Some(Stalled::Punch { .. })) && !self.rng.one_in(8);
            if self.armed.is_some() {
                self.go_on(at);
            } else if !long {
                let stalled = self.stalled.swap_remove(at);
                self.finish(stalled);
            }
        }
        if self.symlinks && self.rng.one_in(3) {
            self.relink();
        }
        if self.exchanges && self.rng.one_in(3) {
            self.exchange();
        }
        if self.large.is_some() && self.rng.one_in(self.unmaps) {
            self.unmap();
        }
        match self.rng.below(20) {
            0..=5 => self.write(),
            6..=8 => self.store(),
            9 => self.punch(),
            10 => self.direct(),
            11 => self.truncate(),
            12 => {
                if let Some(ino) = self.pick(Kind::File) {
                    let mode = 0o600 + self.rng.below(64) as u32;
                    if let Some(inode) = self.inodes.get_mut(&ino) {
                        inode.mode = mode;
                    }
                    self.meta_changed(ino);
                }
            }
            13 | 14 => _ = self.create(Kind::File),
            15 => _ = self.create(Kind::Dir),
            16 | 17 => self.rename(),
            18 => self.unlink(),
            _ => self.link(),
        }
    }

    fn write(&mut self) {
        let Some(ino) = self.pick(Kind::File).filter(|ino| !self.locked(*ino)) else { return };
        let at = self.numbers.rounded(self.rng.below(BLOCKS_MAX * BLOCK_BYTES / 2), 0);
        let len = self.numbers.rounded(1 + self.rng.below(2 * BLOCK_BYTES), 1);
        let byte = self.rng.below(250) as u8 + 1;
        if self.armed.is_some() {
            self.time_of_content(ino);
            self.stalled.push(Stalled::Write { ino, at, end: at + len, byte });
            return;
        }
        let old = self.inodes.get(&ino).map_or(0, |inode| inode.data.len() as u64);
        self.fill(ino, at, len, byte);
        let mut marks = Marks::meta();
        if at + len > old && old > 0 {
            // The kernel zeroes the rest of the old last page: no mark is needed for what no one stored.
            self.dirty_page(ino, (old - 1) / BLOCK_BYTES, false, &mut marks);
        }
        self.written(ino, at, at + len, &mut marks);
        self.tick(ino);
        self.kernel.mark(&mut self.rng, ino, marks);
    }

    pub(super) fn store(&mut self) {
        let Some(ino) = self.pick(Kind::File) else { return };
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        if inode.data.is_empty() {
            return;
        }
        let at = self.rng.below(inode.data.len() as u64) as usize;
        let byte = self.rng.below(250) as u8 + 1;
        let block = (at / BLOCK) as u64;
        self.map(ino);
        if self.armed.is_some() {
            self.fault(ino, block);
            self.stalled.push(Stalled::Store { ino, at, byte });
            return;
        }
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        if inode.writable.contains(&block) {
            inode.data[at] = byte;
            return;
        }
        inode.writable.insert(block);
        inode.holes.remove(&block);
        let mut marks = Marks::meta();
        self.dirty_page(ino, block, false, &mut marks);
        self.tick(ino);
        self.kernel.mark(&mut self.rng, ino, marks);
        self.finish(Stalled::Store { ino, at, byte });
    }

    fn truncate(&mut self) {
        let Some(ino) = self.pick(Kind::File).filter(|ino| !self.locked(*ino)) else { return };
        let busy = self.stalled.iter().any(|s| matches!(s, Stalled::Direct { ino: writing, .. } if *writing == ino));
        if busy {
            return;
        }
        let size = self.numbers.rounded(self.rng.below(BLOCKS_MAX * BLOCK_BYTES), 0) as usize;
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        let old = inode.data.len();
        inode.takes_page((size / BLOCK) as u64);
        inode.stale.retain(|block, _| *block < (size / BLOCK) as u64);
        inode.data.resize(size, 0);
        let mut marks = Marks::meta();
        if size < old {
            marks.from = Some(size as u64);
            let blocks = (size as u64).div_ceil(BLOCK_BYTES);
            inode.holes.retain(|block| *block < blocks);
            inode.dirty.retain(|block| *block < blocks);
            inode.writable.retain(|block| *block < blocks);
        } else {
            for block in (old as u64).div_ceil(BLOCK_BYTES)..(size as u64).div_ceil(BLOCK_BYTES) {
                inode.holes.insert(block);
            }
        }
        self.tick(ino);
        self.kernel.mark(&mut self.rng, ino, marks);
    }

    pub(super) fn create(&mut self, kind: Kind) -> Option<Ino> {
        if self.inodes.len() >= FILES_MAX {
            return None;
        }
        let dir = self.pick(Kind::Dir)?;
        let name = vec![b'a' + self.rng.below(6) as u8];
        if self.entry(dir, &name).is_some() {
            return None;
        }
        let ino = self.new_inode(kind);
        self.insert(dir, name, ino);
        self.names_changed(dir);
        Some(ino)
    }

    pub(super) fn new_inode(&mut self, kind: Kind) -> Ino {
        // Inode numbers are reused, as ext4 does.
        let ino = self.free.pop().unwrap_or_else(|| {
            self.next_ino += 1;
            Ino(self.next_ino)
        });
        self.clock += 1;
        let mut inode = inode(kind, self.clock);
        inode.time = self.numbers.changed(0, self.clock);
        self.inodes.insert(ino, inode);
        ino
    }

    pub(super) fn entry(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        self.inodes.get(&dir)?.entries.iter().find(|(n, _)| n == name).map(|(_, ino)| *ino)
    }

    pub(super) fn insert(&mut self, dir: Ino, name: Vec<u8>, ino: Ino) {
        // New entries land anywhere in the order of a listing, as hashed directories do.
        let len = self.inodes.get(&dir).map_or(0, |inode| inode.entries.len() as u64);
        let at = self.rng.below(len + 1) as usize;
        self.arrives(&name, ino);
        if let Some(inode) = self.inodes.get_mut(&dir) {
            inode.entries.insert(at.min(inode.entries.len()), (name, ino));
        }
    }

    fn below(&self, dir: Ino, other: Ino) -> bool {
        dir == other
            || self.inodes.get(&dir).is_some_and(|inode| inode.entries.iter().any(|(_, ino)| self.below(*ino, other)))
    }

    fn rename(&mut self) {
        let Some((from, at)) = self.pick_entry(None) else { return };
        let Some(to) = self.pick(Kind::Dir) else { return };
        let Some((name, ino)) = self.inodes.get(&from).and_then(|inode| inode.entries.get(at)).cloned() else { return };
        if self.below(ino, to) && self.inodes.get(&ino).is_some_and(|inode| inode.kind == Kind::Dir) {
            return;
        }
        let new_name = vec![b'a' + self.rng.below(6) as u8];
        match self.entry(to, &new_name) {
            Some(other) if other == ino => return,
            Some(other) => {
                let kinds = (self.inodes.get(&ino).map(|i| i.kind), self.inodes.get(&other).map(|i| i.kind));
                if kinds != (Some(Kind::File), Some(Kind::File)) {
                    return;
                }
                if self.rng.one_in(3) {
                    // RENAME_EXCHANGE
                    self.replace(from, &name, other);
                    self.replace(to, &new_name, ino);
                    self.meta_changed(other);
                } else {
                    self.remove(from, &name);
                    self.replace(to, &new_name, ino);
                    self.drop_link(other);
                }
            }
            None => {
                self.remove(from, &name);
                self.insert(to, new_name, ino);
            }
        }
        self.meta_changed(ino);
        self.names_changed(from);
        self.names_changed(to);
    }

    pub(super) fn replace(&mut self, dir: Ino, name: &[u8], ino: Ino) {
        self.leaves(dir, name);
        self.arrives(name, ino);
        if let Some(slot) = self.inodes.get_mut(&dir).and_then(|d| d.entries.iter_mut().find(|(n, _)| n == name)) {
            slot.1 = ino;
        }
    }

    pub(super) fn remove(&mut self, dir: Ino, name: &[u8]) {
        self.leaves(dir, name);
        if let Some(inode) = self.inodes.get_mut(&dir) {
            inode.entries.retain(|(n, _)| n != name);
        }
    }

    pub(super) fn drop_link(&mut self, ino: Ino) {
        self.meta_changed(ino);
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        inode.nlink -= 1;
        if inode.nlink == 0 {
            self.stalled.retain(|s| match s {
                Stalled::Punch { ino: i, .. }
                | Stalled::Direct { ino: i, .. }
                | Stalled::Write { ino: i, .. }
                | Stalled::Store { ino: i, .. } => *i != ino,
            });
            self.kernel.in_flight.retain(|_, (i, _, _)| *i != ino);
            self.inodes.remove(&ino);
            self.free.push(ino);
        }
    }
}

fn inode(kind: Kind, generation: u64) -> Inode {
    Inode {
        kind,
        generation,
        nlink: 1,
        mode: 0o644,
        time: 0,
        data: Vec::new(),
        holes: BTreeSet::new(),
        dirty: BTreeSet::new(),
        writable: BTreeSet::new(),
        mapped: false,
        stale: BTreeMap::new(),
        entries: Vec::new(),
        target: Vec::new(),
    }
}

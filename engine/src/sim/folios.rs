//! Folios of several blocks, and writes that are marked by what they write: which marks a page that becomes dirty sets, and what the
//! kernel knows of a file's mappings.

use std::ops::Range;

use super::files::Files;
use super::stalled::Stalled;
use crate::dirty::Marks;
use crate::model::{BLOCK_BYTES, Ino};
use crate::source::Exactly;

/// Blocks of a large folio.
const FOLIO_BLOCKS: u64 = 3;

/// What the programs know of a watched file (`watched` in `common::maps`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Exact {
    exact: bool,
    mapped: bool,
    unsure: bool,
}

/// Which of the rules of exact marks hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    All,
    /// A mapping that is made is not told of.
    MappingsUnseen,
    /// .. it is told of, but the file is not marked whole.
    MappedUnmarked,
    /// A file that is mapped already is marked exactly, too.
    MappedBefore,
    /// A look is told only of what was not marked before.
    AgainUncounted,
    /// A look takes every file for one whose writes are all marked.
    AlwaysExact,
}

impl Exact {
    /// Whether every write is marked by what it writes, and nothing else changes the file unseen.
    pub(super) fn is_exact(&self) -> bool {
        self.exact && !self.mapped && !self.unsure
    }
}

impl Files {
    /// From now on folios are large, and marked by `rules`.
    pub(super) fn follow(&mut self, rules: Rules) {
        self.large = Some(rules);
        self.kernel.forgets_again = rules == Rules::AgainUncounted;
    }

    /// The blocks that become dirty together with this one.
    fn folio(&self, block: u64) -> Range<u64> {
        if self.large.is_none() {
            return block..block + 1;
        }
        let first = block / FOLIO_BLOCKS * FOLIO_BLOCKS;
        first..first + FOLIO_BLOCKS
    }

    /// A page becomes dirty: an event, unless its folio is already. `written`: a hook tells of the write that did it.
    pub(super) fn dirty_page(&mut self, ino: Ino, block: u64, written: bool, marks: &mut Marks) {
        let folio = self.folio(block);
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        inode.takes_page(block);
        if inode.dirty.range(folio.clone()).next().is_some() {
            inode.dirty.insert(block);
            return;
        }
        inode.dirty.insert(block);
        let mapped = inode.mapped && self.large != Some(Rules::MappedBefore);
        if self.large.is_some() && self.kernel.watch.contains(&ino) {
            let known = self.kernel.exact.entry(ino).or_default();
            match known {
                known if known.is_exact() && written => return,
                Exact { exact: true, .. } => known.unsure = true,
                Exact { mapped: false, .. } if !mapped => known.exact = true,
                Exact { .. } => {}
            }
        }
        marks.mark_bytes(folio.start * BLOCK_BYTES, folio.end * BLOCK_BYTES);
    }

    /// Pages that a write has filled, `at..end`.
    pub(super) fn written(&mut self, ino: Ino, at: u64, end: u64, marks: &mut Marks) {
        // A write that finds a file whose writes are not marked exactly explains none of its folios, also when they are from then on.
        let is_told = self.kernel.exact.get(&ino).is_some_and(|known| known.exact && !known.mapped);
        if is_told {
            marks.mark_bytes(at, end);
        }
        for block in at / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES) {
            self.dirty_page(ino, block, is_told, marks);
        }
    }

    /// A mapping is made through which it can be stored to.
    pub(super) fn map(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        if std::mem::replace(&mut inode.mapped, true) || self.large == Some(Rules::MappingsUnseen) {
            return;
        }
        self.now_mapped(ino);
    }

    fn now_mapped(&mut self, ino: Ino) {
        if self.large.is_none() || !self.kernel.watch.contains(&ino) {
            return;
        }
        let known = self.kernel.exact.entry(ino).or_default();
        if !std::mem::replace(&mut known.mapped, true) && known.exact && self.large != Some(Rules::MappedUnmarked) {
            self.kernel.mark(&mut self.rng, ino, Marks { whole: true, ..Marks::default() });
        }
    }

    /// The last mapping of a file goes. Its pages stay dirty.
    pub(super) fn unmap(&mut self) {
        let stored = |ino: &Ino| self.stalled.iter().any(|s| matches!(s, Stalled::Store { ino: of, .. } if of == ino));
        let mapped = self.inodes.iter().filter(|(ino, inode)| inode.mapped && !stored(ino));
        let mapped: Vec<Ino> = mapped.map(|(ino, _)| *ino).collect();
        if mapped.is_empty() {
            return;
        }
        let ino = mapped[self.rng.below(mapped.len() as u64) as usize];
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.mapped = false;
            inode.writable.clear();
        }
    }

    /// The daemon asks how writes are marked.
    pub(super) fn how_marked(&mut self, ino: Ino) -> Exactly {
        if self.large.is_none() || !self.kernel.watch.contains(&ino) {
            return Exactly::No;
        }
        if self.inodes.get(&ino).is_some_and(|inode| inode.mapped) && self.large != Some(Rules::MappedBefore) {
            self.now_mapped(ino);
        }
        let mapped = self.inodes.get(&ino).is_some_and(|inode| inode.mapped);
        match self.kernel.exact.entry(ino).or_default() {
            known if known.exact && !known.mapped => {
                if std::mem::take(&mut known.unsure) {
                    Exactly::FromNow
                } else {
                    Exactly::Already
                }
            }
            // It is hot, maybe, and the daemon asks for it.
            known if !known.mapped && !mapped && self.rng.below(2) == 0 => {
                known.exact = true;
                Exactly::FromNow
            }
            _ => Exactly::No,
        }
    }
}

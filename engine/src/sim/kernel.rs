//! Kernel maps and hooks, as far as they matter for races with a drain.

use std::collections::{BTreeMap, BTreeSet};

use super::folios::Exact;
use crate::dirty::Marks;
use crate::model::Ino;

/// Small generator (xorshift64*): the same seed must give the same run with any version of any crate.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A program that has read the generation and not yet written its mark.
#[derive(Clone, Debug)]
struct Running {
    generation: usize,
    ino: Ino,
    marks: Marks,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    pub(super) generation: usize,
    pub(super) maps: [BTreeMap<Ino, Marks>; 2],
    pub(super) watch: BTreeSet<Ino>,
    /// Direct writes between begin and completion: token -> inode, first byte, first byte after.
    pub(super) in_flight: BTreeMap<u64, (Ino, u64, u64)>,
    running: Vec<Running>,
    /// What is known of the pages of watched files.
    pub(super) exact: BTreeMap<Ino, Exact>,
    /// Changes that were counted.
    pub(super) changes: u64,
    /// A program ends before its task goes on: so it is where a change is not made in one step.
    pub(super) fine: bool,
    /// Marks made since the last look at those that are not retired, also of what was marked already.
    newer: BTreeMap<Ino, Marks>,
    /// The files that were marked exactly at that look; `None`: there was none since the swap.
    exact_before: Option<BTreeSet<Ino>>,
    /// Whether marks of what is marked already are left out of `newer`.
    pub(super) forgets_again: bool,
}

impl Kernel {
    /// A hook fires. One in four programs is interrupted between reading the generation and writing the mark.
    pub(super) fn mark(&mut self, rng: &mut Rng, ino: Ino, marks: Marks) {
        if !self.watch.contains(&ino) {
            return;
        }
        let running = Running { generation: self.generation, ino, marks };
        if self.fine {
            self.land(running);
            self.changes += 1;
        } else if rng.one_in(4) {
            self.running.push(running);
        } else {
            self.land(running);
        }
    }

    fn land(&mut self, running: Running) {
        let Some(map) = self.maps.get_mut(running.generation) else { return };
        let before = map.entry(running.ino).or_default();
        let is_new = !running.marks.blocks.is_subset(&before.blocks);
        before.merge(&running.marks);
        if running.generation == self.generation && (is_new || !self.forgets_again) {
            self.newer.entry(running.ino).or_default().merge(&running.marks);
        }
    }

    /// The marks that are not retired, and those of them that are to be read again by who has read all at the last call. Only of files
    /// whose writes `is_exact` says are all marked are others left out: else a block is written to without another mark.
    pub(super) fn look(&mut self, is_exact: impl Fn(&Exact) -> bool) -> (BTreeMap<Ino, Marks>, BTreeMap<Ino, Marks>) {
        let marks = self.maps.get(self.generation).cloned().unwrap_or_default();
        let since = std::mem::take(&mut self.newer);
        let exact: BTreeSet<Ino> =
            marks.keys().filter(|ino| is_exact(&self.exact.get(ino).copied().unwrap_or_default())).copied().collect();
        let before = self.exact_before.replace(exact.clone()).unwrap_or_default();
        let newer = |(ino, all): (&Ino, &Marks)| {
            let blocks = since.get(ino).map(|marks| marks.blocks.clone()).unwrap_or_default();
            let apart = before.contains(ino) && exact.contains(ino);
            (*ino, if apart { Marks { blocks, meta: true, ..all.clone() } } else { all.clone() })
        };
        let newer = marks.iter().map(newer).collect();
        (marks, newer)
    }

    /// Some of the interrupted programs continue.
    pub(super) fn progress(&mut self, rng: &mut Rng) {
        if !self.running.is_empty() && rng.one_in(3) {
            let at = rng.below(self.running.len() as u64) as usize;
            let running = self.running.swap_remove(at);
            self.land(running);
        }
    }

    /// All programs that were running have ended.
    pub(super) fn grace(&mut self) {
        for running in std::mem::take(&mut self.running) {
            self.land(running);
        }
    }

    pub(super) fn swap(&mut self) {
        self.generation ^= 1;
        (self.newer, self.exact_before) = (BTreeMap::new(), None);
    }

    pub(super) fn retired(&self) -> BTreeMap<Ino, Marks> {
        let mut retired = self.maps.get(self.generation ^ 1).cloned().unwrap_or_default();
        for (ino, start, end) in self.in_flight.values() {
            retired.entry(*ino).or_default().mark_bytes(*start, *end);
        }
        retired
    }

    pub(super) fn clear_retired(&mut self) {
        if let Some(map) = self.maps.get_mut(self.generation ^ 1) {
            map.clear();
        }
    }
}

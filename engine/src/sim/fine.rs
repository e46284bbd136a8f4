//! Changes in their single steps, as a search for one instant meets them: the change time first, byte after byte then; and what a
//! commit claims to be, held against the tree as it was.

use std::collections::BTreeSet;

use super::check;
use super::files::Files;
use super::run::{Failure, run_in};
use super::stalled::Stalled;
use super::world::SimWorld;
use crate::dirty::Marks;
use crate::flush::Steps;
use crate::flush::world::Count;
use crate::format::Key;
use crate::model::{BLOCK_BYTES, Ino, Kind, Seq};

/// Which of the changes that are seen least are begun while an instant is looked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Unseen {
    #[default]
    All,
    /// Files are made, and written to directly.
    Births,
    /// Pages are written to that are dirty already.
    Writes,
}

impl Files {
    /// `statx`: the next change of content sets another change time, which an event tells.
    pub(super) fn arm(&mut self, ino: Ino) {
        if let Some(armed) = &mut self.armed {
            armed.insert(ino);
        }
    }

    /// The change time of content, before the content: unless somebody has looked since, the same tick of the clock may show
    /// nothing (`file_update_time` of `fs/inode.c`).
    pub(super) fn time_of_content(&mut self, ino: Ino) {
        let looked_at = self.armed.as_mut().is_some_and(|armed| armed.remove(&ino));
        if looked_at || self.rng.one_in(2) {
            self.meta_changed(ino);
        }
    }

    /// A page becomes one that a mapping may store to without a fault.
    pub(super) fn fault(&mut self, ino: Ino, block: u64) {
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        // Behind the end there is no page to store to.
        if block * BLOCK_BYTES >= inode.data.len() as u64 || !inode.writable.insert(block) {
            return;
        }
        inode.holes.remove(&block);
        self.time_of_content(ino);
        let mut marks = Marks::default();
        self.dirty_page(ino, block, false, &mut marks);
        if !marks.is_empty() {
            self.kernel.mark(&mut self.rng, ino, marks);
        }
    }

    /// One step of something that has begun.
    pub(super) fn go_on(&mut self, at: usize) {
        let stalled = self.stalled.swap_remove(at);
        match stalled {
            Stalled::Write { ino, at, end, byte } => {
                let border = (at / BLOCK_BYTES + 1) * BLOCK_BYTES;
                self.copy(ino, at, end.min(border), byte);
                if border < end {
                    self.stalled.push(Stalled::Write { ino, at: border, end, byte });
                }
            }
            // The device writes one block after the other, and says so at the end.
            Stalled::Direct { token, ino, block, count, fill } if count > 0 => {
                self.fill(ino, block * BLOCK_BYTES, BLOCK_BYTES, fill);
                self.stalled.push(Stalled::Direct { token, ino, block: block + 1, count: count - 1, fill });
            }
            other => self.finish(other),
        }
    }

    /// One step of anything that has begun.
    pub(super) fn go_on_with_any(&mut self) {
        if !self.stalled.is_empty() {
            let at = self.rng.below(self.stalled.len() as u64) as usize;
            self.go_on(at);
        }
    }

    /// One step of what is seen least: something that has begun goes on, or something is written where it may set no mark.
    pub(super) fn unseen_step(&mut self) {
        if !self.stalled.is_empty() && !self.rng.one_in(3) {
            return self.go_on_with_any();
        }
        match self.unseen {
            Unseen::Births => self.write_directly_to_a_new_file(),
            Unseen::Writes => self.write_to_a_dirty_page(),
            Unseen::All => match self.rng.below(6) {
                0 => self.direct(),
                1 => self.store(),
                2 => self.write_directly_to_a_new_file(),
                _ => self.write_to_a_dirty_page(),
            },
        }
    }

    fn write_directly_to_a_new_file(&mut self) {
        if let Some(ino) = self.create(Kind::File) {
            self.copy(ino, 0, 2 * BLOCK_BYTES, 1);
            self.direct_to(ino);
        }
    }

    fn write_to_a_dirty_page(&mut self) {
        let dirty = self.inodes.iter().filter(|(ino, _)| !self.locked(**ino));
        let dirty: Vec<(Ino, u64)> =
            dirty.flat_map(|(ino, inode)| inode.dirty.iter().map(|block| (*ino, *block))).collect();
        if dirty.is_empty() {
            return;
        }
        let (ino, block) = dirty[self.rng.below(dirty.len() as u64) as usize];
        let byte = self.rng.below(250) as u8 + 1;
        self.time_of_content(ino);
        self.stalled.push(Stalled::Write { ino, at: block * BLOCK_BYTES, end: (block + 1) * BLOCK_BYTES, byte });
    }

    /// Copies bytes into the page cache, and marks the pages that were clean.
    pub(super) fn copy(&mut self, ino: Ino, at: u64, end: u64, byte: u8) {
        let old = self.inodes.get(&ino).map_or(0, |inode| inode.data.len() as u64);
        self.fill(ino, at, end - at, byte);
        let mut marks = Marks::default();
        if end > old && old > 0 {
            self.dirty_page(ino, (old - 1) / BLOCK_BYTES, false, &mut marks);
        }
        self.written(ino, at, end, &mut marks);
        if !marks.is_empty() {
            self.kernel.mark(&mut self.rng, ino, marks);
        }
    }
}

impl SimWorld {
    /// A world in which every step of a change is one, and instants are looked for.
    pub(super) fn fine(seed: u64) -> SimWorld {
        let world = SimWorld::new(seed);
        {
            let mut inner = world.inner.borrow_mut();
            inner.files.armed = Some(BTreeSet::new());
            inner.files.kernel.fine = true;
        }
        world
    }

    /// As `fine`, where writers may be paused.
    pub(super) fn with_pauses(seed: u64) -> SimWorld {
        SimWorld { pauses: true, ..SimWorld::fine(seed) }
    }

    /// As `fine`, on a kernel whose `statx` arms nothing.
    pub(super) fn without_multigrain(seed: u64) -> SimWorld {
        let world = SimWorld::fine(seed);
        world.inner.borrow_mut().unarmed = true;
        world
    }

    pub(super) fn counted(&mut self) -> Count {
        let inner = self.inner.borrow();
        let files = &inner.files;
        // What a claim to be of this moment is held against.
        self.at_count = Some(Box::new(files.clone()));
        Count { changes: files.kernel.changes, at_us: files.clock }
    }

    /// Holds every commit that says it is of one instant, and has come into the store, against the tree of that instant.
    pub(super) fn check_claims(&mut self) -> Result<(), Failure> {
        let stored =
            |seq: &Seq| *seq <= self.catalog.head.seq && self.store.contains_key(&Key::Commit(*seq).to_string());
        let due: Vec<Seq> = self.claims.keys().copied().filter(stored).collect();
        for seq in due {
            let Some(files) = self.claims.remove(&seq) else { continue };
            let manifest = check::replay_to(self, seq)?;
            check::equals(self, &manifest, &files)
                .map_err(|failure| Failure::Differs(format!("commit {seq} is of no instant: {failure}")))?;
            self.instants += 1;
        }
        Ok(())
    }
}

/// A run of `world` in which applications do, while an instant is looked for, nothing but `unseen`.
pub(super) fn only(mut world: SimWorld, unseen: Unseen, seed: u64, steps: Steps) -> Result<u64, Failure> {
    {
        let inner = &mut *world.inner.borrow_mut();
        (inner.only_unseen, inner.files.unseen) = (true, unseen);
    }
    run_in(&mut world, seed, steps)?;
    Ok(world.instants)
}

/// How many commits of a run were of one instant.
pub(super) fn instants(mut world: SimWorld, seed: u64, steps: Steps) -> Result<u64, Failure> {
    run_in(&mut world, seed, steps)?;
    Ok(world.instants)
}

/// How many commits of a run were of one instant, and for how many of them writers were paused.
pub(super) fn paused_instants(mut world: SimWorld, seed: u64, steps: Steps) -> Result<(u64, u64), Failure> {
    run_in(&mut world, seed, steps)?;
    Ok((world.instants, world.paused_instants))
}

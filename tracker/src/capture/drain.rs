//! The drain: swap generations, wait, read the retired set, clear it.
//!
//! Nothing is ever removed from the set that programs write: a program could still hold a pointer to an element that is
//! reused.

use std::collections::HashMap;

use common::{
    functions::{FUNCTIONS, FunctionId},
    hooks::{HOOKS, Role},
    limits::OVERFLOW_WORDS,
    maps::{GroupKey, GroupMarks, InodeKey, counter, ctrl, flag},
};
use engine::model::{Dev, Ino};

use super::error::CaptureError;
use super::exact::ExactProbe;
use super::find::{Find, Known};
use super::groups::{inode_of, insert_group};
use super::quiet::QuietProbe;
use super::retired::{Counters, Drained, InflightWrite, InodeMarks, Live, Overflow, Retired};
use super::running::Capture;
use super::sys::Table;

/// Marks by (superblock device, inode number).
type MarksByInode = HashMap<(Dev, Ino), InodeMarks>;

impl Capture {
    /// Retires the generation that programs write. Marks made after `grace` go to the other one.
    ///
    /// # Errors
    /// When the control map fails; then nothing has changed.
    pub fn swap(&mut self) -> Result<(), CaptureError> {
        let now = self.generation()?;
        let given = self.inserted.map(|inserted| (inserted, self.overflows));
        let overflows = self.overflowed()?;
        let inserted = if self.cleared { Some(self.inserted()?) } else { None };
        let swapped = self.maps.ctrl.set(ctrl::GENERATION, now.wrapping_add(1));
        swapped.map_err(|source| CaptureError::Map { what: "swap", map: "CTRL", source })?;
        (self.inserted, self.overflows, self.cleared) = (inserted, overflows, false);
        self.given = given;
        Ok(())
    }

    /// Waits until all programs that were running at this call have ended. About 10 ms.
    ///
    /// # Errors
    /// When the kernel cannot guarantee that: the retired set must not be read then.
    pub fn grace(&self) -> Result<(), CaptureError> {
        self.grace.wait().map_err(|source| CaptureError::Grace { source })
    }

    /// Reads the retired set without changing it: reading again returns the same until `clear_retired`.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn read_retired(&mut self) -> Result<Retired, CaptureError> {
        let retired = self.generation()?.wrapping_add(1);
        let set = (retired & 1) as usize;
        let failed = |map| move |source| CaptureError::Map { what: "reading", map, source };
        // Maps into which nothing was put since the set was given to programs, empty, are not walked: 16,384 words of OVERFLOW take
        // more than all the rest. What the programs of before the swap have counted is counted by now, since they have ended.
        let (inserted, overflowed) = (self.inserted()?, self.overflowed()?);
        let (filled, overflows) = self.given.map_or(([true; 2], true), |(before, overflows)| {
            ([inserted[0] != before[0], inserted[1] != before[1]], overflowed != overflows)
        });
        let find = (Find::if_filled(filled[0]), Find::if_filled(filled[1]));
        let (inodes, drained, _) = self.marks_of_set(set, find)?;
        let (indexes, words) = if overflows { self.maps.overflow[set].read_all() } else { Ok(Default::default()) }
            .map_err(failed("OVERFLOW"))?;
        let inflight = self.inflight()?;
        let mut overflow = vec![0; OVERFLOW_WORDS as usize];
        let mut set_words = Vec::new();
        for (index, word) in indexes.into_iter().zip(words) {
            if word != 0
                && let Some(slot) = overflow.get_mut(index as usize)
            {
                *slot = word;
                set_words.push(index);
            }
        }
        self.drained = Drained { generation: Some(retired & 1), overflow: set_words, ..drained };
        Ok(Retired { inodes, overflow: Overflow(overflow), inflight, counters: self.counters()? })
    }

    /// Reads the marks that programs have made since the last swap, and goes on with them: nothing is retired. A mark that is made
    /// meanwhile may or may not be among them.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn read_live(&mut self) -> Result<Live, CaptureError> {
        // A change may come as long as this takes.
        let inserted = self.inserted()?;
        let generation = self.generation()?;
        let find = self.known.find(generation, self.inserted, inserted);
        let (inodes, drained, marks) = self.marks_of_set((generation & 1) as usize, find)?;
        let groups = drained.groups.iter().copied().zip(marks).collect();
        self.known = Known { generation, inserted, groups: drained.groups, inodes: drained.inodes };
        Ok(Live { inodes, groups, generation, inflight: self.inflight()? })
    }

    /// What tells whether a volume is quiet.
    ///
    /// # Errors
    /// When the counters cannot be mapped into this process.
    pub fn quiet_probe(&self) -> Result<QuietProbe, CaptureError> {
        let failed = |source: std::io::Error| CaptureError::Map { what: "mapping", map: "CHANGES", source };
        let program = self.mapped_now.try_clone().map_err(failed)?;
        let control = (!self.has_ticks()).then(|| self.maps.ctrl.again()).transpose().map_err(failed)?;
        QuietProbe::new(self.maps.changes.fd(), program, control).map_err(|errno| failed(errno.into()))
    }

    /// What tells which files have their writes marked by what they write.
    ///
    /// # Errors
    /// When the program cannot be opened once more.
    pub fn exact_probe(&self) -> Result<ExactProbe, CaptureError> {
        let failed = |source: std::io::Error| CaptureError::Map { what: "opening", map: "WATCH", source };
        Ok(ExactProbe::new(self.exact_now.try_clone().map_err(failed)?))
    }

    /// Whether every change is counted while an instant is looked for, also a write to what is dirty already.
    #[must_use]
    pub fn counts_every_change(&self) -> bool {
        let has = |function: FunctionId| {
            let function = function.get();
            self.has_program(function.trampoline) || self.has_program(function.probe)
        };
        self.has_ticks() || (has(FunctionId::Write) && has(FunctionId::WriteFault))
    }

    /// Whether change times are told of, which since Linux 6.13 are always set anew after a `statx`.
    fn has_ticks(&self) -> bool {
        let ticks = HOOKS.iter().filter(|hook| hook.role == Role::Tick);
        ticks.map(|hook| hook.program).all(|program| self.has_program(program))
    }

    fn has_program(&self, name: &str) -> bool {
        self.attached.iter().any(|attached| attached.name == name)
    }

    /// In which slot changes of an inode are counted, and what is known of its pages, as in `common::maps::watched`; `None`: it is not
    /// watched by itself.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn watched(&self, dev: Dev, ino: Ino) -> Result<Option<u64>, CaptureError> {
        let found = self.maps.watch.get(InodeKey::new(dev.kernel(), ino.0));
        found.map_err(|source| CaptureError::Map { what: "reading", map: "WATCH", source })
    }

    /// How many marks have found no room at all.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(super) fn overflowed(&self) -> Result<u64, CaptureError> {
        self.counter(counter::OVERFLOW)
    }

    /// How many marks have been inserted into maps by block and by inode. A program counts after it has inserted, and before it
    /// counts the change.
    fn inserted(&self) -> Result<[u64; 2], CaptureError> {
        Ok([self.counter(counter::GROUPS_NEW)?, self.counter(counter::INODES_NEW)?])
    }

    fn counter(&self, cell: u32) -> Result<u64, CaptureError> {
        use std::os::fd::AsFd;
        Table::<u32, u64>::sum(self.maps.counters.as_fd(), cell, self.cpus).map_err(|source| CaptureError::Map {
            what: "reading",
            map: "COUNTERS",
            source,
        })
    }

    /// The marks in one of the two sets of maps, their keys, and those by block as they are. `find`: what is read by block and by inode.
    fn marks_of_set(
        &self,
        set: usize,
        find: (Find<'_, GroupKey>, Find<'_, InodeKey>),
    ) -> Result<(MarksByInode, Drained, Vec<GroupMarks>), CaptureError> {
        let failed = |map| move |source| CaptureError::Map { what: "reading", map, source };
        let (groups, blocks) = find.0.read(&self.maps.dirty[set]).map_err(failed("DIRTY"))?;
        let (flagged, flags) = find.1.read(&self.maps.inode[set]).map_err(failed("INODE"))?;
        let mut inodes = MarksByInode::with_capacity(flagged.len());
        for (key, mark) in flagged.iter().zip(&flags) {
            let marks = inodes.entry((Dev::of_kernel(key.dev), Ino(key.ino))).or_default();
            marks.flags = mark.flags;
            if mark.flags & (flag::FROM | flag::RANGE) != 0 {
                marks.from = mark.from;
                marks.end = mark.end;
            }
        }
        for group in groups.iter().copied().zip(blocks.iter().copied()) {
            let marks = inodes.entry(inode_of(&group)).or_default();
            if !insert_group(&mut marks.blocks, &group) {
                marks.flags |= flag::WHOLE;
            }
        }
        let drained = Drained { groups, inodes: flagged, ..Drained::default() };
        Ok((inodes, drained, blocks))
    }

    /// What is under way.
    fn inflight(&self) -> Result<Vec<InflightWrite>, CaptureError> {
        let failed = |source| CaptureError::Map { what: "reading", map: "INFLIGHT", source };
        let (keys, writes) = self.maps.inflight.read_all().map_err(failed)?;
        Ok(keys
            .into_iter()
            .zip(writes)
            .map(|(key, write)| InflightWrite {
                key,
                dev: Dev::of_kernel(write.dev),
                ino: Ino(write.ino),
                start: write.start,
                len: write.len,
                flags: u64::from(write.flags),
                began_ns: write.began_ns,
            })
            .collect())
    }

    /// Removes what the last `read_retired` read. Call it when the marks are saved.
    ///
    /// # Errors
    /// When a map refuses. The next drain then reads the rest again, which is harmless.
    pub fn clear_retired(&mut self) -> Result<(), CaptureError> {
        let drained = std::mem::take(&mut self.drained);
        // Never clear the set that programs write: after another swap, keys read earlier belong to that set.
        if drained.generation != Some(self.generation()?.wrapping_add(1) & 1) {
            return Ok(());
        }
        let set = drained.generation.unwrap_or(0) as usize;
        let failed = |map| move |source| CaptureError::Map { what: "clearing", map, source };
        self.maps.dirty[set].remove_all(&drained.groups).map_err(failed("DIRTY"))?;
        self.maps.inode[set].remove_all(&drained.inodes).map_err(failed("INODE"))?;
        for index in drained.overflow {
            self.maps.overflow[set].set(index, 0).map_err(failed("OVERFLOW"))?;
        }
        self.cleared = true;
        Ok(())
    }

    /// Forgets calls whose task has ended: their return was missed, and nothing else would ever remove them. Their marks
    /// must be saved already.
    ///
    /// # Errors
    /// When the map fails.
    pub fn forget_calls(&self, ended: &[InflightWrite]) -> Result<(), CaptureError> {
        let keys: Vec<u64> = ended.iter().map(|call| call.key).collect();
        let failed = |source| CaptureError::Map { what: "clearing", map: "INFLIGHT", source };
        if keys.is_empty() { Ok(()) } else { self.maps.inflight.remove_all(&keys).map_err(failed) }
    }

    /// The present counters.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Counters, CaptureError> {
        let cells = counter::HOOK_BASE + (HOOKS.len() + FUNCTIONS.len()) as u32;
        (0..cells).map(|cell| self.counter(cell)).collect::<Result<_, _>>().map(Counters)
    }

    pub(super) fn generation(&self) -> Result<u64, CaptureError> {
        let word = self.maps.ctrl.get(ctrl::GENERATION);
        let word = word.map_err(|source| CaptureError::Map { what: "reading", map: "CTRL", source })?;
        Ok(word.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use common::maps::flag;
    use engine::model::{Dev, Ino};
    use roaring::RoaringBitmap;

    use super::{InodeMarks, Overflow};

    #[test]
    fn coverage_needs_every_block() {
        let mut marks = InodeMarks { blocks: RoaringBitmap::from_iter([3, 5]), ..InodeMarks::default() };
        assert!(marks.covers(3 * 4096, 3 * 4096 + 1));
        assert!(!marks.covers(3 * 4096, 5 * 4096 + 1));
        marks.flags = flag::RANGE;
        (marks.from, marks.end) = (4 * 4096, 5 * 4096);
        assert!(marks.covers(3 * 4096, 6 * 4096));
        assert!(!marks.covers(3 * 4096, 6 * 4096 + 1));
        marks.flags |= flag::RESCAN;
        assert!(marks.covers(0, u64::from(u32::MAX)));
    }

    #[test]
    fn an_empty_overflow_hits_nothing() {
        assert!(!Overflow::default().any());
        assert!(!Overflow(vec![0; 16384]).hit(Dev::of_kernel(1), Ino(2)));
        let mut words = vec![0; 16384];
        let bit = common::maps::overflow_bit(7, 9);
        words[(bit / 64) as usize] = 1 << (bit % 64);
        assert!(Overflow(words).hit(Dev::of_kernel(7), Ino(9)));
    }
}

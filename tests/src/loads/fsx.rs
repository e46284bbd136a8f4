//! One file under every call that changes content, checked against a model in memory, after the idea of fsx: reads, mapped
//! reads and the whole file are compared with the model on the way. One seed decides everything.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, copy_file_range, fallocate};

use crate::capture_mounts::Kind;
use crate::load::Random;
use crate::raw_io::{Mapping, Pages, clone_range, uring_write};

/// Largest size of the file, in bytes.
const SIZE: u64 = 512 << 10;
/// Largest range of one call.
const LEN: u64 = 64 << 10;
const BLOCK: u64 = 4096;

/// The operations. The first try shows which ones a file system supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Read,
    MappedRead,
    Write,
    Append,
    Uring,
    Direct,
    MappedWrite,
    /// Through a mapping that is kept as long as the file: the same page is stored into again, whether it is clean or
    /// dirty.
    HeldMappedWrite,
    Truncate,
    Punch,
    Zero,
    Collapse,
    Insert,
    Allocate,
    Copy,
    Clone,
    Sync,
    Reopen,
}

/// All of them.
pub const OPS: [Op; 18] = [
    Op::Read,
    Op::MappedRead,
    Op::Write,
    Op::Append,
    Op::Uring,
    Op::Direct,
    Op::MappedWrite,
    Op::HeldMappedWrite,
    Op::Truncate,
    Op::Punch,
    Op::Zero,
    Op::Collapse,
    Op::Insert,
    Op::Allocate,
    Op::Copy,
    Op::Clone,
    Op::Sync,
    Op::Reopen,
];

/// The file and what it must hold.
pub struct Fsx {
    path: PathBuf,
    kind: Kind,
    file: File,
    held: Mapping,
    model: Vec<u8>,
    random: Random,
    /// Calls that changed or compared something, by kind.
    pub done: [u64; OPS.len()],
    steps: u64,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

impl Fsx {
    /// Creates the file, which must not exist yet.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn new(path: &Path, kind: Kind, seed: u64) -> Fsx {
        let mut random = Random::new(seed);
        let model = random.bytes(SIZE as usize / 2);
        std::fs::write(path, &model).expect("the file");
        let file = open(path).expect("the file");
        let held = Mapping::new(&file, SIZE as usize).expect("a mapping");
        Fsx { path: path.to_path_buf(), kind, file, held, model, random, done: [0; OPS.len()], steps: 0 }
    }

    /// Makes one call.
    ///
    /// # Panics
    /// When the file differs from the model, or the file system refuses what it must support.
    pub fn step(&mut self) {
        let at = self.random.below(OPS.len() as u64) as usize;
        self.steps += 1;
        match self.call(OPS[at]) {
            Ok(true) => self.done[at] += 1,
            Ok(false) => {}
            // Not supported by this file system.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EXDEV)) => {}
            Err(error) => panic!("step {}: {:?}: {error}", self.steps, OPS[at]),
        }
        if self.steps.is_multiple_of(500) {
            self.compare();
        }
    }

    /// Compares the whole file with the model.
    ///
    /// # Panics
    /// When they differ.
    pub fn compare(&self) {
        let found = std::fs::read(&self.path).expect("the file");
        assert!(found == self.model, "step {}: {}", self.steps, difference(&found, &self.model));
    }

    /// What the file must hold.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.model
    }

    fn size(&self) -> u64 {
        self.model.len() as u64
    }

    /// A range that begins in the file and may end beyond it.
    fn range(&mut self) -> (u64, u64) {
        let start = self.random.below(self.size() + 1);
        (start, 1 + self.random.below(LEN.min(SIZE - start).max(1)))
    }

    fn inside(&mut self) -> Option<(u64, u64)> {
        let (start, len) = self.range();
        let len = len.min(self.size() - start);
        (len > 0).then_some((start, len))
    }

    fn blocks(&mut self, below: u64) -> Option<(u64, u64)> {
        let count = below / BLOCK;
        if count == 0 {
            return None;
        }
        let start = self.random.below(count);
        Some((start * BLOCK, (1 + self.random.below((count - start).min(LEN / BLOCK))) * BLOCK))
    }

    fn put(&mut self, start: u64, bytes: &[u8]) {
        let end = start as usize + bytes.len();
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[start as usize..end].copy_from_slice(bytes);
    }

    fn fill(&mut self, start: u64, end: u64) {
        let (start, end) = (self.size().min(start), self.size().min(end));
        self.model[start as usize..end as usize].fill(0);
    }

    /// Returns false if there was nothing to apply it to.
    #[expect(clippy::too_many_lines, reason = "a table: an arm for each operation")]
    fn call(&mut self, op: Op) -> io::Result<bool> {
        // Repeated stores through a mapping leave no trace on tmpfs, which the product states.
        let unseen = matches!(op, Op::MappedWrite | Op::HeldMappedWrite | Op::MappedRead) && self.kind == Kind::Tmpfs;
        if unseen {
            return Ok(false);
        }
        match op {
            Op::Read => {
                let Some((start, len)) = self.inside() else { return Ok(false) };
                let mut found = vec![0; len as usize];
                self.file.read_exact_at(&mut found, start)?;
                self.check(start, &found);
            }
            Op::MappedRead => {
                let Some((start, len)) = self.inside() else { return Ok(false) };
                let mapping = Mapping::new(&self.file, self.model.len())?;
                let found: Vec<u8> = (start..start + len).map(|at| mapping.load(at as usize)).collect();
                self.check(start, &found);
            }
            Op::Write | Op::Uring => {
                let (start, len) = self.range();
                let bytes = self.random.bytes(len as usize);
                if op == Op::Write {
                    self.file.write_all_at(&bytes, start)?;
                } else {
                    uring_write(&self.file, &bytes, start, self.steps.is_multiple_of(2))?;
                }
                self.put(start, &bytes);
            }
            Op::Append => {
                let len = self.random.below(LEN).min(SIZE - self.size());
                let bytes = self.random.bytes(len as usize);
                io::Write::write_all(&mut OpenOptions::new().append(true).open(&self.path)?, &bytes)?;
                self.put(self.size(), &bytes);
            }
            Op::Direct => {
                let Some((start, len)) = self.blocks(SIZE) else { return Ok(false) };
                if start > self.size() || self.kind == Kind::Tmpfs {
                    return Ok(false);
                }
                let mut pages = Box::new(Pages([0; LEN as usize]));
                pages.0[..len as usize].copy_from_slice(&self.random.bytes(len as usize));
                let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&self.path)?;
                direct.write_all_at(&pages.0[..len as usize], start)?;
                self.put(start, &pages.0[..len as usize]);
            }
            Op::MappedWrite | Op::HeldMappedWrite => {
                let Some((start, len)) = self.inside() else { return Ok(false) };
                let bytes = self.random.bytes(len.min(9000) as usize);
                let own = (op == Op::MappedWrite).then(|| Mapping::new(&self.file, self.model.len())).transpose()?;
                let mapping = own.as_ref().unwrap_or(&self.held);
                for (at, byte) in bytes.iter().enumerate() {
                    mapping.store(start as usize + at, *byte);
                }
                self.put(start, &bytes);
            }
            Op::Truncate => {
                let size = self.random.below(SIZE);
                self.file.set_len(size)?;
                self.model.resize(size as usize, 0);
            }
            Op::Punch | Op::Zero => {
                let (start, len) = self.range();
                let way = if op == Op::Punch { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
                fallocate(&self.file, way | FallocateFlags::KEEP_SIZE, start, len)?;
                self.fill(start, start + len);
            }
            Op::Collapse => {
                let Some((start, len)) = self.blocks(self.size()) else { return Ok(false) };
                if start + len >= self.size() {
                    return Ok(false);
                }
                fallocate(&self.file, FallocateFlags::COLLAPSE_RANGE, start, len)?;
                self.model.drain(start as usize..(start + len) as usize);
            }
            Op::Insert => {
                let Some((start, len)) = self.blocks(self.size()) else { return Ok(false) };
                if start >= self.size() || self.size() + len > SIZE {
                    return Ok(false);
                }
                fallocate(&self.file, FallocateFlags::INSERT_RANGE, start, len)?;
                let at = start as usize;
                self.model.splice(at..at, std::iter::repeat_n(0, len as usize));
            }
            Op::Allocate => {
                let (start, len) = self.range();
                let keep = self.random.one_in(2);
                let flags = if keep { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
                fallocate(&self.file, flags, start, len)?;
                if !keep && start + len > self.size() {
                    self.model.resize((start + len) as usize, 0);
                }
            }
            Op::Copy | Op::Clone => return self.copy(op == Op::Clone),
            // Rarely: it costs as much as a hundred others.
            Op::Sync if self.random.one_in(8) => self.file.sync_data()?,
            Op::Sync => return Ok(false),
            Op::Reopen => {
                self.file = open(&self.path)?;
                self.held = Mapping::new(&self.file, SIZE as usize)?;
            }
        }
        Ok(true)
    }

    /// Copies or clones a range of the file over another range of it.
    fn copy(&mut self, clone: bool) -> io::Result<bool> {
        let found = if clone { self.blocks(self.size()) } else { self.inside() };
        let Some((from, len)) = found else { return Ok(false) };
        let to = self.random.below(self.size() + 1) / BLOCK * BLOCK;
        if to + len > SIZE || (from < to + len && to < from + len) {
            return Ok(false);
        }
        let len = if clone {
            clone_range(&self.file, from, len, to)?;
            len
        } else {
            let (mut source, mut target) = (from, to);
            copy_file_range(&self.file, Some(&mut source), &self.file, Some(&mut target), len as usize)? as u64
        };
        let bytes = self.model[from as usize..(from + len) as usize].to_vec();
        self.put(to, &bytes);
        Ok(true)
    }

    #[track_caller]
    fn check(&self, start: u64, found: &[u8]) {
        let expected = &self.model[start as usize..start as usize + found.len()];
        assert!(found == expected, "step {}: at {start}: {}", self.steps, difference(found, expected));
    }
}

fn difference(found: &[u8], expected: &[u8]) -> String {
    let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
    format!("{} bytes, {} expected, the first other one at {at:?}", found.len(), expected.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_follows_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut fsx = Fsx::new(&dir.path().join("f"), Kind::Ext4, 1);
        for _ in 0..2000 {
            fsx.step();
        }
        fsx.compare();
        assert!(fsx.done[..4].iter().all(|count| *count > 0), "{:?}", fsx.done);
    }

    #[test]
    #[should_panic(expected = "the first other one at Some(7)")]
    fn a_foreign_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let fsx = Fsx::new(&dir.path().join("f"), Kind::Ext4, 1);
        let byte = fsx.content()[7] ^ 1;
        open(&dir.path().join("f")).unwrap().write_all_at(&[byte], 7).unwrap();
        fsx.compare();
    }
}

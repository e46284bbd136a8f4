//! The matrix: every way in which a file system's content, names and attributes can change, on every file system.
//!
//! Operations are plain data (`ops`): how a cell is prepared, what changes, and what is promised. Two oracles use them.
//! `marks` compares the marks of a capture in this process with what really changed (`tree`), which gives the word for the
//! page of kernels (`page`). `flush` runs the program under test, and compares restores and uploaded bytes. Nothing here
//! knows of hooks.

pub mod bed;
pub mod flush;
pub mod marks;
pub mod ops;
pub mod page;
pub mod tree;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tracker::capture::BackEnd;

pub use crate::capture_mounts::Kind;
use crate::raw_io::{Mapping, SlowSource};

/// Bytes of the file that most operations change.
pub const SIZE: u64 = 256 << 10;

/// Every file system, in the order of the page.
pub const COLUMNS: [Kind; 7] =
    [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Overlay, Kind::OverlayXfs, Kind::OverlayVolatile, Kind::Tmpfs];
/// The overlays.
pub const OVERLAYS: &[Kind] = &[Kind::Overlay, Kind::OverlayXfs, Kind::OverlayVolatile];

/// The file system of the column with this name.
#[must_use]
pub fn column_of(name: &str) -> Option<Kind> {
    COLUMNS.into_iter().find(|kind| kind.name() == name)
}

/// The back ends that a rule applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Any,
    /// The tracepoint back end.
    Tracepoint,
    /// fentry and kprobe.
    Functions,
}

impl By {
    fn is(self, back_end: BackEnd) -> bool {
        match self {
            By::Any => true,
            By::Tracepoint => back_end == BackEnd::Tracepoint,
            By::Functions => back_end != BackEnd::Tracepoint,
        }
    }
}

/// What is promised of a cell. Whether a captured cell is captured exactly or by a full re-read is on the page of kernels,
/// which the tests check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// The change is never missed.
    Captured,
    /// It may be missed, for this reason.
    NotPromised(&'static str),
    /// The operation does not exist there, for this reason.
    Absent(&'static str),
}

/// An exception from `Captured`.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub on: &'static [Kind],
    pub by: By,
    pub promise: Promise,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// Its stable name, which is also that of its directory.
    pub id: &'static str,
    /// What is done, for the page.
    pub title: &'static str,
    /// Fills an overlay's lower directory before it is mounted.
    pub below: Option<fn(&Path) -> io::Result<()>>,
    /// Creates the files that it changes, before the baseline.
    pub setup: fn(&mut Cell) -> io::Result<()>,
    /// The change, once per round; between two rounds there is a flush.
    pub run: fn(&mut Cell, usize) -> io::Result<()>,
    pub rounds: usize,
    /// The first match wins.
    pub rules: &'static [Rule],
    /// Why it is left out of flushes: it holds up a reader, or ends in a state that a restore does not include.
    pub marks_only: Option<&'static str>,
}

impl Op {
    pub(crate) const fn new(
        id: &'static str,
        title: &'static str,
        setup: fn(&mut Cell) -> io::Result<()>,
        run: fn(&mut Cell, usize) -> io::Result<()>,
    ) -> Op {
        Op { id, title, below: None, setup, run, rounds: 1, rules: &[], marks_only: None }
    }

    pub(crate) const fn rounds(self, rounds: usize) -> Op {
        Op { rounds, ..self }
    }

    pub(crate) const fn rules(self, rules: &'static [Rule]) -> Op {
        Op { rules, ..self }
    }

    pub(crate) const fn below(self, fill: fn(&Path) -> io::Result<()>) -> Op {
        Op { below: Some(fill), ..self }
    }

    pub(crate) const fn marks_only(self, why: &'static str) -> Op {
        Op { marks_only: Some(why), ..self }
    }

    /// The promise on `fs`.
    #[must_use]
    pub fn promise(&self, fs: Kind, back_end: BackEnd) -> Promise {
        let rule = self.rules.iter().find(|rule| rule.on.contains(&fs) && rule.by.is(back_end));
        rule.map_or(Promise::Captured, |rule| rule.promise)
    }

    fn exists(&self, fs: Kind) -> bool {
        !matches!(self.promise(fs, BackEnd::Tracepoint), Promise::Absent(_))
    }
}

/// Part `part` of `parts`, chosen by a seed. Every part has each operation on at least one file system, and uses each file
/// system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    pub seed: usize,
    pub part: usize,
    pub parts: usize,
}

impl Selection {
    /// From `TRACKER_MATRIX_SEED` (0) and `TRACKER_MATRIX_PART` (`1/1`: everything).
    ///
    /// # Panics
    /// When their values are invalid.
    #[must_use]
    pub fn from_environment() -> Selection {
        let read = |name: &str| std::env::var(name).ok();
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("not a number: {text}"));
        let seed = read("TRACKER_MATRIX_SEED").map_or(0, |text| number(&text));
        let part = read("TRACKER_MATRIX_PART").unwrap_or_else(|| "1/1".to_owned());
        let (part, parts) = part.split_once('/').unwrap_or_else(|| panic!("TRACKER_MATRIX_PART is K/N, not {part}"));
        let (part, parts) = (number(part), number(parts));
        assert!(part >= 1 && part <= parts, "TRACKER_MATRIX_PART is K/N with K from 1 to N");
        Selection { seed, part, parts }
    }

    /// Whether the cell of the operation at `at` on `fs` is in this part.
    #[must_use]
    pub fn has(&self, at: usize, op: &Op, fs: Kind) -> bool {
        let there: Vec<Kind> = COLUMNS.into_iter().filter(|fs| op.exists(*fs)).collect();
        let Some(place) = there.iter().position(|other| *other == fs) else { return self.part == 1 };
        let wanted = (self.part - 1) % self.parts.min(there.len());
        (place + at + self.seed) % self.parts.min(there.len()) == wanted
    }
}

/// One operation on one file system: its directories, and what it keeps open between its rounds.
#[derive(Debug)]
pub struct Cell {
    pub fs: Kind,
    /// Its directory in the protected tree.
    pub dir: PathBuf,
    /// Its directory outside the tree, on the same file system.
    pub outside: PathBuf,
    pub file: Option<File>,
    pub mapping: Option<Mapping>,
    pub slow: Option<(Arc<SlowSource>, JoinHandle<io::Result<usize>>)>,
}

impl Cell {
    /// Makes both directories.
    ///
    /// # Errors
    /// The system's.
    pub fn new(fs: Kind, root: &Path, id: &str) -> io::Result<Cell> {
        let (dir, outside) = (root.join("tree").join(id), root.join("outside").join(id));
        fs::create_dir_all(&dir)?;
        fs::create_dir_all(&outside)?;
        Ok(Cell { fs, dir, outside, file: None, mapping: None, slow: None })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.outside.join(name)
    }

    /// The file `f`, for reading and writing.
    pub(crate) fn open(&self) -> io::Result<File> {
        open(&self.path("f"))
    }

    /// The file `f`, for direct writes.
    pub(crate) fn direct(&self) -> io::Result<File> {
        OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(self.path("f"))
    }

    /// A new mapping of the file `f`, which is kept.
    pub(crate) fn map(&mut self) -> io::Result<&Mapping> {
        let mapping = Mapping::new(&self.open()?, SIZE as usize)?;
        Ok(self.mapping.insert(mapping))
    }

    pub(crate) fn mapped(&self) -> &Mapping {
        self.mapping.as_ref().expect("setup made a mapping")
    }
}

/// Opens a file for reading and writing.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Bytes that differ from those of any other `seed`, without equal blocks.
#[must_use]
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

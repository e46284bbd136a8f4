//! Drains and flushes one file, step by step, with an action between any two steps. The steps are the product's: capture,
//! marks, `engine::flush::read` over the real file. Store and catalog are left out: what would be committed is an image in
//! memory. Nothing is retried and nothing is read without a mark, so a change that is neither in the image nor marked stays
//! missing, and is noticed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use engine::dirty::Marks;
use engine::flush::Steps;
use engine::flush::read::read_file;
use engine::model::FileId;
use engine::source::{Exactly, FileError, FileImage, FileOps, Part, ReadJob, Stat};
use engine::xattrs::ReadXattrs;
use tracker::capture::CaptureConfig;
use tracker::source::{HowMarked, OpenFile, SourceRoot};
use tracker::volume::marks::retired::marks_by_superblock;

use crate::capture_mounts::{Kind, Mount};
use crate::capture_rig::{Rig, config};
use crate::load::Random;

/// Size of the file at the beginning, in bytes.
pub const SIZE: u64 = 1 << 20;
/// The file, from the root of its file system.
const NAME: &str = "d/f";

/// Moments of a drain and of the read that follows. Each is after the step of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    Begin,
    Swap,
    Grace,
    ReadMarks,
    ClearMarks,
    Statx,
    Xattrs,
    Clean,
    Barrier,
    StatxAgain,
    DataRanges,
    Read,
}

/// All of them.
pub const POINTS: [Point; 12] = [
    Point::Begin,
    Point::Swap,
    Point::Grace,
    Point::ReadMarks,
    Point::ClearMarks,
    Point::Statx,
    Point::Xattrs,
    Point::Clean,
    Point::Barrier,
    Point::StatxAgain,
    Point::DataRanges,
    Point::Read,
];

/// One file on its own file system, a capture, and what would be committed of the file.
pub struct Bed {
    pub rig: Rig,
    pub steps: Steps,
    /// Whether to distinguish data and holes. On some file systems, asking for them waits for a writer too.
    pub holes: bool,
    /// Whether each flush asks that writes be marked exactly, as it does for a hot file.
    pub asks: bool,
    /// What the last drain found for the file.
    pub marks: Marks,
    root: SourceRoot,
    image: Vec<u8>,
    /// Marks of a read that has to be repeated.
    kept: Marks,
}

impl Bed {
    /// A committed file of random bytes on a fresh file system. `None`, with a message, if that is not possible.
    #[must_use]
    pub fn new(case: &str, kind: Kind) -> Option<Bed> {
        Some(Bed::of(Rig::new(case, kind)?))
    }

    /// As `new`, with this capture.
    #[must_use]
    pub fn with(case: &str, kind: Kind, config: &CaptureConfig) -> Option<Bed> {
        Some(Bed::of(Rig::with(case, kind, config)?))
    }

    /// As `new`, on a file system that is mounted already.
    ///
    /// # Panics
    /// When capture does not start.
    #[must_use]
    pub fn on(mount: Mount) -> Bed {
        Bed::of(Rig::on(mount, &config()))
    }

    fn of(mut rig: Rig) -> Bed {
        let image = Random::new(3).bytes(SIZE as usize);
        fs::create_dir(rig.path("d")).expect("mkdir");
        fs::write(rig.path(NAME), &image).expect("the file");
        File::open(rig.path(NAME)).expect("the file").sync_all().expect("fsync");
        rig.settle(&["d", NAME]);
        let root = SourceRoot::open(rig.mount.root()).expect("the source");
        let (marks, kept) = Default::default();
        Bed { rig, steps: Steps::ALL, holes: true, asks: false, marks, root, image, kept }
    }

    /// The file anew, in folios of one block, and each flush asks that its writes be marked exactly.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn make_hot(&mut self) {
        let file = self.file();
        file.set_len(0).expect("truncate");
        for (block, bytes) in (0..).zip(self.image.chunks(4096)) {
            file.write_all_at(bytes, block * 4096).expect("write");
        }
        file.sync_all().expect("fsync");
        self.asks = true;
        self.rig.settle(&[NAME]);
    }

    /// The file, for reading and writing.
    ///
    /// # Panics
    /// When it does not open.
    #[must_use]
    pub fn file(&self) -> File {
        OpenOptions::new().read(true).write(true).open(self.rig.path(NAME)).expect("the file")
    }

    /// The file, for direct writes.
    ///
    /// # Panics
    /// When it does not open.
    #[must_use]
    pub fn direct(&self) -> File {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_DIRECT).open(self.rig.path(NAME)).expect("direct I/O")
    }

    /// One drain, and one read of what it marked. Calls `at` at each moment that occurs: a file without marks of content
    /// and with its old size is not read.
    ///
    /// # Panics
    /// When a step fails.
    pub fn flush(&mut self, at: &mut dyn FnMut(Point)) {
        at(Point::Begin);
        let (dev, ino) = (self.rig.dev, self.rig.ino(NAME));
        let capture = self.rig.capture();
        capture.swap().expect("swap");
        at(Point::Swap);
        capture.grace().expect("grace");
        at(Point::Grace);
        let retired = capture.read_retired().expect("marks");
        assert!(!retired.overflow.any(), "the maps of a test are large enough");
        at(Point::ReadMarks);
        capture.clear_retired().expect("clear");
        at(Point::ClearMarks);
        self.marks = std::mem::take(&mut self.kept);
        let found = marks_by_superblock(&retired);
        for (_, marks) in found.get(&dev).into_iter().flatten().filter(|(found, _)| *found == ino) {
            self.marks.merge(marks);
        }
        if self.marks.is_empty() {
            return;
        }
        let inode = self.root.stat(Path::new(NAME)).expect("statx").stat.inode;
        let job =
            ReadJob { id: FileId(1), inode, marks: self.marks.clone(), committed_size: Some(self.image.len() as u64) };
        let (how_marked, asks) = (self.rig.how_marked(), self.asks);
        let exactly: HowMarked = Arc::new(move |file, may_begin| how_marked(file, may_begin || asks));
        let file = self.root.open_file(Path::new(NAME), inode).expect("the source's file").with(Some(exactly));
        match read_file(&mut Watched { file, at, stats: 0, holes: self.holes }, &job, self.steps) {
            Ok(read) => self.commit(read),
            Err(FileError::Unsteady { .. }) => self.kept = self.marks.clone(),
            Err(error) => panic!("{error}"),
        }
    }

    fn commit(&mut self, read: FileImage) {
        if read.short {
            self.kept = self.marks.clone();
        }
        self.image.resize(read.size as usize, 0);
        for part in &read.parts {
            match part {
                Part::Bytes { offset, bytes } => {
                    self.image[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
                }
                Part::Hole { offset, len } => self.image[*offset as usize..(offset + len) as usize].fill(0),
            }
        }
    }

    /// Byte of the image.
    #[must_use]
    pub fn byte(&self, offset: u64) -> u8 {
        self.image[offset as usize]
    }

    /// First byte at which image and file differ, or the end of the shorter; `None` if they are equal.
    ///
    /// # Panics
    /// When the file cannot be read.
    #[must_use]
    pub fn difference(&self) -> Option<usize> {
        let now = fs::read(self.rig.path(NAME)).expect("the file");
        let at = now.iter().zip(&self.image).position(|(now, image)| now != image);
        at.or((now.len() != self.image.len()).then(|| now.len().min(self.image.len())))
    }
}

/// The real file, reporting its steps.
struct Watched<'a> {
    file: OpenFile,
    at: &'a mut dyn FnMut(Point),
    stats: u32,
    holes: bool,
}

impl FileOps for Watched<'_> {
    fn statx(&mut self) -> Result<Stat, FileError> {
        let result = self.file.statx();
        self.stats += 1;
        (self.at)(if self.stats == 1 { Point::Statx } else { Point::StatxAgain });
        result
    }

    fn xattrs(&mut self) -> Result<ReadXattrs, FileError> {
        let result = self.file.xattrs();
        (self.at)(Point::Xattrs);
        result
    }

    fn how_marked(&mut self) -> Exactly {
        let how = self.file.how_marked();
        if how == Exactly::Already {
            // What would be done at the moment of a write-back is done at that moment, without one.
            (self.at)(Point::Clean);
        }
        how
    }

    fn clean(&mut self) -> Result<(), FileError> {
        let result = self.file.clean();
        (self.at)(Point::Clean);
        result
    }

    fn barrier(&mut self) -> Result<(), FileError> {
        let result = self.file.barrier();
        (self.at)(Point::Barrier);
        result
    }

    fn uncache(&mut self) -> Result<(), FileError> {
        self.file.uncache()
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, FileError> {
        let result = self.file.read(offset, buffer);
        (self.at)(Point::Read);
        result
    }

    fn data_ranges(&mut self, start: u64, end: u64) -> Result<Vec<(u64, u64)>, FileError> {
        let result = if self.holes { self.file.data_ranges(start, end) } else { Ok(vec![(start, end)]) };
        (self.at)(Point::DataRanges);
        result
    }
}

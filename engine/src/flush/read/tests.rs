//! Which steps run on one file, in which order, and what a file that changes during the read becomes.

use super::*;
use crate::dirty::Marks;
use crate::model::{FileId, Ino, InodeId, Kind, Time};

const INODE: InodeId = InodeId { ino: Ino(7), generation: 1 };

/// A file that records the calls made to it.
struct Fake {
    /// What `statx` says, whatever `data` holds.
    size: u64,
    data: Vec<u8>,
    /// Blocks without data.
    holes: Vec<u64>,
    /// Bytes by which a write under way has grown the file when it releases its lock.
    grows: u64,
    /// Bytes that every read finds truncated.
    shrinks: usize,
    calls: Vec<&'static str>,
    reads: Vec<(u64, usize)>,
}

impl Fake {
    fn new(size: u64) -> Fake {
        let data = (0..size).map(|at| (at / BLOCK_BYTES) as u8 + 1).collect();
        Fake { size, data, holes: Vec::new(), grows: 0, shrinks: 0, calls: Vec::new(), reads: Vec::new() }
    }
}

impl FileOps for Fake {
    fn statx(&mut self) -> Result<Stat, FileError> {
        self.calls.push("statx");
        let time = Time { sec: 1, nsec: 0 };
        Ok(Stat {
            inode: INODE,
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: self.size,
            nlink: 1,
            mtime: time,
            ctime: time,
        })
    }

    fn xattrs(&mut self) -> Result<ReadXattrs, FileError> {
        self.calls.push("xattrs");
        Ok(ReadXattrs::default())
    }

    fn clean(&mut self) -> Result<(), FileError> {
        self.calls.push("clean");
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), FileError> {
        self.calls.push("barrier");
        self.size += self.grows;
        Ok(())
    }

    fn uncache(&mut self) -> Result<(), FileError> {
        self.calls.push("uncache");
        Ok(())
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, FileError> {
        self.calls.push("read");
        self.reads.push((offset, buffer.len()));
        self.data.truncate(self.data.len() - self.shrinks);
        let rest = self.data.get(offset as usize..).unwrap_or(&[]);
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn data_ranges(&mut self, start: u64, end: u64) -> Result<Vec<(u64, u64)>, FileError> {
        self.calls.push("data_ranges");
        let blocks = (start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)).filter(|block| !self.holes.contains(block));
        Ok(blocks.map(|block| (block * BLOCK_BYTES, ((block + 1) * BLOCK_BYTES).min(end))).collect())
    }
}

fn job(marks: Marks, committed_size: Option<u64>) -> ReadJob {
    ReadJob { id: FileId(2), inode: INODE, marks, committed_size }
}

fn marked(blocks: impl IntoIterator<Item = u32>) -> Marks {
    Marks { blocks: blocks.into_iter().collect(), meta: true, ..Marks::default() }
}

/// Offset and length of every part, holes with a star.
fn shape(image: &FileImage) -> Vec<(u64, u64, &'static str)> {
    let of = |part: &Part| match part {
        Part::Bytes { offset, bytes } => (*offset, bytes.len() as u64, ""),
        Part::Hole { offset, len } => (*offset, *len, "*"),
    };
    image.parts.iter().map(of).collect()
}

#[test]
fn the_order_is_statx_clean_barrier_read() {
    let mut file = Fake::new(2 * BLOCK_BYTES);
    let job = job(marked([1]), Some(file.size));
    let image = read_file(&mut file, &job, Steps::ALL).unwrap();
    assert_eq!(file.calls, ["statx", "xattrs", "clean", "barrier", "statx", "data_ranges", "read"]);
    assert_eq!(image.parts, [Part::Bytes { offset: BLOCK_BYTES, bytes: vec![2; BLOCK_BYTES as usize].into() }]);
    assert!(!image.short && !image.whole);
}

/// Before the holes are asked for: a page in memory counts as data there.
#[test]
fn a_file_with_other_blocks_is_read_from_the_disk() {
    let mut file = Fake::new(2 * BLOCK_BYTES);
    let job = job(Marks { remapped: true, ..marked([1]) }, Some(file.size));
    read_file(&mut file, &job, Steps::ALL).unwrap();
    assert_eq!(file.calls, ["statx", "xattrs", "clean", "barrier", "statx", "uncache", "data_ranges", "read"]);
}

/// A write marked its block but sets the size only after S0 was taken: its block belongs to the image.
#[test]
fn a_size_that_an_append_sets_late_counts() {
    let mut file = Fake::new(3 * BLOCK_BYTES);
    (file.size, file.grows) = (2 * BLOCK_BYTES, BLOCK_BYTES);
    let image = read_file(&mut file, &job(marked([2]), Some(2 * BLOCK_BYTES)), Steps::ALL).unwrap();
    assert_eq!((image.size, image.stat.size, image.short), (3 * BLOCK_BYTES, 3 * BLOCK_BYTES, false));
    let last = Part::Bytes { offset: 2 * BLOCK_BYTES, bytes: vec![3; BLOCK_BYTES as usize].into() };
    assert!(image.parts.contains(&last), "{:?}", shape(&image));
}

#[test]
fn attributes_alone_read_nothing() {
    let mut file = Fake::new(2 * BLOCK_BYTES);
    let job = job(marked([]), Some(file.size));
    let image = read_file(&mut file, &job, Steps::ALL).unwrap();
    assert_eq!(file.calls, ["statx", "xattrs"]);
    assert_eq!((image.size, image.parts), (file.size, vec![]));
}

#[test]
fn another_size_reads_the_old_and_the_new_last_block() {
    let mut file = Fake::new(5 * BLOCK_BYTES + 1);
    let image = read_file(&mut file, &job(marked([]), Some(2 * BLOCK_BYTES + 100)), Steps::ALL).unwrap();
    assert_eq!(shape(&image), [(2 * BLOCK_BYTES, BLOCK_BYTES, ""), (5 * BLOCK_BYTES, 1, "")]);
    assert_eq!(file.calls[2..4], ["clean", "barrier"]);

    let mut file = Fake::new(BLOCK_BYTES + 1);
    let image = read_file(&mut file, &job(marked([]), Some(3 * BLOCK_BYTES)), Steps::ALL).unwrap();
    assert_eq!(shape(&image), [(BLOCK_BYTES, 1, "")]);
}

#[test]
fn a_short_read_ends_the_image_and_is_read_again() {
    let mut file = Fake::new(3 * BLOCK_BYTES);
    file.data.truncate(BLOCK_BYTES as usize + 10);
    let job = job(marked(0..3), Some(file.size));
    let image = read_file(&mut file, &job, Steps::ALL).unwrap();
    assert!(image.short);
    assert_eq!((image.size, image.stat.size), (BLOCK_BYTES + 10, 3 * BLOCK_BYTES));
    assert_eq!(shape(&image).iter().map(|part| part.1).sum::<u64>(), BLOCK_BYTES + 10);
    // The read is repeated, the steps before it are not: all blocks of an image belong to one size.
    assert_eq!(file.calls.iter().filter(|call| **call == "clean").count(), 1);
    assert!(file.reads.iter().filter(|read| read.0 == 0).count() == 2, "{:?}", file.reads);
}

#[test]
fn a_file_that_never_stops_shrinking_is_left_for_later() {
    let mut file = Fake::new(BLOCK_BYTES);
    file.shrinks = 1;
    let result = read_file(&mut file, &job(Marks::default(), None), Steps::ALL);
    assert_eq!(result, Err(FileError::Unsteady { times: SHORT_READS_MAX }));
}

#[test]
fn a_new_file_is_read_whole_with_its_holes() {
    let mut file = Fake::new(3 * BLOCK_BYTES + 5);
    file.holes = vec![0, 2];
    let image = read_file(&mut file, &job(Marks::default(), None), Steps::ALL).unwrap();
    assert!(image.whole);
    let b = BLOCK_BYTES;
    assert_eq!(shape(&image), [(0, b, "*"), (b, b, ""), (2 * b, b, "*"), (3 * b, 5, "")]);
}

#[test]
fn a_hole_reaches_to_the_end_of_the_file() {
    let b = BLOCK_BYTES;
    for job in [job(Marks::default(), None), job(marked(1..4), Some(b)), job(marked([3]), Some(3 * b + 9))] {
        let mut file = Fake::new(3 * b + 5);
        file.holes = vec![2, 3];
        let image = read_file(&mut file, &job, Steps::ALL).unwrap();
        let last = *shape(&image).last().unwrap();
        assert_eq!((last.0 + last.1, last.2), (3 * b + 5, "*"), "{job:?}");
        assert!(!image.short);
    }
}

/// A file that is shorter by now has no data at its old end either. That is not a hole of the image.
#[test]
fn a_file_cut_short_has_no_hole_at_its_old_end() {
    let b = BLOCK_BYTES;
    for size in [4 * b, 4 * b + 5] {
        let mut file = Fake::new(size);
        file.data.truncate(2 * b as usize);
        file.holes = vec![2, 3, 4];
        let image = read_file(&mut file, &job(Marks::default(), None), Steps::ALL).unwrap();
        assert!(image.short);
        assert_eq!(image.size, 2 * b);
        assert_eq!(shape(&image), [(0, b, ""), (b, b, "")]);
    }
}

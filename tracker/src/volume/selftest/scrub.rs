//! The scrub of one volume: reads blocks at its pace. After the next ordinary drain it compares those without a mark with
//! their committed values. `engine::scrub` decides what to read and what counts as a difference.
//!
//! A file is read as by a flush (CLEAN, BARRIER, READ), so that neither a dirty block without a mark nor a write that has
//! not made its mark yet counts as a miss. A difference counts only if a second reading, one drain later, finds the same
//! bytes and still no mark. By then the scrub has waited for the writer of those bytes.

use std::time::Instant;

use engine::block;
use engine::catalog::Record;
use engine::dirty::Marks;
use engine::flush::Steps;
use engine::flush::world::SourceTree;
use engine::model::{FileId, Ino, InodeId, Kind};
use engine::scrub::{Chunk, Cursor, Pace, Rate, differing, unexcused};
use engine::source::{FileError, FileImage, Part, ReadJob};
use engine::tree::{HOLE, Value, ZERO, block_value};
use roaring::RoaringBitmap;

use crate::volume::world::{VolumeWorld, WorldError};

/// Name of the note with the position of the scrub.
const CURSOR: &str = "scrub";
/// Most catalog rows that one round skips.
const ROWS: usize = 256;
/// Time between two counts of the volume's bytes, and between two saves of the cursor.
const COUNT_GAP: std::time::Duration = std::time::Duration::from_secs(3600);
const NOTE_GAP: std::time::Duration = std::time::Duration::from_secs(60);

/// The result of one reading.
#[derive(Clone)]
struct Look {
    id: FileId,
    inode: InodeId,
    chunk: Chunk,
    /// Size of the file when it was read.
    size_now: u64,
    /// The value of each block of the chunk.
    found: Vec<Value>,
    /// Blocks that differed when the same chunk was read before, with their values.
    before: Option<(RoaringBitmap, Vec<Value>)>,
}

pub struct Scrub {
    pace: Pace,
    off: bool,
    cursor: Option<Cursor>,
    began: Instant,
    bytes: u64,
    counted: Option<Instant>,
    noted: Instant,
    looks: Vec<Look>,
    /// Chunks to be read once more.
    suspects: Vec<Look>,
    pub scrubbed: u64,
    pub differences: u64,
    /// Write-back errors that a reading reported: the kernel may report them to nobody else.
    pub write_back: Vec<(FileId, String)>,
}

/// Blocks of a file that changed without a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    pub id: FileId,
    pub blocks: u64,
    pub first: u64,
}

impl Scrub {
    pub fn new(rate: Rate) -> Scrub {
        let now = Instant::now();
        Scrub {
            pace: Pace::new(rate),
            off: rate == Rate::OFF,
            cursor: None,
            began: now,
            bytes: 0,
            counted: None,
            noted: now,
            looks: Vec::new(),
            suspects: Vec::new(),
            scrubbed: 0,
            differences: 0,
            write_back: Vec::new(),
        }
    }

    /// Changes the rate.
    pub fn set_rate(&mut self, rate: Rate) {
        self.off = rate == Rate::OFF;
        self.pace.set_rate(rate);
    }

    /// Discards what was read before, because the catalog or the capture has been replaced.
    pub fn reset(&mut self) {
        self.looks.clear();
        self.suspects.clear();
    }

    /// Called at the end of a round: reads what is due. The catalog must not change before [`Scrub::compare`].
    pub fn look(&mut self, world: &mut VolumeWorld) -> Result<(), WorldError> {
        if self.off {
            return Ok(());
        }
        for suspect in std::mem::take(&mut self.suspects) {
            self.read(world, suspect.id, suspect.inode, suspect.chunk, suspect.before)?;
        }
        if self.counted.is_none_or(|at| at.elapsed() >= COUNT_GAP) {
            self.bytes = world.catalog.content_bytes()?;
            self.counted = Some(Instant::now());
        }
        self.pace.tick(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX), self.bytes);
        let mut cursor = match self.cursor {
            Some(cursor) => cursor,
            None => world.catalog.note(CURSOR)?.map_or_else(Cursor::default, |text| Cursor::read(&text)),
        };
        let rows = world.catalog.files_after(cursor.after, ROWS)?;
        let ended = rows.len() < ROWS;
        let mut due = true;
        for row in &rows {
            due = self.pass(world, row, &mut cursor)?;
            if !due {
                break;
            }
        }
        if due && ended {
            cursor = Cursor::default();
        }
        self.cursor = Some(cursor);
        if self.noted.elapsed() >= NOTE_GAP {
            self.noted = Instant::now();
            world.catalog.set_note(CURSOR, &cursor.write())?;
        }
        Ok(())
    }

    /// Reads the rest of a file as far as the pace allows. False: the pace does not allow the next chunk now.
    fn pass(&mut self, world: &mut VolumeWorld, row: &Record, cursor: &mut Cursor) -> Result<bool, WorldError> {
        if row.meta.kind != Kind::File || row.inode.ino == Ino::NONE {
            cursor.pass_file(row.id);
            return Ok(true);
        }
        while cursor.after < row.id {
            let Some(chunk) = cursor.chunk(row.size) else {
                cursor.pass_file(row.id);
                break;
            };
            if !self.pace.take(chunk.bytes(row.size)) {
                return Ok(false);
            }
            self.read(world, row.id, row.inode, chunk, None)?;
            cursor.pass(row.id, row.size, chunk);
        }
        Ok(true)
    }

    fn read(
        &mut self,
        world: &mut VolumeWorld,
        id: FileId,
        inode: InodeId,
        chunk: Chunk,
        before: Option<(RoaringBitmap, Vec<Value>)>,
    ) -> Result<(), WorldError> {
        let Some(row) = world.catalog.file(id)? else { return Ok(()) };
        let mut marks = Marks::default();
        marks.mark_bytes(block::offset(chunk.first), block::offset(chunk.first + chunk.count));
        let job = ReadJob { id, inode, marks, committed_size: Some(row.size) };
        // A file that has moved, is late or unreadable now comes again after the scrub has read all others.
        match world.read_files(&[job], Steps::ALL).pop() {
            Some(Ok(image)) => {
                let bytes = chunk.bytes(row.size);
                self.scrubbed += if before.is_some() { 0 } else { bytes };
                let found = values(&image, chunk);
                self.looks.push(Look { id, inode, chunk, size_now: image.size, found, before });
            }
            Some(Err(FileError::WriteBack { cause })) => self.write_back.push((id, cause)),
            _ => {}
        }
        Ok(())
    }

    /// Called after a drain and before a flush: compares what the last [`Scrub::look`] read with what is committed and
    /// marked.
    pub fn compare(&mut self, world: &VolumeWorld) -> Result<Option<Missed>, WorldError> {
        for look in std::mem::take(&mut self.looks) {
            let Some(row) = world.catalog.file(look.id)? else { continue };
            if row.inode != look.inode {
                continue;
            }
            let node = world.catalog.node(look.id, 0, look.chunk.first / block::GROUP_BLOCKS)?;
            let differing = differing(node.as_deref(), look.chunk.first, &look.found);
            let marks = world.pending.marks(look.inode.ino);
            let mut missed = unexcused(differing, marks.as_ref(), row.size, look.size_now);
            let Some((blocks, values)) = &look.before else {
                if !missed.is_empty() {
                    tracing::info!(file = %look.id, blocks = missed.len(), "the scrub looks once more");
                    let before = Some((missed, look.found.clone()));
                    self.suspects.push(Look { before, ..look });
                }
                continue;
            };
            // The same bytes as the first time: their writer had finished before the second reading.
            let same = |at: &u32| {
                let at = u64::from(*at).checked_sub(look.chunk.first).and_then(|at| usize::try_from(at).ok());
                at.is_some_and(|at| values.get(at) == look.found.get(at))
            };
            missed &= blocks;
            missed = missed.iter().filter(same).collect();
            if let Some(first) = missed.min() {
                self.differences += missed.len();
                return Ok(Some(Missed { id: look.id, blocks: missed.len(), first: u64::from(first) }));
            }
        }
        Ok(None)
    }
}

/// The values of the blocks of a chunk; holes beyond the file's end.
fn values(image: &FileImage, chunk: Chunk) -> Vec<Value> {
    let mut out = vec![HOLE; usize::try_from(chunk.count).unwrap_or(0)];
    for part in &image.parts {
        let Part::Bytes { offset, bytes } = part else { continue };
        for (index, bytes) in (offset / block::offset(1)..).zip(bytes.chunks(block::BLOCK_LEN)) {
            let at = index.checked_sub(chunk.first).and_then(|at| usize::try_from(at).ok());
            if let Some(slot) = at.and_then(|at| out.get_mut(at)) {
                *slot = if bytes.is_empty() { ZERO } else { block_value(index, bytes) };
            }
        }
    }
    out
}

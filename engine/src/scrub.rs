//! The scrub: which blocks to check next, how fast, and whether they are as committed. A difference in a block without a
//! mark means that capture missed a change.
//!
//! Numbers only: the caller reads files, drains marks and knows the time.

use roaring::RoaringBitmap;

use crate::block;
use crate::dirty::Marks;
use crate::model::{BLOCK_BYTES, FileId};
use crate::tree::{HOLE, VALUE_BYTES, Value, ZERO};

/// Blocks that are checked together; they are in one group, whose values are one node.
pub const CHUNK_BLOCKS: u64 = 256;

/// Most bytes that may accumulate: after a pause the scrub does not catch up at once.
pub const SAVED_BYTES_MAX: u64 = 4 << 20;

const HOUR_NS: f64 = 3.6e12;

/// How much of a volume is checked in an hour, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub millionths: u64,
}

impl Rate {
    pub const OFF: Rate = Rate { millionths: 0 };
    /// 1 %.
    pub const DEFAULT: Rate = Rate { millionths: 10_000 };
}

/// How many bytes may be read by now.
#[derive(Clone, Debug)]
pub struct Pace {
    rate: Rate,
    bytes: f64,
    last_ns: Option<u64>,
}

impl Pace {
    pub fn new(rate: Rate) -> Pace {
        Pace { rate, bytes: 0.0, last_ns: None }
    }

    /// Changes the rate; what has accumulated stays.
    pub fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
    }

    /// Advances the time to `now_ns` (of any clock that does not run backwards), for a volume of so many bytes.
    pub fn tick(&mut self, now_ns: u64, volume_bytes: u64) {
        let passed = now_ns.saturating_sub(self.last_ns.unwrap_or(now_ns));
        self.last_ns = Some(now_ns);
        let share = self.rate.millionths as f64 / 1e6;
        self.bytes += volume_bytes as f64 * share * passed as f64 / HOUR_NS;
        self.bytes = self.bytes.min(SAVED_BYTES_MAX as f64);
    }

    /// Takes `bytes` if that many have accumulated.
    pub fn take(&mut self, bytes: u64) -> bool {
        let enough = self.bytes >= bytes as f64;
        if enough {
            self.bytes -= bytes as f64;
        }
        enough
    }
}

/// The position of the scrub: it goes through all files in the order of their ids, and then starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The file before the next one.
    pub after: FileId,
    /// First block of the next file that was not checked.
    pub block: u64,
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor { after: FileId(0), block: 0 }
    }
}

/// Blocks of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub first: u64,
    pub count: u64,
}

impl Chunk {
    pub fn bytes(self, size: u64) -> u64 {
        let end = block::offset(self.first + self.count).min(size);
        end.saturating_sub(block::offset(self.first))
    }
}

impl Cursor {
    /// As text that [`Cursor::read`] understands.
    pub fn write(self) -> String {
        format!("{} {}", self.after.0, self.block)
    }

    /// Parses the text; a text that it does not understand is the beginning.
    pub fn read(text: &str) -> Cursor {
        let mut numbers = text.split(' ').map(str::parse::<u64>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(after)), Some(Ok(block))) => Cursor { after: FileId(after), block },
            _ => Cursor::default(),
        }
    }

    /// The next blocks of the first file after `after`, whose size is `size`; `None` if it has no more.
    pub fn chunk(&self, size: u64) -> Option<Chunk> {
        let blocks = block::count(size);
        // Up to the next chunk border, so that a chunk never spans two groups.
        let border = (self.block / CHUNK_BLOCKS + 1) * CHUNK_BLOCKS;
        let count = border.min(blocks).checked_sub(self.block)?;
        (count > 0).then_some(Chunk { first: self.block, count })
    }

    /// Records that `chunk` of file `id` was checked, or skipped.
    pub fn pass(&mut self, id: FileId, size: u64, chunk: Chunk) {
        self.block = chunk.first + chunk.count;
        if self.block >= block::count(size) {
            self.pass_file(id);
        }
    }

    pub fn pass_file(&mut self, id: FileId) {
        *self = Cursor { after: id, block: 0 };
    }
}

/// Zeros are equal whether they take space or not: reading alone can turn preallocated space from hole to data.
fn content(value: Value) -> Value {
    if value == HOLE { ZERO } else { value }
}

/// The blocks, starting with `first`, whose committed value differs from `found`. `node` is the stored node of their group;
/// values that it does not have are holes.
pub fn differing(node: Option<&[u8]>, first: u64, found: &[Value]) -> RoaringBitmap {
    let (values, _) = node.unwrap_or_default().as_chunks::<VALUE_BYTES>();
    let mut out = RoaringBitmap::new();
    for (block, found) in (first..).zip(found) {
        let committed = values.get((block % block::GROUP_BLOCKS) as usize).copied().unwrap_or(HOLE);
        if content(committed) != content(*found)
            && let Ok(block) = u32::try_from(block)
        {
            out.insert(block);
        }
    }
    out
}

/// The blocks of `blocks` that no mark explains. `size_now` is the file's size when it was checked, `size` the committed
/// one.
pub fn unexcused(mut blocks: RoaringBitmap, marks: Option<&Marks>, size: u64, size_now: u64) -> RoaringBitmap {
    if size_now != size {
        // A mark of any kind explains a new size; the flush then finds out which blocks it changes. Without a mark, the
        // change of the size was missed.
        let end = u32::try_from(size.min(size_now) / BLOCK_BYTES).unwrap_or(u32::MAX);
        match marks {
            Some(_) => drop(blocks.remove_range(end..)),
            None => drop(blocks.insert(end)),
        }
    }
    match marks {
        None => blocks,
        Some(marks) if marks.all_content() => RoaringBitmap::new(),
        Some(marks) => blocks - marks.blocks_within(size.max(size_now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn one_percent_an_hour_is_what_it_says() {
        let mut pace = Pace::new(Rate::DEFAULT);
        let volume = 10 << 30;
        pace.tick(5, volume);
        assert!(!pace.take(1), "nothing is saved up before time has passed");
        let mut read = 0;
        for second in 1..=3600 {
            pace.tick(5 + second * SECOND, volume);
            while pace.take(4096) {
                read += 4096;
            }
        }
        let wanted = volume / 100;
        assert!(read <= wanted && read > wanted - 2 * 4096, "{read} of {wanted}");
        pace.tick(1000 * 3600 * SECOND, volume);
        assert!(pace.take(SAVED_BYTES_MAX) && !pace.take(1), "what a pause saves up has a bound");
        let mut off = Pace::new(Rate::OFF);
        off.tick(0, volume);
        off.tick(u64::MAX, volume);
        assert!(!off.take(1));
    }

    #[test]
    fn every_block_of_every_file_is_passed_once() {
        let files = [(FileId(1), 0), (FileId(2), 1), (FileId(5), 700 * 4096 + 1), (FileId(9), 256 * 4096)];
        let mut cursor = Cursor::default();
        let mut seen = Vec::new();
        for (id, size) in files {
            assert!(cursor.after < id);
            while cursor.after < id {
                match cursor.chunk(size) {
                    Some(chunk) => {
                        assert_eq!(chunk.first / block::GROUP_BLOCKS, (chunk.first + chunk.count - 1) / 512);
                        seen.extend((chunk.first..chunk.first + chunk.count).map(|block| (id, block)));
                        cursor.pass(id, size, chunk);
                    }
                    None => cursor.pass_file(id),
                }
                cursor = Cursor::read(&cursor.write());
            }
        }
        let all: Vec<_> =
            files.iter().flat_map(|(id, size)| (0..block::count(*size)).map(move |block| (*id, block))).collect();
        assert_eq!(seen, all);
        assert_eq!(Cursor::read("what is this"), Cursor::default());
        // A file that became shorter than the cursor's position.
        assert_eq!(Cursor { after: FileId(3), block: 9 }.chunk(4096), None);
    }

    #[test]
    fn a_missed_change_differs_and_a_hole_read_as_zeros_does_not() {
        let (a, b) = ([7; 32], [8; 32]);
        let node: Vec<u8> = [a, HOLE, ZERO, a].concat();
        assert!(differing(Some(&node), 0, &[a, ZERO, HOLE, a, HOLE, ZERO]).is_empty());
        assert_eq!(differing(Some(&node), 1, &[b, b, b, b]).iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(differing(None, 512, &[ZERO, a]).iter().collect::<Vec<_>>(), [513]);
        assert_eq!(
            differing(Some(&node), 512, &[b]).iter().collect::<Vec<_>>(),
            [512],
            "groups have nodes of their own"
        );
    }

    #[test]
    fn marks_excuse_their_own_blocks_alone() {
        let blocks = || RoaringBitmap::from_iter([1, 5, 9]);
        let left = |marks: Option<&Marks>, now: u64| -> Vec<u32> {
            unexcused(blocks(), marks, 10 * 4096, now).iter().collect()
        };
        let size = 10 * 4096;
        assert_eq!(left(None, size), [1, 5, 9]);
        let mut one = Marks::meta();
        one.mark_bytes(5 * 4096, 5 * 4096 + 1);
        assert_eq!(left(Some(&one), size), [1, 9]);
        assert_eq!(left(Some(&Marks { from: Some(6 * 4096), ..Marks::default() }), size), [1, 5]);
        assert!(left(Some(&Marks::rescan()), size).is_empty());
        assert!(left(Some(&Marks { whole: true, ..Marks::default() }), size).is_empty());
        // An append with a mark explains the last block; one without does not.
        assert_eq!(left(Some(&Marks::meta()), 9 * 4096 + 1), [1, 5]);
        assert_eq!(left(None, 9 * 4096 + 1), [1, 5, 9]);
    }
}

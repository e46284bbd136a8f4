//! `loss-window`: time from when a write returned to the first commit in the store that contains it.
//!
//! Every write stamps its block with its own number. Afterwards all commits are decoded: a write is in the first commit
//! whose literal for its block has its stamp, or a later one if the block was written again. The time of a commit is the
//! status change time of its object in the local store, when it got its name. The file system's clock moves in steps of
//! some milliseconds, so a figure may be too small by as much.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::format::{Key, frame};
use engine::model::{DataRef, Op, Seq};
use serde_json::json;
use tracker::repository;
use tracker::store::local::Local;

use super::process::{Place, VOLUME};
use super::{Numbers, Outcome, machine, now_ns, percentile, table};

const BLOCK: u64 = 4096;
const FILE_BYTES: u64 = 256 << 20;
const BLOCKS: u64 = FILE_BYTES / BLOCK;
const PER_SECOND: u32 = 2_000;

/// One write: its block and when it returned, in nanoseconds since 1970. Its number is its place in the list, from 1.
struct Write {
    block: u64,
    returned: i128,
}

/// # Errors
/// When something cannot be set up, or a write is in no commit.
pub(super) fn run(seconds: u64) -> Outcome<()> {
    println!("loss-window: random 4 KiB writes into a file of 256 MiB, local store, default interval");
    let machine = machine();
    println!(
        "every write was looked for by its stamp in the decoded commits; wanted are {PER_SECOND} writes a second. \
         A file written in large pieces lies in the cache in large folios"
    );
    let mut rows = Vec::new();
    let mut records = Vec::new();
    for (name, piece) in [("file made in pieces of 4 KiB", BLOCK), ("file made in one piece", FILE_BYTES)] {
        let (row, record) = case(name, piece, seconds)?;
        rows.push(row);
        records.push(record);
    }
    let head = [
        "",
        "p50 ms",
        "p99 ms",
        "max ms",
        "writes/s",
        "commits",
        "read/dirty",
        "uploaded/dirty",
        "rescans",
        "back end",
    ];
    table(&head, &rows);
    println!("{}", json!({"bench": "loss-window", "machine": machine, "cases": records}));
    Ok(())
}

/// One file and one load: a row of the table, and the same as JSON.
fn case(name: &str, piece: u64, seconds: u64) -> Outcome<(Vec<String>, serde_json::Value)> {
    let place = Place::new(None)?;
    let path = place.source.join("file");
    make(&path, usize::try_from(piece)?)?;
    let daemon = place.start()?;
    daemon.sync()?;
    let before = daemon.status()?;
    let began = Instant::now();
    let writes = write(&path, seconds)?;
    let elapsed = began.elapsed().as_secs_f64();
    daemon.sync()?;
    let after = daemon.status()?;
    daemon.stop()?;
    let windows = windows(&place, &writes, Seq(before.head_seq))?;
    let at = |part| percentile(&windows, part) / 1e6;
    let dirty = (writes.len() as u64 * BLOCK) as f64;
    let read = (after.bytes_read - before.bytes_read) as f64 / dirty;
    let uploaded = (after.bytes_uploaded - before.bytes_uploaded) as f64 / dirty;
    let pace = writes.len() as f64 / elapsed;
    let (commits, rescans) = (after.head_seq - before.head_seq, after.rescans - before.rescans);
    let mut row = vec![name.to_owned()];
    row.extend([at(0.5), at(0.99), at(1.0), pace].map(|value| format!("{value:.0}")));
    row.push(commits.to_string());
    row.extend([read, uploaded].map(|value| format!("{value:.2}")));
    row.extend([rescans.to_string(), after.backend.name().to_owned()]);
    let record = json!({"case": name, "writes": writes.len(), "seconds": elapsed, "commits": commits,
        "interval_ms": after.interval_ms, "backend": after.backend.name(), "rescans": rescans, "p50_ms": at(0.5),
        "p99_ms": at(0.99), "max_ms": at(1.0), "read_per_dirty_byte": read, "uploaded_per_dirty_byte": uploaded});
    Ok((row, record))
}

fn make(path: &Path, piece: usize) -> Outcome<()> {
    let mut content = vec![0; FILE_BYTES as usize];
    Numbers(1).fill(&mut content);
    content.chunks_exact_mut(BLOCK as usize).for_each(|block| stamp(block, 0));
    let mut file = File::create(path)?;
    content.chunks(piece).try_for_each(|part| file.write_all(part))?;
    file.sync_all()?;
    Ok(())
}

fn stamp(block: &mut [u8], number: u64) {
    block[..8].copy_from_slice(&number.to_le_bytes());
}

/// Writes at a steady rate; catches up if late.
fn write(path: &Path, seconds: u64) -> Outcome<Vec<Write>> {
    let file = File::options().write(true).open(path)?;
    let mut numbers = Numbers(2);
    let mut block = [0; BLOCK as usize];
    let count = seconds * u64::from(PER_SECOND);
    let mut writes = Vec::new();
    let began = Instant::now();
    for number in 1..=count {
        let due = Duration::from_secs(1) / PER_SECOND * u32::try_from(number)?;
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        numbers.fill(&mut block);
        stamp(&mut block, number);
        let at = numbers.next() % BLOCKS;
        file.write_all_at(&block, at * BLOCK)?;
        writes.push(Write { block: at, returned: now_ns() });
    }
    Ok(writes)
}

/// For each write the nanoseconds until its commit.
fn windows(place: &Place, writes: &[Write], before: Seq) -> Outcome<Vec<f64>> {
    let reader = repository::open(Arc::new(Local::open(&place.store, tracker::store::Make::Nothing)?), VOLUME)?;
    // Writes that wait for their commit, by block, in order.
    let mut waiting: HashMap<u64, Vec<u64>> = HashMap::new();
    for (number, write) in (1..).zip(writes) {
        waiting.entry(write.block).or_default().push(number);
    }
    let mut windows = Vec::with_capacity(writes.len());
    for seq in (before + 1).to(reader.head()) {
        let meta = fs::metadata(object(place, Key::Commit(seq)))?;
        let named = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
        for (block, stamp) in stamps(place, &reader, seq)? {
            let Some(list) = waiting.get_mut(&block) else { continue };
            list.retain(|number| {
                let write = usize::try_from(number - 1).ok().and_then(|at| writes.get(at));
                if let Some(write) = write.filter(|_| *number <= stamp) {
                    // A block can be read, and even committed, before its writer runs again.
                    windows.push((named - write.returned).max(0) as f64);
                    return false;
                }
                true
            });
        }
    }
    let lost: usize = waiting.values().map(Vec::len).sum();
    if lost > 0 { Err(format!("{lost} writes are in no commit").into()) } else { Ok(windows) }
}

/// Blocks that a commit carries as literals, with their stamps.
fn stamps(place: &Place, reader: &repository::Reader, seq: Seq) -> Outcome<Vec<(u64, u64)>> {
    let (commit, _, _) = reader.commit(seq)?;
    let mut found = Vec::new();
    for content in commit.changes.files.iter().filter_map(|file| file.content.as_ref()) {
        let mut at = 0;
        for op in &content.ops {
            match op {
                Op::Copy { len, .. } | Op::Hole { len } => at += len,
                Op::Literal(stored) => {
                    let frame = read_frame(place, &stored.at)?;
                    let bytes = frame::read_run(&reader.volume_id(), &stored.at, stored.len, &frame)?;
                    // Literals may begin or end inside a block; only complete stamps count.
                    let first = at.next_multiple_of(BLOCK);
                    for block in first / BLOCK..(at + stored.len).div_ceil(BLOCK) {
                        let start = usize::try_from(block * BLOCK - at)?;
                        if let Some(stamp) = bytes.get(start..).and_then(|bytes| bytes.first_chunk()) {
                            found.push((block, u64::from_le_bytes(*stamp)));
                        }
                    }
                    at += stored.len;
                }
            }
        }
    }
    Ok(found)
}

fn read_frame(place: &Place, at: &DataRef) -> Outcome<Vec<u8>> {
    let mut frame = vec![0; at.frame_bytes as usize];
    File::open(object(place, Key::from(at.object)))?.read_exact_at(&mut frame, at.frame_offset)?;
    Ok(frame)
}

fn object(place: &Place, key: Key) -> std::path::PathBuf {
    place.store.join(VOLUME).join(key.to_string())
}

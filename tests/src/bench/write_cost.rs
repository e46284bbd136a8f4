//! `write-cost`: what one 4 KiB pwrite costs, rewriting a cached 64 MiB file on loop-mounted ext4.
//!
//! Variants take turns in every round. Besides the wall clock, the thread's own CPU time is shown: it includes tracing
//! programs, which run in the writing thread, and excludes other processes.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use engine::model::Ino;
use engine::source::Exactly;
use serde_json::json;
use tracker::capture::mounts::kernel_dev;
use tracker::capture::{Capture, CaptureConfig};

use super::process::{Place, bpf_links};
use super::{Numbers, Outcome, machine, median, table, thread_cpu_ns};
use crate::capture_mounts::{Kind, Mount};

const BLOCK: usize = 4096;
const FILE_BYTES: u64 = 64 << 20;
/// How long one variant writes in one round: four intervals of the daemon.
const TURN: Duration = Duration::from_secs(1);

const VARIANTS: [&str; 7] = [
    "nothing attached by this run",
    "attached, file system not tracked",
    "attached, file not watched",
    "tracked by folios, blocks already marked",
    "the same, another file is marked exactly",
    "tracked exactly, blocks already marked",
    "whole daemon, flush every 250 ms",
];

/// Per write, in nanoseconds.
struct Cost {
    wall: f64,
    cpu: f64,
}

/// # Errors
/// When something cannot be set up (root is needed) or a write fails.
pub(super) fn run(rounds: u64) -> Outcome<()> {
    let mount = Mount::new(Kind::Ext4)?;
    let path = mount.root().join("file");
    let mut content = vec![0; FILE_BYTES as usize];
    Numbers(1).fill(&mut content);
    // In single blocks, as most programs write: in every small write ext4 walks all blocks of a large folio, some 30
    // microseconds for 2 MiB, which would hide what is measured.
    let mut file = File::create(&path)?;
    content.chunks_exact(BLOCK).try_for_each(|block| file.write_all(block))?;
    file.sync_all()?;
    let place = Place::new(Some(mount.root()))?;
    let mut costs: [Vec<Cost>; VARIANTS.len()] = Default::default();
    let mut foreign = Vec::new();
    for round in 0..rounds {
        for (variant, costs) in costs.iter_mut().enumerate() {
            if variant == 0 {
                foreign.push(bpf_links().ok_or("the kernel does not list its links")?);
            }
            costs.push(turn(variant, &path, &place, round)?);
        }
    }
    report(&costs, &foreign)
}

/// One variant: sets it up, writes under it, and takes it down.
fn turn(variant: usize, path: &Path, place: &Place, round: u64) -> Outcome<Cost> {
    let file = File::options().write(true).open(path)?;
    match variant {
        0 => write(&file, round),
        1..=5 => {
            let pins = format!("/sys/fs/bpf/tracker-bench-{}", std::process::id());
            let (capture, _) = Capture::start(&CaptureConfig::new(pins, crate::capture_rig::back_end()))?;
            let cost = captured(variant, &capture, path, &file, round);
            capture.detach()?;
            cost
        }
        _ => {
            let daemon = place.start()?;
            let cost = write(&file, round);
            daemon.sync()?;
            daemon.stop()?;
            place.detach()?;
            cost
        }
    }
}

fn captured(variant: usize, capture: &Capture, path: &Path, file: &File, round: u64) -> Outcome<Cost> {
    let meta = file.metadata()?;
    let dev = kernel_dev(path.parent().ok_or("a file has a directory")?)?;
    if variant >= 2 {
        capture.track(dev, false)?;
    }
    if variant >= 3 {
        capture.watch(&[(dev, Ino(meta.ino()))])?;
    }
    if variant == 4 {
        let other = path.with_file_name("other");
        let file = File::create(&other)?;
        capture.watch(&[(dev, Ino(file.metadata()?.ino()))])?;
        mark_exactly(capture, &file)?;
        std::fs::remove_file(other)?;
    }
    if variant == 5 {
        mark_exactly(capture, file)?;
    }
    let cost = write(file, round);
    file.set_len(FILE_BYTES)?;
    cost
}

/// Has the writes of the file marked exactly, by one behind its end that is large enough for a large folio.
fn mark_exactly(capture: &Capture, file: &File) -> Outcome<()> {
    file.write_all_at(&[1; 1 << 20], FILE_BYTES)?;
    match capture.exact_probe()?.ask(file.as_fd(), false) {
        Exactly::Already => Ok(()),
        how => Err(format!("writes are not marked exactly here: {how:?}").into()),
    }
}

/// Rewrites the file from start to end: once without measuring (afterwards caches are warm and, if the file is tracked, all
/// blocks marked), then for the length of a turn.
fn write(file: &File, round: u64) -> Outcome<Cost> {
    let mut block = [0; BLOCK];
    Numbers(round).fill(&mut block);
    let blocks = FILE_BYTES / BLOCK as u64;
    let pass = || (0..blocks).try_for_each(|at| file.write_all_at(&block, at * BLOCK as u64));
    pass()?;
    let (began, cpu) = (Instant::now(), thread_cpu_ns());
    let mut writes = 0;
    while began.elapsed() < TURN {
        pass()?;
        writes += blocks;
    }
    let (wall, cpu) = (began.elapsed(), thread_cpu_ns() - cpu);
    Ok(Cost { wall: wall.as_nanos() as f64 / writes as f64, cpu: cpu as f64 / writes as f64 })
}

fn report(costs: &[Vec<Cost>], foreign: &[usize]) -> Outcome<()> {
    println!("write-cost: 4 KiB pwrite, rewrite of a cached 64 MiB file on loop-mounted ext4");
    let machine = machine();
    let (least, most) = (foreign.iter().min(), foreign.iter().max());
    let rounds = foreign.len();
    println!(
        "median of {rounds} interleaved rounds of 1 s each; links of other tracing on this machine at `nothing attached`: \
         {} to {} (0 would be none)",
        least.copied().unwrap_or_default(),
        most.copied().unwrap_or_default()
    );
    let figures = |costs: &[Cost], of: fn(&Cost) -> f64| median(&costs.iter().map(of).collect::<Vec<_>>());
    // Ratios are made within a round and then the median taken, so that both numbers saw the same machine.
    let ratio = |costs_of: &[Cost]| {
        let pairs = costs_of.iter().zip(&costs[0]).map(|(one, base)| one.cpu / base.cpu);
        median(&pairs.collect::<Vec<_>>())
    };
    let mut rows = Vec::new();
    let mut records = Vec::new();
    for (name, costs) in VARIANTS.iter().zip(costs) {
        let (wall, cpu, ratio) = (figures(costs, |cost| cost.wall), figures(costs, |cost| cost.cpu), ratio(costs));
        rows.push(vec![(*name).to_owned(), format!("{wall:.0}"), format!("{cpu:.0}"), format!("{ratio:.3}")]);
        records.push(json!({"variant": name, "wall_ns": wall, "cpu_ns": cpu, "cpu_ratio": ratio}));
    }
    table(&["", "wall ns", "thread cpu ns", "ratio of cpu"], &rows);
    let record = json!({"bench": "write-cost", "rounds": rounds, "foreign_links": [least, most],
        "machine": machine, "variants": records});
    println!("{record}");
    Ok(())
}

//! What each kind of operation costs under each kind of watching, in two ways.
//!
//! - By the writing thread's own CPU time: programs, and marks of inotify, run in that thread; time of other processes does
//!   not count, nor what the daemon uses on other processors. A virtual processor that its host takes away still counts,
//!   which only ever adds; so a turn is many short passes, and the lowest of them is its cost.
//! - By the kernel's own clock around each run of a program (`BPF_ENABLE_STATS`): what the programs take, including the
//!   clock, without the call into them. It is not a difference of two large numbers, so it is steady where the other one is
//!   noise.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracker::capture::Capture;

use super::harm::{BLOCK, Bench, FILE_BYTES, MIB, WATCHING, Watching};
use super::peers::{ProgramTimes, clean};
use super::{Numbers, Outcome, median, percentile, table, thread_cpu_ns};
use crate::raw_io::{Mapping, Pages};

/// How long one operation is measured in one turn, at least, and in how many passes.
const TURN: Duration = Duration::from_millis(200);
const PASSES: u32 = 12;
const CREATES: u64 = 250;
const DIRECTS: u64 = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// On pages that are dirty already: nothing becomes dirty.
    Rewrite,
    /// On clean cached pages, each of which becomes dirty.
    Write,
    Direct,
    Store,
    Sequential,
    CreateUnlink,
}

const OPERATIONS: [(Operation, &str); 6] = [
    (Operation::Rewrite, "4 KiB pwrite, dirty page"),
    (Operation::Write, "4 KiB pwrite, clean page"),
    (Operation::Direct, "4 KiB O_DIRECT"),
    (Operation::Store, "mmap store, clean page"),
    (Operation::Sequential, "1 MiB pwrite, dirty"),
    (Operation::CreateUnlink, "create and unlink"),
];

/// One operation in one turn.
struct Turn {
    /// CPU nanoseconds per operation in the fastest pass.
    lowest: f64,
    operations: u64,
    /// In programs, of all passes: nanoseconds and runs.
    programs: (u64, u64),
}

fn head() -> Vec<&'static str> {
    [""].into_iter().chain(OPERATIONS.iter().map(|(_, name)| *name)).collect()
}

/// CPU time, all ways of watching in turns.
pub(super) fn costs(bench: &Bench, rounds: u64) -> Outcome<Value> {
    let mut costs = vec![vec![Vec::new(); OPERATIONS.len()]; WATCHING.len()];
    for round in 0..rounds {
        // Each way comes first in some round: what ran before leaves work for the disk.
        for ((watching, _), costs) in super::in_turn(WATCHING.iter().zip(&mut costs), round) {
            let mut guard = bench.begin(*watching)?;
            for ((operation, _), costs) in OPERATIONS.iter().zip(costs.iter_mut()) {
                costs.push(measure(bench, *operation, *watching, guard.capture.as_mut(), round, None)?.lowest);
            }
            bench.end(guard)?;
        }
    }
    println!(
        "\nCPU time of the writing thread, ns per operation: the lowest pass of each turn, median of {rounds} rounds; and what is added"
    );
    println!("to `nothing attached` in the same round (median, quarter to three quarters)");
    let (mut rows, mut records) = (Vec::new(), Vec::new());
    for ((_, name), of) in WATCHING.iter().zip(&costs) {
        let mut row = vec![(*name).to_owned()];
        for (((_, operation), of), base) in OPERATIONS.iter().zip(of).zip(&costs[0]) {
            let added: Vec<f64> = of.iter().zip(base).map(|(one, base)| one - base).collect();
            let (low, high) = (percentile(&added, 0.25), percentile(&added, 0.75));
            row.push(format!("{:.0} {:+.0} ({low:+.0} to {high:+.0})", median(of), median(&added)));
            records.push(json!({"watching": name, "operation": operation, "cpu_ns": median(of),
                "added_ns": median(&added), "added_quarter": low, "added_three_quarters": high}));
        }
        rows.push(row);
    }
    table(&head(), &rows);
    Ok(records.into())
}

/// The kernel's own clock, one turn each.
pub(super) fn programs(bench: &Bench) -> Outcome<Value> {
    println!("\nin programs, by the kernel's own clock (which is in it): ns per operation, and runs per operation");
    let (mut rows, mut records) = (Vec::new(), Vec::new());
    for (watching, name) in WATCHING {
        if matches!(watching, Watching::Nothing | Watching::Inotify | Watching::Fanotify) {
            continue;
        }
        let times = ProgramTimes::begin()?;
        let mut guard = bench.begin(watching)?;
        let mut row = vec![name.to_owned()];
        for (operation, what) in OPERATIONS {
            let turn = measure(bench, operation, watching, guard.capture.as_mut(), 0, Some(&times))?;
            let per = |sum: u64| sum as f64 / turn.operations as f64;
            let (ns, runs) = (per(turn.programs.0), per(turn.programs.1));
            row.push(format!("{ns:.0} in {runs:.1}"));
            records.push(json!({"watching": name, "operation": what, "program_ns": ns, "runs": runs}));
        }
        rows.push(row);
        bench.end(guard)?;
    }
    table(&head(), &rows);
    Ok(records.into())
}

fn measure(
    bench: &Bench,
    operation: Operation,
    watching: Watching,
    mut capture: Option<&mut Capture>,
    round: u64,
    times: Option<&ProgramTimes>,
) -> Outcome<Turn> {
    let direct = if operation == Operation::Direct { libc::O_DIRECT } else { 0 };
    let file = File::options().read(true).write(true).custom_flags(direct).open(&bench.file)?;
    let mut block = Box::new(Pages([0u8; MIB as usize]));
    Numbers(round).fill(&mut block.0);
    let small = &block.0[..BLOCK as usize];
    let blocks = FILE_BYTES / BLOCK;
    // Once without measuring: afterwards caches are warm and, if the file is watched, all blocks are marked.
    (0..blocks).try_for_each(|at| file.write_all_at(small, at * BLOCK))?;
    let mut turn = Turn { lowest: f64::INFINITY, operations: 0, programs: (0, 0) };
    let (began, mut passes) = (Instant::now(), 0);
    while began.elapsed() < TURN || passes < PASSES {
        passes += 1;
        let mapping = match operation {
            Operation::Write | Operation::Store => {
                clean(&file)?;
                (operation == Operation::Store).then(|| Mapping::new(&file, FILE_BYTES as usize)).transpose()?
            }
            _ => None,
        };
        if watching == Watching::NewMark
            && let Some(capture) = capture.as_deref_mut()
        {
            // Both sets, so that the programs write to empty maps.
            for _ in 0..2 {
                capture.swap()?;
                capture.grace()?;
                capture.read_retired()?;
                capture.clear_retired()?;
            }
        }
        let before = times.map(ProgramTimes::sum).transpose()?;
        let cpu = thread_cpu_ns();
        let count = match operation {
            Operation::Rewrite | Operation::Write => {
                (0..blocks).try_for_each(|at| file.write_all_at(small, at * BLOCK))?;
                blocks
            }
            Operation::Direct => {
                (0..DIRECTS).try_for_each(|at| file.write_all_at(small, at * 13 % blocks * BLOCK))?;
                DIRECTS
            }
            Operation::Store => {
                let mapping = mapping.as_ref().ok_or("no mapping")?;
                (0..blocks).for_each(|at| mapping.store((at * BLOCK) as usize, round as u8));
                blocks
            }
            Operation::Sequential => {
                (0..FILE_BYTES / MIB).try_for_each(|at| file.write_all_at(&block.0, at * MIB))?;
                FILE_BYTES / MIB
            }
            Operation::CreateUnlink => {
                for at in 0..CREATES {
                    let path = bench.mount.root().join(format!("new{at}"));
                    File::create(&path)?;
                    fs::remove_file(&path)?;
                }
                CREATES
            }
        };
        turn.lowest = turn.lowest.min((thread_cpu_ns() - cpu) as f64 / count as f64);
        turn.operations += count;
        if let (Some(times), Some(before)) = (times, before) {
            let after = times.sum()?;
            turn.programs.0 += after.0 - before.0;
            turn.programs.1 += after.1 - before.1;
        }
    }
    Ok(turn)
}

//! Benchmarks: each prints a small table and then one line of JSON. They measure and judge nothing.
//!
//! Ratios are made only inside one run, because the machine differs from run to run; variants take turns (A B A B), and the
//! median is shown. Everything is created in a temporary folder (`TMPDIR` sets its place) and removed.

mod bytes;
mod era_end;
mod harm;
mod loss_window;
mod neighbours;
mod operations;
mod peers;
mod process;
mod scale;
mod write_cost;

use std::error::Error;

use rustix::time::{ClockId, clock_gettime};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: bench NAME [ARGS]
  write-cost [ROUNDS]       nanoseconds per 4 KiB pwrite, without and with capture (root)
  loss-window [SECONDS]     from a write's return to its commit, at 2,000 writes a second
  bytes [GIB [ROUNDS]]      bytes read and uploaded per dirty byte, beside rsync
  era-end [FILES]           how long flushes stand still where a checkpoint is due
  neighbours [IDLE [SECONDS]]  CPU and disk writes of the daemon: one volume with 2,000 writes a second, IDLE without any
  scale [FILES [LARGE]]     start times, memory and single changes: many files, and LARGE in one directory
  harm [ROUNDS [SECONDS]]   nanoseconds added to each kind of operation, beside inotify and fanotify; fio; the disk (root)";

/// Runs the benchmark that `args` name.
///
/// # Errors
/// Wrong arguments, or whatever stopped the benchmark.
pub fn main(args: &[String]) -> Outcome<()> {
    let (name, rest) = args.split_first().ok_or(USAGE)?;
    let number = |at: usize| rest.get(at).map(|text| text.parse::<u64>()).transpose();
    match name.as_str() {
        "write-cost" => write_cost::run(number(0)?.unwrap_or(9)),
        "loss-window" => loss_window::run(number(0)?.unwrap_or(20)),
        "era-end" => era_end::run(number(0)?.unwrap_or(20_000)),
        "neighbours" => neighbours::run(number(0)?.unwrap_or(50), number(1)?.unwrap_or(60)),
        "bytes" => bytes::run(number(0)?, number(1)?.unwrap_or(1)),
        "scale" => scale::run(number(0)?.unwrap_or(100_000), number(1)?.unwrap_or(0)),
        "harm" => harm::run(number(0)?.unwrap_or(7), number(1)?.unwrap_or(10)),
        _ => Err(USAGE.into()),
    }
}

/// All of `ways`, starting with another one in each round.
fn in_turn<T>(ways: impl Iterator<Item = T>, round: u64) -> Vec<T> {
    let mut all: Vec<T> = ways.collect();
    let first = round as usize % all.len().max(1);
    all.rotate_left(first);
    all
}

/// The middle of the values (the upper one of two); NaN of none.
fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value below which the share `part` (0 to 1) of the values lies; NaN of none.
fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Rows under their head, columns as wide as their widest cell: the first to the left, the others to the right.
fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::len);
        cells.chain(head.get(column).map(|cell| cell.len())).max().unwrap_or(0)
    };
    let line = |cells: &[String]| {
        let padded = cells.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<w$}", w = width(0)),
            _ => format!("{cell:>w$}", w = width(column)),
        });
        println!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    line(&head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}

/// Describes the machine, so that the figures are not over-interpreted.
fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let text =
        format!("{cpus} cpus, load average {load} at this moment (other work shares them), kernel {}", kernel.trim());
    println!("machine: {text}");
    text
}

/// CPU time of this thread in nanoseconds, which excludes that of other processes.
fn thread_cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Nanoseconds since 1970.
fn now_ns() -> i128 {
    let now = clock_gettime(ClockId::Realtime);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// Numbers that are different from each other and the same in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Fills `out` (a multiple of 8 bytes) with bytes that cannot be compressed.
    fn fill(&mut self, out: &mut [u8]) {
        for word in out.chunks_exact_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_list() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(percentile(&(0..100).map(f64::from).collect::<Vec<_>>(), 0.99), 99.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn every_way_is_the_first_in_some_round() {
        assert_eq!(in_turn(0..3, 4), [1, 2, 0]);
        assert!(in_turn(0..0, 1).is_empty());
    }

    #[test]
    fn numbers_differ() {
        let mut numbers = Numbers(1);
        assert_ne!(numbers.next(), numbers.next());
    }
}

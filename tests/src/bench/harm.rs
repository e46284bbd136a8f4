//! `harm`: what capture costs programs that write. Every kind of operation under every kind of watching, in turns; then
//! fio's random writes; then a steady writer's latencies and the disk traffic, with and without the whole daemon.
//!
//! `operations` measures the single kinds of operation.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::hooks::HOOKS;
use engine::model::Ino;
use serde_json::{Value, json};
use tracker::capture::mounts::kernel_dev;
use tracker::capture::{Capture, CaptureConfig};

use super::peers::{EmptyPrograms, Reader};
use super::process::{Daemon, Place, bpf_links};
use super::{Numbers, Outcome, machine, median, operations, percentile, table};
use crate::capture_mounts::{Kind, Mount};

pub(super) const BLOCK: u64 = 4096;
pub(super) const MIB: u64 = 1 << 20;
/// The file that operations work on.
pub(super) const FILE_BYTES: u64 = 16 << 20;
/// The file of fio and of the steady writer.
const LARGE_BYTES: u64 = 64 << 20;
const FIO_SECONDS: u64 = 3;
/// Writes a second of the steady writer.
const RATE: u64 = 2000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watching {
    Nothing,
    Empty,
    OtherFileSystem,
    OtherFile,
    Marked,
    NewMark,
    Inotify,
    Fanotify,
    Daemon,
}

pub(super) const WATCHING: [(Watching, &str); 9] = [
    (Watching::Nothing, "nothing attached"),
    (Watching::Empty, "empty program on the same tracepoints"),
    (Watching::OtherFileSystem, "capture, file system not tracked"),
    (Watching::OtherFile, "capture, file not watched"),
    (Watching::Marked, "capture, block already marked"),
    (Watching::NewMark, "capture, block newly marked"),
    (Watching::Inotify, "inotify with a reader"),
    (Watching::Fanotify, "fanotify with a reader"),
    (Watching::Daemon, "whole daemon, flush every 250 ms"),
];

/// What is in effect during a turn, until it is dropped.
pub(super) struct Guard {
    pub(super) capture: Option<Capture>,
    daemon: Option<Daemon>,
    reader: Option<Reader>,
    _empty: Option<EmptyPrograms>,
}

pub(super) struct Bench {
    pub(super) mount: Mount,
    place: Place,
    pub(super) file: PathBuf,
    large: PathBuf,
}

/// # Errors
/// When something cannot be set up (root and fio are needed) or a write fails.
pub(super) fn run(rounds: u64, seconds: u64) -> Outcome<()> {
    let mount = Mount::new(Kind::Ext4)?;
    let place = Place::new(Some(mount.root()))?;
    let bench = Bench { file: mount.root().join("file"), large: mount.root().join("large"), mount, place };
    for (path, bytes) in [(&bench.file, FILE_BYTES), (&bench.large, LARGE_BYTES)] {
        // In single blocks, as most programs write: with a large folio, ext4 spends more on each small write.
        let file = File::create(path)?;
        let mut block = [0; BLOCK as usize];
        Numbers(1).fill(&mut block);
        (0..bytes / BLOCK).try_for_each(|at| file.write_all_at(&block, at * BLOCK))?;
        file.sync_all()?;
    }
    println!("harm: loop-mounted ext4; links of other tracing now: {:?} (0 would be none)", bpf_links());
    let machine_before = machine();
    let mut record = json!({"bench": "harm", "rounds": rounds, "machine": machine_before});
    record["operations"] = operations::costs(&bench, rounds)?;
    record["programs"] = operations::programs(&bench)?;
    record["fio"] = bench.fio(rounds)?;
    record["steady"] = bench.steady(rounds.min(3), seconds)?;
    println!("at the end:");
    machine();
    println!("{record}");
    Ok(())
}

impl Bench {
    pub(super) fn begin(&self, watching: Watching) -> Outcome<Guard> {
        let mut guard = Guard { capture: None, daemon: None, reader: None, _empty: None };
        match watching {
            Watching::Nothing => {}
            Watching::Empty => {
                guard._empty = Some(EmptyPrograms::attach(HOOKS.iter().map(|hook| hook.tracepoint))?);
            }
            Watching::Inotify => guard.reader = Some(Reader::inotify(self.mount.root())?),
            Watching::Fanotify => guard.reader = Some(Reader::fanotify(self.mount.root())?),
            Watching::Daemon => guard.daemon = Some(self.place.start()?),
            _ => {
                let pins = format!("/sys/fs/bpf/tracker-bench-{}", std::process::id());
                let (capture, _) = Capture::start(&CaptureConfig::new(pins, crate::capture_rig::back_end()))?;
                let dev = kernel_dev(self.mount.root())?;
                if watching != Watching::OtherFileSystem {
                    capture.track(dev, false)?;
                }
                if matches!(watching, Watching::Marked | Watching::NewMark) {
                    for path in [&self.file, &self.large, &self.mount.root().to_path_buf()] {
                        capture.watch(&[(dev, Ino(fs::metadata(path)?.ino()))])?;
                    }
                }
                guard.capture = Some(capture);
            }
        }
        Ok(guard)
    }

    pub(super) fn end(&self, guard: Guard) -> Outcome<()> {
        if let Some(capture) = guard.capture {
            capture.detach()?;
        }
        if let Some(reader) = guard.reader
            && reader.bytes() == 0
        {
            return Err("the reader saw no event".into());
        }
        if let Some(daemon) = guard.daemon {
            daemon.sync()?;
            daemon.stop()?;
            self.place.detach()?;
        }
        Ok(())
    }

    fn fio(&self, rounds: u64) -> Outcome<Value> {
        let variants = [Watching::Nothing, Watching::Marked, Watching::Inotify, Watching::Fanotify, Watching::Daemon];
        let mut results = vec![Vec::new(); variants.len()];
        for round in 0..rounds {
            for (watching, results) in super::in_turn(variants.iter().zip(&mut results), round) {
                let guard = self.begin(*watching)?;
                results.push(fio(&self.large)?);
                self.end(guard)?;
            }
        }
        println!(
            "\nfio, random 4 KiB writes, {FIO_SECONDS} s each, median of {rounds} rounds; share of `nothing` in the same round"
        );
        let (mut rows, mut records) = (Vec::new(), Vec::new());
        for (watching, of) in variants.iter().zip(&results) {
            let name = WATCHING.iter().find(|(other, _)| other == watching).map_or("", |(_, name)| *name);
            let share: Vec<f64> = of.iter().zip(&results[0]).map(|(one, base)| one / base).collect();
            let (low, high) = (percentile(&share, 0.0), percentile(&share, 1.0));
            rows.push(vec![
                name.to_owned(),
                format!("{:.0}", median(of)),
                format!("{:.3} ({low:.3} to {high:.3})", median(&share)),
            ]);
            records.push(
                json!({"watching": name, "iops": median(of), "share": median(&share), "least": low, "most": high}),
            );
        }
        table(&["", "writes/s", "share"], &rows);
        Ok(records.into())
    }

    fn steady(&self, rounds: u64, seconds: u64) -> Outcome<Value> {
        println!(
            "\n{RATE} pwrites of 4 KiB a second for {seconds} s, over 64 MiB at random and over one hot MiB, {rounds} rounds: latency in"
        );
        println!(
            "microseconds; MiB written to the disk below the file system, synced at the end; by the daemon itself: catalog and store"
        );
        let (mut rows, mut records) = (Vec::new(), Vec::new());
        for (area, bytes) in [("64 MiB", LARGE_BYTES), ("1 MiB", MIB)] {
            let mut all: [Vec<[f64; 5]>; 2] = Default::default();
            for round in 0..rounds {
                for (watching, all) in [Watching::Nothing, Watching::Daemon].into_iter().zip(&mut all) {
                    let guard = self.begin(watching)?;
                    rustix::fs::syncfs(File::open(self.mount.root())?)?;
                    let (disk, own) = (self.disk_bytes()?, daemon_bytes(guard.daemon.as_ref())?);
                    let took = paced(&self.large, bytes, seconds, round)?;
                    rustix::fs::syncfs(File::open(self.mount.root())?)?;
                    let disk = self.disk_bytes()? - disk;
                    if let Some(daemon) = &guard.daemon {
                        daemon.sync()?;
                    }
                    let own = daemon_bytes(guard.daemon.as_ref())? - own;
                    let mib = |bytes: u64| bytes as f64 / MIB as f64;
                    all.push([median(&took), percentile(&took, 0.99), percentile(&took, 0.999), mib(disk), mib(own)]);
                    self.end(guard)?;
                }
            }
            for (name, all) in ["nothing attached", "whole daemon"].into_iter().zip(&all) {
                let column = |at: usize| median(&all.iter().map(|one| one[at]).collect::<Vec<_>>());
                let figures = [column(0), column(1), column(2), column(3), column(4)];
                let mut row = vec![format!("{area}, {name}")];
                row.extend(figures.iter().map(|figure| format!("{figure:.1}")));
                rows.push(row);
                records.push(json!({"area": area, "watching": name, "p50_us": figures[0], "p99_us": figures[1],
                    "p999_us": figures[2], "disk_mib": figures[3], "daemon_mib": figures[4]}));
            }
        }
        table(&["", "p50", "p99", "p99.9", "disk MiB", "daemon MiB"], &rows);
        Ok(records.into())
    }

    /// Bytes written to the device below the file system since it exists.
    fn disk_bytes(&self) -> Outcome<u64> {
        let dev = fs::metadata(self.mount.root())?.dev();
        let path = format!("/sys/dev/block/{}:{}/stat", libc::major(dev), libc::minor(dev));
        let text = fs::read_to_string(path)?;
        let sectors: u64 = text.split_whitespace().nth(6).ok_or("no sectors in stat")?.parse()?;
        Ok(sectors * 512)
    }
}

fn daemon_bytes(daemon: Option<&Daemon>) -> Outcome<u64> {
    daemon.map_or(Ok(0), Daemon::written)
}

/// Writes a second.
fn fio(file: &Path) -> Outcome<f64> {
    let mut command = Command::new("fio");
    command.args(["--name=w", "--rw=randwrite", "--bs=4k", "--ioengine=psync", "--norandommap", "--time_based"]);
    command.args(["--output-format=json", "--overwrite=1", &format!("--runtime={FIO_SECONDS}")]);
    command.arg(format!("--size={LARGE_BYTES}")).arg(format!("--filename={}", file.display()));
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("fio: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let result: Value = serde_json::from_slice(&output.stdout)?;
    Ok(result["jobs"][0]["write"]["iops"].as_f64().ok_or("fio gave no figure")?)
}

/// Microseconds of each write at a steady rate. A late write does not delay the schedule of the next one.
fn paced(path: &Path, area: u64, seconds: u64, round: u64) -> Outcome<Vec<f64>> {
    let file = File::options().write(true).open(path)?;
    let mut numbers = Numbers(round + 100);
    let mut block = [0; BLOCK as usize];
    let mut took = Vec::with_capacity((RATE * seconds) as usize);
    let began = Instant::now();
    for at in 0..RATE * seconds {
        numbers.fill(&mut block);
        let due = began + Duration::from_nanos(1_000_000_000 / RATE * at);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let offset = numbers.next() % (area / BLOCK) * BLOCK;
        let start = Instant::now();
        file.write_all_at(&block, offset)?;
        took.push(start.elapsed().as_nanos() as f64 / 1000.0);
    }
    Ok(took)
}

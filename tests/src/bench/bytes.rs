//! `bytes`: what a few scattered 4 KiB writes in a large file cost tracker, and rsync on the same file.
//!
//! The file's blocks all differ but compress well, so that the baseline takes little room in the store; later writes do not
//! compress. rsync updates a second directory, with tracker's block size.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::process::{Daemon, Place, children_cpu_seconds, rchar};
use super::{Numbers, Outcome, machine, median, table};

const BLOCK: usize = 4096;
const GIB: u64 = 1 << 30;
const COUNTS: [u64; 3] = [1, 16, 1000];
/// Free space needed for the preferred size: the file, rsync's copy, the store, and room for others.
const FREE_WANTED: u64 = 30 * GIB;

/// What one update cost one tool.
#[derive(Clone, Copy)]
struct Cost {
    /// Bytes read per dirty byte: from the source by tracker's own count; for rsync by its read calls, including sockets.
    read: f64,
    /// Bytes of all read calls of the daemon per dirty byte; the same as `read` for rsync.
    rchar: f64,
    /// Bytes uploaded, or sent and received, per dirty byte.
    moved: f64,
    cpu_seconds: f64,
}

/// # Errors
/// When something cannot be set up, or rsync is missing or fails.
pub(super) fn run(gib: Option<u64>, rounds: u64) -> Outcome<()> {
    let place = Place::new(None)?;
    let stat = rustix::fs::statvfs(&place.source)?;
    let free = stat.f_bavail * stat.f_frsize;
    let gib = gib.unwrap_or(if free > FREE_WANTED { 10 } else { 2 });
    let path = place.source.join("file");
    make(&path, gib * GIB)?;
    let copy = place.folder.path().join("copy");
    run_tool(Command::new("cp").arg("-a").arg(&place.source).arg(&copy))?;
    let daemon = place.start()?;
    daemon.sync()?;
    let file = File::options().write(true).open(&path)?;
    let mut numbers = Numbers(7);
    let mut costs: [(Vec<Cost>, Vec<Cost>); COUNTS.len()] = Default::default();
    for _ in 0..rounds {
        for (count, (ours, rsync)) in COUNTS.into_iter().zip(&mut costs) {
            let dirty = (count * BLOCK as u64) as f64;
            ours.push(with_tracker(&daemon, &file, count, gib * GIB, &mut numbers, dirty)?);
            rsync.push(with_rsync(&place.source, &copy, dirty)?);
        }
    }
    let status = daemon.status()?;
    daemon.stop()?;
    println!("bytes: scattered 4 KiB overwrites in a file of {gib} GiB");
    let machine = machine();
    println!(
        "{:.0} GiB of disk were free; back end {}, {} rescans {:?}; tracker's CPU time has its idle flushes in it; \
         read of rsync counts all its reading calls, as rchar does",
        free as f64 / GIB as f64,
        status.backend.name(),
        status.rescans,
        status.rescan_reasons
    );
    report(gib, rounds, &costs, &machine)
}

/// Every block has 64 random bytes of its own, repeated.
fn make(path: &Path, bytes: u64) -> Outcome<()> {
    let mut file = File::create(path)?;
    let mut numbers = Numbers(3);
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..bytes / chunk.len() as u64 {
        for block in chunk.chunks_exact_mut(BLOCK) {
            let mut seed = [0; 64];
            numbers.fill(&mut seed);
            block.chunks_exact_mut(seed.len()).for_each(|part| part.copy_from_slice(&seed));
        }
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    Ok(())
}

fn with_tracker(
    daemon: &Daemon,
    file: &File,
    count: u64,
    size: u64,
    numbers: &mut Numbers,
    dirty: f64,
) -> Outcome<Cost> {
    let (before, cpu, reads) = (daemon.status()?, daemon.cpu_seconds()?, daemon.rchar()?);
    // One block in each of `count` equal stretches: scattered, and never the same block twice.
    let stretch = size / BLOCK as u64 / count;
    let mut block = [0; BLOCK];
    for at in 0..count {
        numbers.fill(&mut block);
        file.write_all_at(&block, (at * stretch + numbers.next() % stretch) * BLOCK as u64)?;
    }
    daemon.sync()?;
    let (cpu, reads) = (daemon.cpu_seconds()? - cpu, daemon.rchar()? - reads);
    let after = daemon.status()?;
    Ok(Cost {
        read: (after.bytes_read - before.bytes_read) as f64 / dirty,
        rchar: reads as f64 / dirty,
        moved: (after.bytes_uploaded - before.bytes_uploaded) as f64 / dirty,
        cpu_seconds: cpu,
    })
}

fn with_rsync(source: &Path, copy: &Path, dirty: f64) -> Outcome<Cost> {
    let (cpu, reads) = (children_cpu_seconds()?, rchar("self")?);
    let mut command = Command::new("rsync");
    command.args(["-a", "--inplace", "--no-whole-file", "-B", "4096", "--stats"]).env("LC_ALL", "C");
    // A slash at the end means the directory's content.
    let text = run_tool(command.arg(source.join("")).arg(copy.join("")))?;
    let number = |name: &str| -> Outcome<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("rsync printed other statistics")?;
        Ok(line.trim().replace(',', "").parse()?)
    };
    let read = (rchar("self")? - reads) as f64 / dirty;
    Ok(Cost {
        read,
        rchar: read,
        moved: (number("Total bytes sent:")? + number("Total bytes received:")?) / dirty,
        cpu_seconds: children_cpu_seconds()? - cpu,
    })
}

fn run_tool(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn report(gib: u64, rounds: u64, costs: &[(Vec<Cost>, Vec<Cost>)], machine: &str) -> Outcome<()> {
    let mut rows = Vec::new();
    let mut records = Vec::new();
    for (count, (ours, rsync)) in COUNTS.into_iter().zip(costs) {
        for (tool, costs) in [("tracker", ours), ("rsync -B 4096", rsync)] {
            let of = |of: fn(&Cost) -> f64| median(&costs.iter().map(of).collect::<Vec<_>>());
            let (read, rchar, moved) = (of(|cost| cost.read), of(|cost| cost.rchar), of(|cost| cost.moved));
            let cpu = of(|cost| cost.cpu_seconds);
            let mut row = vec![format!("{count} writes, {tool}")];
            row.extend([read, rchar, moved].map(|value| format!("{value:.2}")));
            row.push(format!("{cpu:.3}"));
            rows.push(row);
            records.push(json!({"writes": count, "tool": tool, "read_per_dirty_byte": read,
                "rchar_per_dirty_byte": rchar, "moved_per_dirty_byte": moved, "cpu_seconds": cpu}));
        }
    }
    table(&["per dirty byte", "read", "rchar", "uploaded or sent", "cpu s"], &rows);
    println!("{}", json!({"bench": "bytes", "gib": gib, "rounds": rounds, "machine": machine, "results": records}));
    Ok(())
}

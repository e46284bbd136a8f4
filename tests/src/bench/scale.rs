//! `scale`: many small files, and one directory with many: seconds to `ready` at the first start, at a restart with pins
//! and at one without, how long single changes take to their commit, and memory.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::process::{Daemon, Place};
use super::{Numbers, Outcome, machine, median, percentile, table};

const PER_DIRECTORY: u64 = 100;
const FILE_BYTES: usize = 104;
const CHANGES: u64 = 15;
/// Longest wait for one commit.
const PATIENCE: Duration = Duration::from_secs(120);

/// `files` in directories of 100, and `large` (none if 0) empty ones in another directory.
///
/// # Errors
/// When the files cannot be created or the daemon does not become ready.
pub(super) fn run(files: u64, large: u64) -> Outcome<()> {
    let place = Place::new(None)?;
    make(&place.source, files)?;
    let one = place.source.join("one");
    fs::create_dir(&one)?;
    (0..large).try_for_each(|at| File::create(one.join(format!("f{at:08}"))).map(drop))?;
    rustix::fs::sync();
    let mut rows = Vec::new();
    let mut records = Vec::new();
    let mut changes = Vec::new();
    for name in ["first start", "second start, pins kept", "third start, pins removed"] {
        if name.starts_with("third") && !place.detach()? {
            return Err("the daemon left no pins: was it the scan back end?".into());
        }
        let daemon = place.start()?;
        let seconds = daemon.ready.as_secs_f64();
        let (resident, peak, cpu) = (daemon.memory("VmRSS")?, daemon.memory("VmHWM")?, daemon.cpu_seconds()?);
        let status = daemon.status()?;
        if name.starts_with("second") {
            changes = one_by_one(&daemon, &place.source, files)?;
            changes.push(("peak memory after them, MiB", vec![daemon.memory("VmHWM")? as f64 / f64::from(1 << 20)]));
        }
        daemon.stop()?;
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        rows.push(vec![
            name.to_owned(),
            format!("{seconds:.2}"),
            format!("{cpu:.2}"),
            mib(resident),
            mib(peak),
            mib(status.kernel_map_bytes),
            status.files_read.to_string(),
            status.backend.name().to_owned(),
        ]);
        records.push(json!({"start": name, "ready_seconds": seconds, "cpu_seconds": cpu, "resident_bytes": resident,
            "peak_resident_bytes": peak, "kernel_map_bytes": status.kernel_map_bytes,
            "files_read": status.files_read, "backend": status.backend.name()}));
    }
    println!(
        "scale: {files} files of {FILE_BYTES} bytes, {PER_DIRECTORY} to a directory, and {large} empty ones in one directory; \
         catalog {} MiB",
        catalog_bytes(&place.state)? >> 20
    );
    let machine = machine();
    println!("one start each; memory and CPU time as of `ready`");
    table(&["", "ready s", "cpu s", "resident MiB", "peak MiB", "kernel maps MiB", "files read", "back end"], &rows);
    println!("after the second start: {CHANGES} changes of each kind, from the change to its commit, in seconds");
    let rows: Vec<Vec<String>> = changes
        .iter()
        .map(|(name, took)| {
            let most = percentile(took, 1.0);
            vec![(*name).to_owned(), format!("{:.2}", median(took)), format!("{most:.2}")]
        })
        .collect();
    table(&["", "median", "most"], &rows);
    let changes: Vec<_> = changes.iter().map(|(name, took)| json!({"change": name, "seconds": took})).collect();
    println!(
        "{}",
        json!({"bench": "scale", "files": files, "large": large, "machine": machine, "starts": records, "changes": changes})
    );
    Ok(())
}

/// Seconds from each change to the commit that contains it, with the default interval and without a request for a flush.
fn one_by_one(daemon: &Daemon, source: &Path, files: u64) -> Outcome<Vec<(&'static str, Vec<f64>)>> {
    let one = source.join("one");
    let mut numbers = Numbers(11);
    let mut out = Vec::new();
    type Change<'a> = &'a dyn Fn(u64, u64) -> std::io::Result<()>;
    let small = |random: u64| {
        let at = random % files.max(1);
        source.join(format!("d{:05}/f{at:08}", at / PER_DIRECTORY))
    };
    let kinds: [(&'static str, Change<'_>); 4] = [
        ("write to one of the files", &|_, random| {
            File::options().append(true).open(small(random))?.write_all(b"more")
        }),
        ("create one in a small directory", &|at, _| File::create(source.join(format!("d00000/new{at}"))).map(drop)),
        ("create one in the large directory", &|at, _| File::create(one.join(format!("new{at}"))).map(drop)),
        ("remove one from the large directory", &|at, _| fs::remove_file(one.join(format!("new{at}")))),
    ];
    for (name, change) in kinds {
        let mut took = Vec::new();
        for at in 0..CHANGES {
            daemon.sync()?;
            // Not always at the same moment of an interval.
            std::thread::sleep(Duration::from_millis(numbers.next() % 300));
            let before = daemon.status()?.commits;
            let began = Instant::now();
            change(at, numbers.next())?;
            while daemon.status()?.commits == before {
                if began.elapsed() > PATIENCE {
                    return Err(format!("{name}: no commit").into());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            took.push(began.elapsed().as_secs_f64());
        }
        out.push((name, took));
    }
    Ok(out)
}

/// All files below the state directory.
fn catalog_bytes(state: &Path) -> Outcome<u64> {
    let (mut bytes, mut waiting) = (0, vec![state.to_path_buf()]);
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let (path, meta) = (entry.path(), entry.metadata()?);
            if meta.is_dir() { waiting.push(path) } else { bytes += meta.blocks() * 512 }
        }
    }
    Ok(bytes)
}

fn make(source: &Path, files: u64) -> Outcome<()> {
    let mut numbers = Numbers(5);
    for directory in 0..files.div_ceil(PER_DIRECTORY) {
        let folder = source.join(format!("d{directory:05}"));
        fs::create_dir(&folder)?;
        for file in directory * PER_DIRECTORY..files.min((directory + 1) * PER_DIRECTORY) {
            let mut content = [0; FILE_BYTES];
            numbers.fill(&mut content);
            fs::write(folder.join(format!("f{file:08}")), content)?;
        }
    }
    Ok(())
}

//! `scale`: seconds to `ready` and memory on many small files: first start, restart with pins, restart without.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::process::Place;
use super::{Numbers, Outcome, machine, table};

const PER_DIRECTORY: u64 = 100;
const FILE_BYTES: usize = 104;

/// # Errors
/// When the files cannot be made or the daemon does not become ready.
pub(super) fn run(files: u64) -> Outcome<()> {
    let place = Place::new(None)?;
    make(&place.source, files)?;
    let mut rows = Vec::new();
    let mut records = Vec::new();
    for name in ["first start", "second start, pins kept", "third start, pins removed"] {
        if name.starts_with("third") && !place.detach()? {
            return Err("the daemon left no pins: was it the scan back end?".into());
        }
        let daemon = place.start()?;
        let seconds = daemon.ready.as_secs_f64();
        let (resident, peak, cpu) = (daemon.memory("VmRSS")?, daemon.memory("VmHWM")?, daemon.cpu_seconds()?);
        let status = daemon.status()?;
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
    println!("scale: {files} files of {FILE_BYTES} bytes, {PER_DIRECTORY} to a directory");
    let machine = machine();
    println!("one start each; memory and CPU time as of `ready`");
    table(&["", "ready s", "cpu s", "resident MiB", "peak MiB", "kernel maps MiB", "files read", "back end"], &rows);
    println!("{}", json!({"bench": "scale", "files": files, "machine": machine, "starts": records}));
    Ok(())
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

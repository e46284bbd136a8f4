//! `neighbours`: CPU time and disk writes of one daemon with a volume that is written to, and idle volumes beside it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::process::{Daemon, Place};
use super::{Numbers, Outcome, machine, table};

const BLOCK: u64 = 4096;
const FILE_BYTES: u64 = 256 << 20;
const PER_SECOND: u32 = 2_000;
/// Time for the daemon to come to rest.
const REST: Duration = Duration::from_secs(5);
/// Threads below this share of a core are not shown.
const SHOWN: f64 = 0.0005;

/// # Errors
/// When something cannot be set up.
pub(super) fn run(idle: u64, seconds: u64) -> Outcome<()> {
    println!(
        "neighbours: {PER_SECOND} random 4 KiB writes a second into a file of 256 MiB for {seconds} s, and {idle} idle volumes; \
         local store, default interval"
    );
    let machine = machine();
    let place = Place::new(None)?;
    let path = place.source.join("file");
    make(&path)?;
    let daemon = place.start_configured(&configure(&place, idle)?, idle + 1)?;
    std::thread::sleep(REST);
    let still = measure(&daemon, || {
        std::thread::sleep(Duration::from_secs(seconds));
        Ok(())
    })?;
    let busy = measure(&daemon, || write(&path, seconds))?;
    let written = daemon.written()?;
    daemon.stop()?;
    let dirty = seconds * u64::from(PER_SECOND) * BLOCK;
    let share = busy.written as f64 / dirty as f64;
    table(
        &["", "% of a core", "MiB written", "written/dirty"],
        &[still.row("nothing written", String::new()), busy.row("2,000 writes/s", format!("{share:.2}"))],
    );
    for (name, part) in busy.threads.iter().filter(|(_, part)| *part > SHOWN) {
        println!("  {name}: {:.2} % of a core", part * 100.0);
    }
    println!(
        "{}",
        json!({"bench": "neighbours", "machine": machine, "idle": idle, "seconds": busy.seconds,
            "cpu_idle": still.cpu, "cpu_busy": busy.cpu, "written_idle": still.written, "written_busy": busy.written,
            "dirty": dirty, "written_per_dirty_byte": share, "written_in_all": written})
    );
    Ok(())
}

struct Measured {
    seconds: f64,
    /// As a share of one core.
    cpu: f64,
    written: u64,
    threads: Vec<(String, f64)>,
}

impl Measured {
    fn row(&self, name: &str, share: String) -> Vec<String> {
        vec![
            name.to_owned(),
            format!("{:.2}", self.cpu * 100.0),
            format!("{:.1}", self.written as f64 / 1048576.0),
            share,
        ]
    }
}

fn measure(daemon: &Daemon, load: impl FnOnce() -> Outcome<()>) -> Outcome<Measured> {
    let (cpu, written, threads) = (daemon.cpu_seconds()?, daemon.written()?, daemon.cpu_by_thread()?);
    let began = Instant::now();
    load()?;
    let seconds = began.elapsed().as_secs_f64();
    let by_thread = daemon.cpu_by_thread()?.into_iter().map(|(name, now)| {
        let before = threads.get(&name).copied().unwrap_or_default();
        (name, (now - before) / seconds)
    });
    Ok(Measured {
        seconds,
        cpu: (daemon.cpu_seconds()? - cpu) / seconds,
        written: daemon.written()? - written,
        threads: by_thread.collect(),
    })
}

/// A configuration with the busy volume and the idle ones, each with a small file.
fn configure(place: &Place, idle: u64) -> Outcome<std::path::PathBuf> {
    let mut text = format!(
        "state_dir = \"{}\"\n[metrics]\nlisten = \"off\"\n[defaults]\nstore = \"{}\"\n[[volume]]\nname = \"busy\"\nsource = \"{}\"\n",
        place.state.display(),
        place.store.display(),
        place.source.display()
    );
    for number in 0..idle {
        let source = place.folder.path().join(format!("idle{number}"));
        fs::create_dir_all(&source)?;
        fs::write(source.join("file"), number.to_string())?;
        writeln!(text, "[[volume]]\nname = \"idle{number}\"\nsource = \"{}\"", source.display())?;
    }
    let config = place.folder.path().join("config.toml");
    fs::write(&config, text)?;
    Ok(config)
}

fn make(path: &Path) -> Outcome<()> {
    let file = File::create(path)?;
    let mut numbers = Numbers(1);
    let mut block = [0; BLOCK as usize];
    for at in 0..FILE_BYTES / BLOCK {
        numbers.fill(&mut block);
        file.write_all_at(&block, at * BLOCK)?;
    }
    file.sync_all()?;
    Ok(())
}

/// Writes at a steady rate; catches up if late.
fn write(path: &Path, seconds: u64) -> Outcome<()> {
    let file = File::options().write(true).open(path)?;
    let mut numbers = Numbers(2);
    let mut block = [0; BLOCK as usize];
    let began = Instant::now();
    for number in 1..=seconds * u64::from(PER_SECOND) {
        let due = Duration::from_secs(1) / PER_SECOND * u32::try_from(number)?;
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        numbers.fill(&mut block);
        file.write_all_at(&block, numbers.next() % (FILE_BYTES / BLOCK) * BLOCK)?;
    }
    Ok(())
}

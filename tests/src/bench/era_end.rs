//! `era-end`: how long flushes stand still at the end of an era, where a checkpoint is due.
//!
//! A file is written all the time, so that one commit follows the other. A gap is the time between two commits' objects in the
//! local store, by their status change times; the file system's clock moves in steps of some milliseconds.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use engine::format::era::first_seq;
use engine::format::{DEFAULT_ERA_LEN, Key};
use engine::model::Seq;
use serde_json::json;

use super::process::{Place, VOLUME};
use super::{Numbers, Outcome, machine, percentile, table};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 2048;
/// Commits behind the end of the era that are waited for.
const BEHIND: u64 = 50;
/// Longest wait for an era.
const LIMIT: Duration = Duration::from_secs(600);

/// # Errors
/// When something cannot be set up, or the era does not end in time.
pub(super) fn run(files: u64) -> Outcome<()> {
    println!(
        "era-end: one 4 KiB write every 2 ms beside {files} files, interval 10ms, {DEFAULT_ERA_LEN} commits an era"
    );
    let machine = machine();
    let place = Place::new(None)?;
    for number in 0..files {
        let dir = place.source.join((number / 100).to_string());
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(number.to_string()), number.to_string())?;
    }
    let path = place.source.join("hot");
    fs::write(&path, vec![0; usize::try_from(BLOCK * BLOCKS)?])?;
    let daemon = place.start_with(&["--interval", "10ms"])?;
    daemon.sync()?;
    let first = first_seq(1, DEFAULT_ERA_LEN);
    let begun = Instant::now();
    let file = File::options().write(true).open(&path)?;
    let mut numbers = Numbers(3);
    let mut block = [0; BLOCK as usize];
    let mut round = 0u64;
    loop {
        numbers.fill(&mut block);
        file.write_all_at(&block, numbers.next() % BLOCKS * BLOCK)?;
        std::thread::sleep(Duration::from_millis(2));
        round += 1;
        if round.is_multiple_of(500) && daemon.status()?.head_seq >= first.0 + BEHIND {
            break;
        }
        if begun.elapsed() > LIMIT {
            return Err(format!("commit {} was not reached", first.0 + BEHIND).into());
        }
    }
    daemon.stop()?;
    let named = |seq: Seq| -> Outcome<i128> {
        let meta = fs::metadata(place.store.join(VOLUME).join(Key::Commit(seq).to_string()))?;
        Ok(i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec()))
    };
    let gap = |seq: Seq| -> Outcome<f64> { Ok((named(seq)? - named(seq - 1)?) as f64 / 1e6) };
    let all = Seq(100).to(Seq(first.0 + BEHIND)).map(gap).collect::<Outcome<Vec<f64>>>()?;
    let end = gap(first)?;
    let cells = [end, percentile(&all, 0.5), percentile(&all, 0.99), percentile(&all, 1.0)];
    table(
        &["", "at the end of the era", "p50", "p99", "max"],
        &[std::iter::once("ms from commit to commit".to_owned()).chain(cells.map(|ms| format!("{ms:.0}"))).collect()],
    );
    println!(
        "{}",
        json!({"bench": "era-end", "machine": machine, "files": files, "end_ms": end, "p50_ms": cells[1],
            "p99_ms": cells[2], "max_ms": cells[3]})
    );
    Ok(())
}

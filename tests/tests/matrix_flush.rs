//! The matrix by whole flushes of the program: what a restore gives after every operation, and what it cost.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use tests::capture_rig::{back_end, obstacle};
use tests::daemon::Volume;
use tests::load::number;
use tests::matrix::bed::Place;
use tests::matrix::flush::{Bed, differences, protect};
use tests::matrix::page::Column;
use tests::matrix::{COLUMNS, Kind, Op, Selection, ops};
use tests::mounts::{root_or_skip, skip};

fn place(test: &str, fs: Kind) -> Option<Place> {
    if !root_or_skip(test) {
        return None;
    }
    if let Some(reason) = obstacle() {
        skip(test, "ebpf", reason);
        return None;
    }
    Place::new(fs, 1).map_err(|reason| println!("SKIP {}: {reason}", fs.name())).ok()
}

/// All cells of a file system share one daemon and the flush of each round. There must be no full re-read of the volume,
/// which would hide a missed change. The daemons use one state directory in turn, so that the programs are loaded once,
/// which takes an emulated processor most of a minute.
#[test]
fn every_operation_is_restored_on_every_file_system() {
    let test = "every_operation_is_restored_on_every_file_system";
    let selection = Selection::from_environment();
    // Mount all before capture starts: a driver that is loaded later adds tracepoints, which would cause a fresh start.
    let places: Vec<Place> = COLUMNS.into_iter().filter_map(|fs| place(test, fs)).collect();
    let mut volumes: Vec<Volume> = Vec::new();
    let mut wrong = Vec::new();
    for place in &places {
        let fs = place.fs;
        let wanted: Vec<&Op> =
            (0..).zip(ops::all()).filter(|(at, op)| selection.has(*at, op, fs)).map(|(_, op)| op).collect();
        let mut bed = Bed::new(place, 0, &wanted);
        let mut volume = bed.volume();
        volume.name = fs.name().to_owned();
        volume.keep_tracking();
        if let Some(first) = volumes.first() {
            volume.state.clone_from(&first.state);
        }
        let began = Instant::now();
        let daemon = protect(&volume);
        let start = began.elapsed();
        let log = volume.log_tail();
        assert!(volumes.is_empty() || log.contains("started=Resumed"), "the programs were loaded anew: {log}");
        let (before, cells, compared) = (volume.status(), bed.len(), bed.compared());
        let found = bed.rounds(&volume);
        let after = volume.status();
        println!(
            "FLUSH {} {}: {cells} cells, {} commits, {:.0} s after a start of {:.0} s",
            Column::here(),
            fs.name(),
            after["commits"],
            (began.elapsed() - start).as_secs_f64(),
            start.as_secs_f64()
        );
        wrong.extend(found.into_iter().map(|text| format!("{}: {text}", fs.name())));
        let rescans = number(&after, "rescans") - number(&before, "rescans");
        if rescans > compared {
            wrong.push(format!("{}: {rescans} files were compared whole", fs.name()));
        }
        for what in ["rescan_reasons", "backend"] {
            if before[what] != after[what] {
                wrong.push(format!("{}: {what}: {}, before {}", fs.name(), after[what], before[what]));
            }
        }
        assert_eq!(before["backend"], back_end().name(), "{before}");
        assert!(daemon.stop().success());
        volumes.push(volume);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A change that no daemon saw is reported as a difference, under the name of its cell; one that was flushed is not.
#[test]
fn the_oracle_of_flushes_finds_what_was_not_flushed() {
    let Some(place) = place("the_oracle_of_flushes_finds_what_was_not_flushed", Kind::Ext4) else { return };
    let few = |op: &&Op| ["pwrite", "rename", "chmod"].contains(&op.id);
    let mut bed = Bed::new(&place, 0, &ops::all().into_iter().filter(few).collect::<Vec<_>>());
    assert_eq!(bed.len(), 3);
    let volume = bed.volume();
    let daemon = protect(&volume);
    assert_eq!(bed.rounds(&volume), Vec::<String>::new());
    daemon.kill9();
    fs::OpenOptions::new().write(true).open(volume.source.join("pwrite/f")).unwrap().write_all_at(b"x", 77).unwrap();
    let found = differences(&volume, "late");
    assert!(found.iter().any(|text| text.contains("pwrite/f") && text.contains("content")), "{found:?}");
    assert!(found.iter().all(|text| text.contains("pwrite/f")), "{found:?}");
}

//! The matrix by whole flushes of the program: what a restore gives after every operation, and what it cost.

use std::fs;
use std::os::unix::fs::FileExt;

use tests::capture_rig::obstacle;
use tests::matrix::bed::Place;
use tests::matrix::flush::{Bed, differences, protect};
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

/// All cells of a file system share one daemon and the flush of each round. No rescan of the volume may have happened,
/// which would have covered what was missed.
#[test]
fn every_operation_is_restored_on_every_file_system() {
    let test = "every_operation_is_restored_on_every_file_system";
    let selection = Selection::from_environment();
    let mut wrong = Vec::new();
    for fs in COLUMNS {
        let Some(place) = place(test, fs) else { continue };
        let wanted: Vec<&Op> =
            (0..).zip(ops::all()).filter(|(at, op)| selection.has(*at, op, fs)).map(|(_, op)| op).collect();
        let mut bed = Bed::new(&place, 0, &wanted);
        let volume = bed.volume();
        let daemon = protect(&volume);
        let before = volume.status();
        let found = bed.rounds(&volume);
        let after = volume.status();
        println!("FLUSH {}: {} cells, {} commits", fs.name(), bed.len(), after["commits"]);
        wrong.extend(found.into_iter().map(|text| format!("{}: {text}", fs.name())));
        if before["rescan_reasons"] != after["rescan_reasons"] || before["rescans"] != after["rescans"] {
            wrong.push(format!(
                "{}: rescans: {} {}, before {} {}",
                fs.name(),
                after["rescans"],
                after["rescan_reasons"],
                before["rescans"],
                before["rescan_reasons"]
            ));
        }
        assert!(daemon.stop().success());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A change that no daemon saw is a difference, and is found under the name of its cell; one that was flushed is none.
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

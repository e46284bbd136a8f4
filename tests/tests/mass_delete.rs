//! If a source loses most of its files at once, that is not mirrored silently: the removals wait until a person confirms
//! them, or the files are back. Each case is the whole program.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tests::daemon::Volume;
use tests::mounts::{Kind, Mount};

const SYNC: Duration = Duration::from_secs(60);
const FILES: usize = 1200;
/// How many files stay.
const STAY: usize = 10;

fn filled(mount: &Mount) -> std::path::PathBuf {
    let source = mount.dir("source");
    for n in 0..FILES {
        let dir = source.join(format!("d{}", n / 100));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), format!("content {n}")).unwrap();
    }
    source
}

fn files_below(dir: &Path) -> usize {
    let below = |entry: fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => files_below(&entry.path()),
        false => 1,
    };
    fs::read_dir(dir).unwrap().map(|entry| below(entry.unwrap())).sum()
}

/// The volume as `status --json` has it.
fn status(volume: &Volume) -> Value {
    volume.status()
}

#[track_caller]
fn restored_files(volume: &Volume, name: &str) -> usize {
    let target = volume.scratch(name);
    let reference = volume.reference();
    volume.tracker(&["restore", reference.to_str().unwrap(), target.to_str().unwrap()]).expect(0);
    files_below(&target)
}

#[test]
fn removals_of_most_files_wait_until_they_are_confirmed() {
    let name = "removals_of_most_files_wait_until_they_are_confirmed";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = filled(&mount);
    let volume = Volume::new(&source);
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    assert!(volume.tracker(&["confirm", "v"]).expect(0).stdout.contains("nothing to confirm"));
    // Moved away in one step; then the contents can be deleted at leisure.
    let away = mount.dir("away");
    for n in 0..FILES / 100 {
        fs::rename(source.join(format!("d{n}")), away.join(format!("d{n}"))).unwrap();
    }
    fs::write(source.join("new"), "written meanwhile").unwrap();
    let held = volume.sync(SYNC);
    assert!(held.expect(3).stdout.contains("tracker confirm v"), "{held:?}");
    let volume_status = status(&volume);
    assert_eq!((&volume_status["state"], &volume_status["removals_held"]), (&"degraded".into(), &FILES.into()));
    assert!(volume_status["reasons"].to_string().contains("1200 of 120"), "{volume_status}");
    assert_eq!(restored_files(&volume, "held"), FILES + 1, "all are in the newest commit, with what was written since");
    fs::write(source.join("new"), "written again").unwrap();
    volume.sync(SYNC).expect(3);
    assert!(volume.tracker(&["confirm", "v"]).expect(0).stdout.contains("the removal of 1200 files"));
    volume.sync(SYNC).expect(0);
    volume.restored("confirmed");
    assert_eq!(restored_files(&volume, "after"), 1);
    let after = status(&volume);
    assert_eq!((&after["state"], &after["removals_held"]), (&"protected".into(), &0.into()));
    assert!(daemon.stop().success());
}

#[test]
fn the_guard_ends_when_the_files_are_back() {
    let Some(mount) = Mount::new_or_skip("the_guard_ends_when_the_files_are_back", Kind::Ext4) else { return };
    let source = filled(&mount);
    let volume = Volume::new(&source);
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    let away = mount.dir("away");
    // A hundred stay.
    let dirs = FILES / 100 - 1;
    let and_back = |from: &Path, to: &Path| {
        for n in 0..dirs {
            fs::rename(from.join(format!("d{n}")), to.join(format!("d{n}"))).unwrap();
        }
    };
    and_back(&source, &away);
    volume.sync(SYNC).expect(3);
    // A new process asks again, and compares files that come back: this one was written while no daemon ran.
    assert!(!daemon.stop().success(), "what is not committed is said");
    fs::write(away.join("d1/f100"), "CONTENT 100").unwrap();
    let mut daemon = volume.start();
    daemon.wait_ready(SYNC);
    volume.sync(Duration::from_secs(20)).expect(3);
    // The person who decides may take hours: waiting removals are checked now and then, not in every flush.
    let before = status(&volume)["rescans"].as_u64().unwrap();
    assert!(before <= 3 * FILES as u64, "{before} files were read before it was known that they wait");
    std::thread::sleep(Duration::from_secs(3));
    let looked = status(&volume)["rescans"].as_u64().unwrap() - before;
    assert!(looked <= 300, "the hundred files that stay were looked at {looked} times in 3 s");
    fs::write(away.join("d2/f200"), "CONTENT 200, longer").unwrap();
    and_back(&away, &source);
    volume.sync(SYNC).expect(0);
    volume.restored("back");
    assert_eq!(status(&volume)["state"], "protected");
    assert!(daemon.stop().success());
}

/// Ordinary removals are not asked about, and with `off` none are.
#[test]
fn a_part_of_the_files_goes_without_a_word() {
    let Some(mount) = Mount::new_or_skip("a_part_of_the_files_goes_without_a_word", Kind::Ext4) else { return };
    let source = filled(&mount);
    let mut volume = Volume::new(&source);
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    for n in 0..5 {
        fs::remove_dir_all(source.join(format!("d{n}"))).unwrap();
    }
    volume.sync(SYNC).expect(0);
    assert!(daemon.stop().success());
    volume.extra.extend(["--max-delete".into(), "off".into()]);
    for n in 0..FILES {
        fs::write(source.join(format!("more{n}")), "more").unwrap();
    }
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    for n in 0..FILES - STAY {
        fs::remove_file(source.join(format!("more{n}"))).unwrap();
    }
    volume.sync(SYNC).expect(0);
    volume.restored("off");
    assert!(daemon.stop().success());
}

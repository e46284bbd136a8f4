//! A restore that lacks rights or room: what can be created is created, and the rest is reported by name and cause.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use tests::compare::{Options, compare};
use tests::daemon::{Volume, binary, utf8};
use tests::mounts::{SmallStore, programs_or_skip};

const NOBODY: u32 = 65534;

fn committed(fill: impl FnOnce(&std::path::Path)) -> (tempfile::TempDir, Volume) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    fill(&source);
    let mut volume = Volume::new(&source);
    volume.extra.extend(["--capture".into(), "scan".into()]);
    assert!(volume.start_ready().stop().success());
    (folder, volume)
}

/// Root in a container mostly lacks the right to change the mode of files that it gave away (CAP_FOWNER).
#[test]
fn modes_and_times_that_are_refused_are_named_and_the_rest_is_restored() {
    let name = "modes_and_times_that_are_refused_are_named_and_the_rest_is_restored";
    if !programs_or_skip(name, "root", &["setpriv"]) {
        return;
    }
    let (_folder, volume) = committed(|source| {
        fs::create_dir(source.join("theirs")).unwrap();
        for path in ["ours", "theirs/file", "private"] {
            fs::write(source.join(path), path).unwrap();
            fs::set_permissions(source.join(path), Permissions::from_mode(0o604)).unwrap();
        }
        for path in ["theirs", "private"] {
            chown(source.join(path), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    });
    let copy = volume.scratch("copy");
    let mut restore = Command::new("setpriv");
    restore.args(["--bounding-set", "-fowner", "--inh-caps", "-fowner"]).arg(binary()).arg("restore");
    let output = restore.args([utf8(&volume.reference()), utf8(&copy)]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{said}");
    for line in ["private: mode 0604 not set: Operation not permitted", "theirs: mode 0755 not set"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("ours:") && !said.contains("theirs/file:"), "{said}");
    let mode = |path: &str| fs::metadata(copy.join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("private"), mode("theirs")), (0o600, 0o700), "closed rather than open");
    // Contents, owners and all else are there.
    let differences = compare(&volume.source, &copy, Options::default()).unwrap();
    assert!(differences.iter().all(|line| line.contains("private") || line.contains("theirs")), "{differences:?}");
    for path in ["ours", "theirs/file", "private"] {
        assert_eq!(fs::read_to_string(copy.join(path)).unwrap(), path);
    }
}

/// A full target is reported, keeps complete files, stays closed, and can be continued when there is room.
#[test]
fn a_full_target_keeps_what_is_whole_and_is_gone_on_with() {
    let name = "a_full_target_keeps_what_is_whole_and_is_gone_on_with";
    if !programs_or_skip(name, "root", &["mount"]) {
        return;
    }
    let (_folder, volume) = committed(|source| {
        for n in 0..8 {
            fs::write(source.join(format!("small{n}")), [n; 100]).unwrap();
        }
        let large: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(source.join("large"), large).unwrap();
    });
    let small = SmallStore::new(1 << 20);
    let target = small.path().join("copy");
    let answer = volume.restore(&target);
    answer.expect(1);
    assert!(answer.stderr.contains("large: No space left on device"), "{answer:?}");
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o700, "closed to others");
    for entry in fs::read_dir(&target).unwrap().flatten() {
        let whole = fs::read(volume.source.join(entry.file_name())).unwrap();
        assert_eq!(fs::read(entry.path()).unwrap(), whole, "{entry:?}");
    }
    small.remount("size=16m");
    let reference = volume.reference();
    volume.tracker(&["restore", "--merge", utf8(&reference), utf8(&target)]).expect(0);
    tests::compare::assert_same(&volume.source, &target);
}

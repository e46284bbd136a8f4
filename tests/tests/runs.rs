//! What a volume may trust when it comes back, and that it continues across the ends of eras.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::thread;
use std::time::Duration;

use tests::compare::assert_same;
use tests::daemon::Volume;
use tests::load::number;
use tests::mounts::{Kind, Mount};

const SYNC: Duration = Duration::from_secs(30);

/// A volume for which nothing is marked makes no rounds but one a second, and is not late for a change because of that: of content, of
/// attributes, of names, or of a page that is dirty already.
#[test]
fn an_idle_volume_makes_few_rounds_and_commits_each_change() {
    let name = "an_idle_volume_makes_few_rounds_and_commits_each_change";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    let path = source.join("file");
    fs::write(&path, "before").unwrap();
    let volume = Volume::new(&source);
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    let file = File::options().write(true).open(&path).unwrap();
    let changes: [(&str, &dyn Fn()); 5] = [
        ("content", &|| file.write_all_at(b"1", 0).unwrap()),
        ("content again", &|| file.write_all_at(b"2", 0).unwrap()),
        ("attributes", &|| fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap()),
        ("a new name", &|| fs::write(source.join("new"), "new").unwrap()),
        ("another name", &|| fs::rename(source.join("new"), source.join("moved")).unwrap()),
    ];
    for (at, (what, change)) in changes.into_iter().enumerate() {
        thread::sleep(Duration::from_millis(1500 + 130 * at as u64));
        let before = number(&volume.status(), "head_seq");
        change();
        volume.status_when(what, SYNC, |status| number(status, "head_seq") > before);
    }
    // What follows a commit, as the write-back of a file that was read without, ends meanwhile.
    thread::sleep(Duration::from_secs(3));
    let rounds = || number(&volume.status(), "flushes");
    let before = rounds();
    thread::sleep(Duration::from_secs(4));
    let made = rounds() - before;
    assert!(made <= 12, "{made} rounds in 4 s, at an interval of 0.1 s");
    let copy = volume.scratch("copy");
    volume.restore(&copy).expect(0);
    assert_same(&source, &copy);
    assert!(daemon.stop().success());
}

/// A process drains the marks of all volumes of its state directory, also of those it does not run. So a volume that was
/// left out of one run is compared with its tree when it comes back; otherwise changes made meanwhile would be missed in
/// the state `protected`.
#[test]
fn a_volume_left_out_of_a_run_is_compared_when_it_comes_back() {
    let name = "a_volume_left_out_of_a_run_is_compared_when_it_comes_back";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let (one, two) = (mount.dir("one"), mount.dir("two"));
    fs::write(one.join("file"), "before").unwrap();
    fs::write(two.join("file"), "other").unwrap();
    let mut first = Volume::new(&one);
    first.keep_tracking();
    let mut second = Volume::new(&two);
    second.state.clone_from(&first.state);
    second.name = "w".into();
    second.keep_tracking();

    assert!(first.start_ready().stop().success());
    fs::write(one.join("file"), "after").unwrap();
    fs::write(one.join("new"), "new").unwrap();
    let other = second.start_ready();
    second.sync(SYNC).expect(0);
    assert!(other.stop().success());

    let back = first.start_ready();
    first.sync(SYNC).expect(0);
    let copy = first.scratch("copy");
    first.restore(&copy).expect(0);
    assert_same(&one, &copy);
    assert!(back.stop().success());
}

/// After a time without tracking the tree is compared with the catalog. If a process dies before that is complete, the next
/// one must do it, although it finds intact pins and would otherwise trust its marks.
#[test]
fn a_comparison_that_was_cut_off_is_made_again() {
    let name = "a_comparison_that_was_cut_off_is_made_again";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    let large = source.join("large");
    fs::write(&large, vec![1; 48 << 20]).unwrap();
    let mut volume = Volume::new(&source);
    volume.keep_tracking();
    assert!(volume.start_ready().stop().success());
    volume.lose_marks();
    let file = File::options().write(true).open(&large).unwrap();
    file.write_all_at(b"not seen by anyone", 5_000_000).unwrap();
    file.sync_all().unwrap();

    let daemon = volume.start();
    while volume.try_status().is_none_or(|status| status["state"] == "starting") {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(volume.status()["state"], "verifying", "the file is too small for this test");
    daemon.kill9();

    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    volume.restored("copy");
    assert!(daemon.stop().success());
}

/// Commits across the ends of several eras, with a kill in between: each closed era has its object, and the restarted writer and
/// readers find the head after them.
#[test]
fn a_volume_goes_on_over_the_ends_of_eras() {
    let name = "a_volume_goes_on_over_the_ends_of_eras";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("kept"), vec![7; 300_000]).unwrap();
    let mut volume = Volume::new(&source);
    volume.environment.push(("TRACKER_ERA_LENGTH".into(), "4".into()));
    let daemon = volume.start_ready();
    for round in 0..9 {
        fs::write(source.join(format!("file{round}")), format!("round {round}")).unwrap();
        volume.sync(SYNC).expect(0);
    }
    daemon.kill9();
    let daemon = volume.start_ready();
    for round in 0..5 {
        fs::write(source.join("again"), format!("round {round}")).unwrap();
        volume.sync(SYNC).expect(0);
    }
    let head = volume.status()["head_seq"].as_u64().unwrap();
    assert!(head >= 14, "{head}");
    assert!(daemon.stop().success());
    let listed = |folder: &str| fs::read_dir(volume.reference().join(folder)).unwrap().count() as u64;
    // Era 0 ends with commit 3. The era of the head is open, or closed with the head its last commit.
    let closed = listed("eras");
    assert!(closed == head / 4 || (head % 4 == 3 && closed == head / 4 + 1), "{closed} eras, head {head}");
    volume.verify(true).expect(0);
    volume.restored("copy");
}

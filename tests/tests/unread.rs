//! Files that cannot be read, or vanish while they are read: the commits hold nothing that a restore cannot create, the
//! rest is committed, and what is left out is reported by name. Each case is the whole program.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use rustix::fs::XattrFlags;
use serde_json::Value;
use tests::compare::assert_same;
use tests::daemon::{Volume, utf8};
use tests::load::Random;
use tests::mounts::{Kind, Mount, programs_or_skip};
use tests::stop::Stop;

const SYNC: Duration = Duration::from_secs(60);
const STORM: Duration = Duration::from_secs(3);

/// `ln -sfn` in a random one of `dirs` directories.
fn relink(source: &Path, dirs: u64, random: &mut Random, round: u64) {
    let dir = source.join(format!("d{}", random.below(dirs)));
    symlink(format!("v{round}"), dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

/// The `..data` of every Kubernetes ConfigMap: a symlink is replaced by a rename while it is read. Every commit made
/// meanwhile can be restored, and each symlink in it has a target.
#[test]
fn every_commit_of_a_storm_of_symlinks_restores() {
    let name = "every_commit_of_a_storm_of_symlinks_restores";
    const DIRS: u64 = 100;
    for kind in [Kind::Ext4, Kind::Btrfs] {
        let Some(mount) = Mount::new_or_skip(name, kind) else { continue };
        let source = mount.dir("source");
        for dir in 0..DIRS {
            fs::create_dir(source.join(format!("d{dir}"))).unwrap();
        }
        let volume = Volume::new(&source);
        let daemon = volume.start_ready();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            let storm = scope.spawn(|| {
                let (mut random, mut round) = (Random::new(7), 0);
                while !stop.load(SeqCst) {
                    relink(&source, DIRS, &mut random, round);
                    round += 1;
                }
                round
            });
            thread::sleep(STORM);
            stop.store(true, SeqCst);
            assert!(storm.join().unwrap() > 100);
        });
        volume.sync(SYNC).expect(0);
        volume.restored("the last one");
        assert!(daemon.stop().success());
        volume.verify(true).expect(0);
        let head = fs::read_dir(volume.reference().join("commits")).unwrap().count();
        assert!(head > 3, "{head} commits");
        for seq in 1..=head {
            let copy = volume.scratch("one of them");
            let (reference, seq) = (volume.reference(), seq.to_string());
            volume.tracker(&["restore", utf8(&reference), utf8(&copy), "--at", &seq]).expect(0);
            fs::remove_dir_all(&copy).unwrap();
        }
    }
}

/// Owner of files that the daemon may not read.
const NOBODY: u32 = 65_534;

fn forbid(path: &Path, mode: u32) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn unreadable(status: &Value) -> Vec<String> {
    let all = status["unreadable"].as_array().cloned().unwrap_or_default();
    all.iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
}

/// A daemon without the right to read everything: the baseline completes without what it may not read, which is reported at
/// once by path and cause; `status` exits with 20. The same applies to later files, and when they may be read all is well.
#[test]
fn what_may_not_be_read_is_named_and_the_rest_is_protected() {
    let name = "what_may_not_be_read_is_named_and_the_rest_is_protected";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    if !programs_or_skip(name, "root", &["setpriv"]) {
        return;
    }
    let source = mount.dir("source");
    for dir in ["closed", "half", "open"] {
        fs::create_dir(source.join(dir)).unwrap();
        fs::write(source.join(dir).join("f"), dir).unwrap();
    }
    fs::write(source.join("secret"), "secret").unwrap();
    forbid(&source.join("closed"), 0o700);
    // Its names can be listed, but not looked up.
    forbid(&source.join("half"), 0o744);
    forbid(&source.join("secret"), 0o600);
    let mut volume = Volume::new(&source);
    volume.wrapper = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"].map(str::to_owned).to_vec();
    let daemon = volume.start_ready();
    let log = volume.log_tail();
    for path in ["\"closed\"", "\"half/f\"", "\"secret\""] {
        assert!(log.lines().any(|line| line.contains(path) && line.contains("Permission denied")), "{path}: {log}");
    }
    volume.tracker(&["status"]).expect(20);
    let status = volume.status();
    assert_eq!(
        (status["state"].as_str(), unreadable(&status)),
        (Some("degraded"), ["closed", "half/f", "secret"].map(str::to_owned).to_vec())
    );
    assert!(status["baseline_seq"].is_u64(), "{status:#}");
    let window = status["loss_window_seconds"].as_f64().unwrap();
    assert!(window > 0.0 && window < 600.0, "{window}");

    fs::write(source.join("open/later"), "later").unwrap();
    forbid(&source.join("open/later"), 0o600);
    fs::write(source.join("open/other"), "other").unwrap();
    volume
        .status_when("what came later is named", SYNC, |status| unreadable(status).contains(&"open/later".to_owned()));
    // It does not wait for what cannot be read.
    let answer = volume.sync(SYNC);
    assert!(answer.expect(20).stderr.contains("open/later") || answer.stdout.contains("open/later"), "{answer:?}");
    let copy = volume.scratch("meanwhile");
    volume.restore(&copy).expect(0);
    assert_eq!(fs::read_to_string(copy.join("open/other")).unwrap(), "other");
    assert!(copy.join("closed").is_dir() && !copy.join("closed/f").exists() && !copy.join("secret").exists());

    for path in ["closed", "half", "secret", "open/later"] {
        fs::set_permissions(source.join(path), Permissions::from_mode(0o755)).unwrap();
    }
    volume.status_when("all can be read", SYNC, |status| status["state"] == "protected");
    volume.sync(SYNC).expect(0);
    volume.restored("all");
    assert!(daemon.stop().success());
}

fn attributes(path: &Path, from: u32, to: u32) {
    for n in from..to {
        rustix::fs::setxattr(path, format!("user.{n:05}"), b"x", XattrFlags::empty()).unwrap();
    }
}

/// More extended attributes on one file than the format holds, and then more than the kernel lists: its content and the
/// rest of the volume are committed, and what is left out is reported.
#[test]
fn a_file_with_too_many_attributes_ends_no_volume() {
    let name = "a_file_with_too_many_attributes_ends_no_volume";
    for kind in [Kind::Xfs, Kind::Btrfs] {
        let Some(mount) = Mount::new_or_skip(name, kind) else { continue };
        let source = mount.dir("source");
        let (full, other) = (source.join("full"), source.join("other"));
        // Not every file system can hold as many.
        let copies = mount.dir("copies");
        fs::write(&full, "one").unwrap();
        attributes(&full, 0, 4200);
        let mut volume = Volume::new(&source);
        if kind == Kind::Btrfs {
            // Without kernel marks: the mark kept for the attributes must not hide a change of the content.
            volume.extra.extend(["--capture", "scan"].map(str::to_owned));
        }
        let daemon = volume.start_ready();
        let told = |status: &Value| status["unreadable"].to_string();
        let status = volume.status_when("the attribute is named", SYNC, |status| told(status).contains("user.04096"));
        assert_eq!(status["state"], "degraded", "{status:#}");
        let copy = copies.join("first");
        volume.restore(&copy).expect(0);
        assert_eq!(rustix::fs::getxattr(copy.join("full"), "user.04095", &mut [0; 8][..]).unwrap(), 1);

        attributes(&full, 4200, 9000);
        fs::write(&full, "two").unwrap();
        fs::write(&other, "other").unwrap();
        volume.status_when("no list is named", SYNC, |status| told(status).contains("cannot be listed"));
        volume.sync(SYNC).expect(20);
        let copy = copies.join("second");
        volume.restore(&copy).expect(0);
        assert_eq!(fs::read_to_string(copy.join("full")).unwrap(), "two");
        assert_eq!(fs::read_to_string(copy.join("other")).unwrap(), "other");
        assert_eq!(
            rustix::fs::getxattr(copy.join("full"), "user.00000", &mut [0; 8][..]).unwrap(),
            1,
            "the last committed"
        );

        for n in 4000..9000 {
            rustix::fs::removexattr(&full, format!("user.{n:05}")).unwrap();
        }
        volume.status_when("all is in the commits", SYNC, |status| status["state"] == "protected");
        volume.sync(SYNC).expect(0);
        let copy = copies.join("third");
        volume.restore(&copy).expect(0);
        assert_same(&source, &copy);
        assert!(daemon.stop().success());
    }
}

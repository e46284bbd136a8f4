//! A local store whose mount goes away and comes back under a running daemon: the server of a FUSE mount dies, a disk is
//! unmounted lazily, another one is mounted in its place. The daemon waits for a missing store, does not touch another
//! store, and continues by itself when its own is back.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use serde_json::Value;
use tempfile::TempDir;
use tests::daemon::Volume;
use tests::load::number;
use tests::mounts::{Kind, Mount, programs_or_skip, run};

const SYNC: Duration = Duration::from_secs(60);
/// Longest wait for what must show in a status.
const SOON: Duration = Duration::from_secs(30);

/// A mount point; everything mounted on it, once or several times, is unmounted when dropped.
struct Point(TempDir);

impl Point {
    fn new() -> Point {
        Point(tempfile::Builder::new().prefix("tracker-store-").tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// `umount -l`: takes effect at once, even if it is held open or its server is gone.
    fn unmount(&self) {
        unmount(self.path(), UnmountFlags::DETACH).unwrap();
    }

    fn mount(&self, args: &[&str]) {
        run(Command::new("mount").args(args).arg(self.path()));
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        while unmount(self.path(), UnmountFlags::DETACH).is_ok() {}
    }
}

/// A running bindfs, which is the server of a FUSE mount. It is killed when dropped.
struct Bindfs(Child);

impl Bindfs {
    fn mount(lower: &Path, point: &Path) -> Bindfs {
        let before = fs::metadata(point).unwrap().dev();
        let mut command = Command::new("bindfs");
        let child = command.arg("-f").arg(lower).arg(point).stdin(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + SOON;
        while fs::metadata(point).is_ok_and(|found| found.dev() == before) {
            assert!(Instant::now() < deadline, "bindfs does not mount");
            thread::sleep(Duration::from_millis(20));
        }
        Bindfs(child)
    }

    /// As in a crash: the mount stays, and every call fails with ENOTCONN.
    fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Bindfs {
    fn drop(&mut self) {
        self.end();
    }
}

fn names(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Waits for a status in which the error of the last try contains `word`.
#[track_caller]
fn fails_with(volume: &Volume, word: &str) -> Value {
    let status = volume.status_when(word, SOON, |status| {
        status["state"] == "degraded" && status["last_error"].as_str().is_some_and(|error| error.contains(word))
    });
    assert!(status["hint"].as_str().is_some_and(|hint| hint.contains("mount")), "no hint to mount it: {status}");
    assert!(number(&status, "pending_inodes") > 0, "{status}");
    status
}

/// Asserts that everything gets committed without help, and that the store has the tree.
#[track_caller]
fn goes_on(volume: &Volume, copy: &str) {
    volume.sync(SYNC).expect(0);
    let status = volume.status();
    assert!(status["state"] == "protected" && status["last_error"].is_null() && status["hint"].is_null(), "{status}");
    volume.restored(copy);
}

fn lines(volume: &Volume, text: &str) -> usize {
    fs::read_to_string(volume.scratch("log")).unwrap().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn a_fuse_mount_whose_server_died_is_opened_again() {
    let name = "a_fuse_mount_whose_server_died_is_opened_again";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    if !programs_or_skip(name, "fuse", &["bindfs"]) || !Path::new("/dev/fuse").exists() {
        return;
    }
    let (source, lower, point) = (mount.dir("source"), tempfile::tempdir().unwrap(), Point::new());
    fs::write(source.join("first"), vec![1; 1 << 20]).unwrap();
    let bindfs = Bindfs::mount(lower.path(), point.path());
    let mut volume = Volume::new(&source);
    volume.store = point.path().to_path_buf();
    let daemon = volume.start_ready();
    goes_on(&volume, "baseline");

    bindfs.kill();
    assert_eq!(fs::read_dir(point.path()).unwrap_err().raw_os_error(), Some(107), "ENOTCONN");
    fs::write(source.join("while dead"), vec![2; 1 << 20]).unwrap();
    fails_with(&volume, "ENOTCONN");
    volume.sync(Duration::from_secs(2)).expect(3);
    // The dead mount goes; what is left is an empty mount point.
    point.unmount();
    fs::write(source.join("while unmounted"), vec![3; 1 << 20]).unwrap();
    fails_with(&volume, "is at its path");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(names(point.path()), [] as [PathBuf; 0], "nothing is made below a mount point");
    let bindfs = Bindfs::mount(lower.path(), point.path());
    goes_on(&volume, "after");
    assert_eq!((lines(&volume, "the store is away"), lines(&volume, "the store is back")), (1, 1));
    volume.verify(true).expect(0);
    assert!(daemon.stop().success());

    // A start without it creates nothing either.
    bindfs.kill();
    let dead = volume.protect_ends();
    dead.refuses(1, "not connected");
    assert!(dead.stderr.contains("mount it again"), "{dead:?}");
    point.unmount();
    volume.protect_ends().refuses(10, "has committed to it");
    assert_eq!(names(point.path()), [] as [PathBuf; 0], "nothing is made below a mount point");
    let _bindfs = Bindfs::mount(lower.path(), point.path());
    let daemon = volume.start_ready();
    goes_on(&volume, "again");
    assert!(daemon.stop().success());
}

#[test]
fn a_disk_that_is_mounted_again_is_gone_on_with_and_another_one_is_not() {
    let name = "a_disk_that_is_mounted_again_is_gone_on_with_and_another_one_is_not";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let (source, folder, point) = (mount.dir("source"), tempfile::tempdir().unwrap(), Point::new());
    let images: Vec<String> =
        ["own", "other", "older"].map(|disk| folder.path().join(disk).to_str().unwrap().to_owned()).into();
    for image in &images {
        fs::File::create(image).unwrap().set_len(64 << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", image]));
    }
    let mount_image = |disk: usize| point.mount(&["-o", "loop", &images[disk]]);
    let change = |step: u8| fs::write(source.join(format!("step {step}")), vec![step; 300_000]).unwrap();
    let contents = || run(Command::new("find").arg(point.path()).args(["-printf", "%p %s %T@\n"]));
    let mut volume = Volume::new(&source);
    volume.store = point.path().join("store");

    // Another volume of the same name, created with another state directory.
    mount_image(1);
    change(0);
    let mut other = Volume::new(&source);
    other.store = volume.store.clone();
    assert!(other.start_ready().stop().success());
    let theirs = contents();
    point.unmount();

    mount_image(0);
    let daemon = volume.start_ready();
    goes_on(&volume, "baseline");
    run(Command::new("sync").arg("-f").arg(point.path()));
    fs::copy(&images[0], &images[2]).unwrap();
    change(1);
    goes_on(&volume, "one more");

    // Lazily, as if somebody held a descriptor: what was opened still works, but nobody would find what is put there.
    point.unmount();
    change(2);
    fails_with(&volume, "the directory is gone");
    assert_eq!(names(point.path()), [] as [PathBuf; 0], "nothing is made below a mount point");
    mount_image(1);
    change(3);
    fails_with(&volume, "another one");
    assert_eq!(contents(), theirs, "nothing is put into another store");
    point.unmount();
    // An older copy of the store: it belongs to this volume, and lacks a commit.
    mount_image(2);
    change(4);
    volume.status_when("what is lost", SOON, |status| {
        status["last_error"].as_str().is_some_and(|error| error.contains("no longer has"))
    });
    point.unmount();
    mount_image(0);
    goes_on(&volume, "after");
    volume.verify(true).expect(0);
    assert!(daemon.stop().success());
}

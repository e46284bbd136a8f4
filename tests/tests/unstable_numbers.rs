//! Sources whose inode numbers identify a file only for one mount, or two files at once: the commits hold what is at each
//! name, however the file system numbers its files. sshfs numbers files in the order of lookups, bindfs shows the numbers
//! of the file systems below it, and overlayfs with layers on several file systems takes them from different places.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::mount::{UnmountFlags, mount_remount, unmount};
use tempfile::TempDir;
use tests::compare::assert_same;
use tests::daemon::Volume;
use tests::load::{Random, number, seed};
use tests::mounts::{programs_or_skip, root_or_skip, run, skip};

const SYNC: Duration = Duration::from_secs(60);
/// Bytes of every file, so that none can be recognised by its size.
const SIZE: usize = 5000;
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// A directory that is served by a FUSE server, and where it is mounted.
struct Served {
    folder: TempDir,
    how: How,
    mounted: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    /// sshfs that runs the server itself, without a connection.
    Sftp,
    Bind,
}

impl Served {
    fn new_or_skip(test: &str, how: How) -> Option<Served> {
        let program = if how == How::Sftp { "sshfs" } else { "bindfs" };
        if !root_or_skip(test) || !programs_or_skip(test, "fuse", &[program]) {
            return None;
        }
        if how == How::Sftp && !Path::new(SFTP_SERVER).is_file() {
            skip(test, "fuse", "no sftp-server of OpenSSH");
            return None;
        }
        if File::open("/dev/fuse").is_err() {
            skip(test, "fuse", "no /dev/fuse");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("tracker-served-").tempdir().unwrap();
        for dir in ["served", "point"] {
            fs::create_dir(folder.path().join(dir)).unwrap();
        }
        let script = folder.path().join("server");
        fs::write(&script, format!("#!/bin/sh\nexec {SFTP_SERVER}\n")).unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        Some(Served { folder, how, mounted: false })
    }

    /// The directory behind the mount.
    fn behind(&self) -> PathBuf {
        self.folder.path().join("served")
    }

    fn point(&self) -> PathBuf {
        self.folder.path().join("point")
    }

    fn mount(&mut self) {
        let mut command = match self.how {
            How::Sftp => {
                let mut command = Command::new("sshfs");
                command.arg(format!("x:{}", self.behind().display())).arg(self.point());
                command.arg("-o").arg(format!("ssh_command={}", self.folder.path().join("server").display()));
                command
            }
            How::Bind => {
                let mut command = Command::new("bindfs");
                command.arg(self.behind()).arg(self.point());
                command
            }
        };
        run(&mut command);
        self.mounted = true;
    }

    /// Its server ends with the mount.
    fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            unmount(self.point(), UnmountFlags::empty()).expect("nobody uses the mount");
        }
    }

    /// The kernel forgets every name, and sshfs numbers files again as they are looked up.
    fn forget_numbers(&self) {
        mount_remount(self.point(), rustix::mount::MountFlags::empty(), c"").unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.mounted {
            let _ = unmount(self.point(), UnmountFlags::DETACH);
        }
    }
}

/// Sets the same time on every file, so that none can be recognised by it.
fn one_time(path: &Path) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

fn fill(dir: &Path, random: &mut Random) {
    for below in ["", "one", "two", "two/three"] {
        fs::create_dir_all(dir.join(below)).unwrap();
        for n in 0..12 {
            let path = dir.join(below).join(format!("f{n}"));
            fs::write(&path, random.bytes(SIZE)).unwrap();
            one_time(&path);
        }
    }
}

/// Every file below `dir`, visited in order of names or in reverse, with its present number.
fn look(dir: &Path, backwards: bool) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    look_at(dir, dir, backwards, &mut found);
    found
}

fn look_at(root: &Path, dir: &Path, backwards: bool, found: &mut BTreeMap<PathBuf, u64>) {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    if backwards {
        names.reverse();
    }
    for name in names {
        let path = dir.join(name);
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            look_at(root, &path, backwards, found);
        } else {
            found.insert(path.strip_prefix(root).unwrap().to_path_buf(), meta.ino());
        }
    }
}

/// How many files have a number that belonged to another file.
fn exchanged(before: &BTreeMap<PathBuf, u64>, after: &BTreeMap<PathBuf, u64>) -> usize {
    let whose: BTreeMap<u64, &PathBuf> = before.iter().map(|(path, ino)| (*ino, path)).collect();
    after.iter().filter(|(path, ino)| whose.get(ino).is_some_and(|other| other != path)).count()
}

/// The source as it was at a commit, as an independent copy.
struct Past {
    seq: u64,
    copy: PathBuf,
}

/// Waits until everything is committed, checks that the commit equals the source, and keeps a copy.
#[track_caller]
fn committed(volume: &Volume, past: &mut Vec<Past>) {
    volume.sync(SYNC).expect(0);
    let seq = number(&volume.status(), "head_seq");
    let restored = volume.scratch(&format!("restored-{}", past.len()));
    let reference = volume.reference();
    let (reference, target) = (reference.to_str().unwrap(), restored.to_str().unwrap());
    volume.tracker(&["restore", reference, target, "--at", &seq.to_string()]).expect(0);
    assert_same(&volume.source, &restored);
    let copy = volume.scratch(&format!("past-{}", past.len()));
    run(Command::new("cp").arg("-a").args([&volume.source, &copy]));
    past.push(Past { seq, copy });
}

/// Asserts that the store still gives the state of `at`.
#[track_caller]
fn is_given(volume: &Volume, at: &Past, round: usize) {
    let target = volume.scratch(&format!("given-{round}"));
    let reference = volume.reference();
    let (reference, target_text) = (reference.to_str().unwrap(), target.to_str().unwrap());
    volume.tracker(&["restore", reference, target_text, "--at", &at.seq.to_string()]).expect(0);
    assert_same(&at.copy, &target);
}

/// Overwrites a part of a file and restores its time, as some tools do.
fn overwrite_unseen(path: &Path, byte: u8) {
    File::options().write(true).open(path).unwrap().write_all_at(&[byte; 100], 2000).unwrap();
    one_time(path);
}

/// Mounted again and again, each time numbered in another order, and ended in both ways.
#[test]
fn files_of_a_mount_that_counts_anew_keep_their_contents() {
    let name = "files_of_a_mount_that_counts_anew_keep_their_contents";
    let Some(mut served) = Served::new_or_skip(name, How::Sftp) else { return };
    let mut random = Random::new(seed());
    fill(&served.behind(), &mut random);
    served.mount();
    let mut numbers = look(&served.point(), false);
    let volume = Volume::new(&served.point());
    let mut past = Vec::new();
    for round in 0..4 {
        let daemon = volume.start_ready();
        let status = volume.status();
        assert_eq!(status["backend"], "scan", "the kernel tells nothing of FUSE: {status}");
        committed(&volume, &mut past);
        // The first round sends everything; the last one follows a change that neither number nor time shows.
        let sent = number(&volume.status(), "bytes_literal");
        match round {
            1 | 2 => assert_eq!(sent, 0, "nobody changed anything: {}", volume.status()),
            3 => assert!((100..=2 * SIZE as u64).contains(&sent), "one file was changed: {}", volume.status()),
            _ => {}
        }
        let target = served.point().join(format!("one/f{round}"));
        fs::write(&target, random.bytes(SIZE)).unwrap();
        fs::rename(served.point().join(format!("f{}", round + 4)), served.point().join(format!("two/moved{round}")))
            .unwrap();
        committed(&volume, &mut past);
        if round % 2 == 0 {
            assert!(daemon.stop().success())
        } else {
            daemon.kill9()
        }
        served.unmount();
        if round == 2 {
            overwrite_unseen(&served.behind().join("two/three/f5"), 77);
        }
        served.mount();
        let now = look(&served.point(), round % 2 == 0);
        assert!(exchanged(&numbers, &now) >= 20, "the numbers must have changed hands: {now:?}");
        numbers = now;
    }
    for round in 0..4 {
        let at = random.below(past.len() as u64) as usize;
        is_given(&volume, &past[at], round);
    }
    is_given(&volume, &past[0], 4);
    served.unmount();
}

/// One mount and one daemon: the kernel forgets its names, so that every file has another number at each lookup, while
/// files are written, renamed and exchanged.
#[test]
fn numbers_that_change_under_a_running_daemon_are_no_changes() {
    let name = "numbers_that_change_under_a_running_daemon_are_no_changes";
    let Some(mut served) = Served::new_or_skip(name, How::Sftp) else { return };
    let mut random = Random::new(seed());
    fill(&served.behind(), &mut random);
    served.mount();
    let (point, volume) = (served.point(), Volume::new(&served.point()));
    let daemon = volume.start_ready();
    let mut past = Vec::new();
    committed(&volume, &mut past);
    for round in 0..6 {
        let before = look(&point, false);
        served.forget_numbers();
        let after = look(&point, round % 2 == 0);
        let other = before.iter().filter(|(path, ino)| after.get(*path) != Some(ino)).count();
        assert!(other >= 20, "the numbers must be others: {before:?} {after:?}");
        committed(&volume, &mut past);

        let (one, two) = (point.join(format!("f{round}")), point.join(format!("two/three/f{round}")));
        fs::rename(&one, point.join("between")).unwrap();
        served.forget_numbers();
        fs::rename(&two, &one).unwrap();
        fs::rename(point.join("between"), &two).unwrap();
        fs::write(point.join(format!("one/f{round}")), random.bytes(SIZE)).unwrap();
        one_time(&point.join(format!("one/f{round}")));
        served.forget_numbers();
        committed(&volume, &mut past);
    }
    for round in 0..3 {
        let at = random.below(past.len() as u64) as usize;
        is_given(&volume, &past[at], round);
    }
    assert!(daemon.stop().success());
    served.unmount();
}

/// Sets the same time on both, and waits until the clock of change times advances.
fn settle(path: &Path) {
    one_time(path);
    std::thread::sleep(Duration::from_millis(20));
}

/// Two file systems below one bindfs: each number belongs to two files at the same time, plain ones and some with two
/// names.
#[test]
fn files_that_have_one_number_at_the_same_time_are_told_apart() {
    let name = "files_that_have_one_number_at_the_same_time_are_told_apart";
    let Some(mut served) = Served::new_or_skip(name, How::Bind) else { return };
    let mut random = Random::new(seed());
    let parts = [served.behind().join("a"), served.behind().join("b")];
    let mut mounts = Vec::new();
    for part in &parts {
        fs::create_dir(part).unwrap();
        mounts.push(Tmpfs::mount(part));
        for n in 0..8 {
            let path = part.join(format!("f{n}"));
            fs::write(&path, random.bytes(SIZE)).unwrap();
            if n % 2 == 0 {
                fs::hard_link(&path, part.join(format!("link{n}"))).unwrap();
            }
            settle(&path);
        }
    }
    served.mount();
    let point = served.point();
    let numbers = |part: &str| look(&point.join(part), false);
    assert_eq!(numbers("a"), numbers("b"), "each number must be there twice");
    let volume = Volume::new(&point);
    let daemon = volume.start_ready();
    copied_apart(&volume, "first");
    for n in [0, 1, 6] {
        fs::write(point.join(format!("b/f{n}")), random.bytes(SIZE)).unwrap();
        settle(&point.join(format!("b/f{n}")));
    }
    fs::rename(point.join("a/f3"), point.join("a/moved")).unwrap();
    fs::rename(point.join("b/f5"), point.join("b/moved")).unwrap();
    copied_apart(&volume, "second");
    assert!(daemon.stop().success());
    served.unmount();
    served.mount();
    let daemon = volume.start_ready();
    copied_apart(&volume, "third");
    assert!(daemon.stop().success());
    served.unmount();
    drop(mounts);
}

/// Asserts that the newest commit has every name with its own content. The oracle cannot check links here: it identifies a
/// file by its number.
#[track_caller]
fn copied_apart(volume: &Volume, target: &str) {
    volume.sync(SYNC).expect(0);
    let copy = volume.scratch(target);
    volume.restore(&copy).expect(0);
    let (source, copied) = (look(&volume.source, false), look(&copy, false));
    assert_eq!(source.keys().collect::<Vec<_>>(), copied.keys().collect::<Vec<_>>());
    for path in source.keys() {
        let of = |dir: &Path| fs::read(dir.join(path)).unwrap();
        assert!(of(&volume.source) == of(&copy), "{path:?} has another content");
    }
    for part in ["a", "b"] {
        assert_same(&volume.source.join(part), &copy.join(part));
    }
}

/// A tmpfs with its own inode numbers; unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Tmpfs {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(at));
        Tmpfs(at.to_path_buf())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// An overlay whose layers are on three file systems, with `xino=off`: it uses the numbers of the layers, and directories
/// get new ones at each mount.
struct Layers {
    below: tests::mounts::Mount,
    lower: Vec<Tmpfs>,
    mounted: bool,
}

impl Layers {
    fn new_or_skip(test: &str) -> Option<Layers> {
        let below = tests::mounts::Mount::new_or_skip(test, tests::mounts::Kind::Ext4)?;
        let lower = ["one", "two"].map(|name| Tmpfs::mount(&below.dir(name))).into();
        for dir in ["upper", "work", "merged"] {
            below.dir(dir);
        }
        Some(Layers { below, lower, mounted: false })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.lower[0].0.with_file_name(name)
    }

    fn mount(&mut self) {
        let part = |name: &str| self.at(name).display().to_string();
        let options = format!(
            "xino=off,lowerdir={}:{},upperdir={},workdir={}",
            part("one"),
            part("two"),
            part("upper"),
            part("work")
        );
        run(Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(self.at("merged")));
        self.mounted = true;
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            unmount(self.at("merged"), UnmountFlags::empty()).expect("nobody uses the overlay");
        }
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        if self.mounted {
            let _ = unmount(self.at("merged"), UnmountFlags::DETACH);
        }
        self.lower.clear();
        let _ = &self.below;
    }
}

/// Number and birth of every file; returns how many share both with another one.
fn twins(dir: &Path) -> usize {
    let mut seen: BTreeMap<(u64, Option<SystemTime>), usize> = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let meta = fs::symlink_metadata(entry.unwrap().path()).unwrap();
        if meta.is_file() {
            *seen.entry((meta.ino(), meta.created().ok())).or_default() += 1;
        }
    }
    seen.values().filter(|count| **count > 1).count()
}

/// Files of two layers with the same number, and many of them with the same birth; mounted again, and looked up in another
/// order.
#[test]
fn layers_that_number_their_files_alike_are_told_apart() {
    let name = "layers_that_number_their_files_alike_are_told_apart";
    let Some(mut layers) = Layers::new_or_skip(name) else { return };
    let mut random = Random::new(seed());
    let (one, two) = (layers.at("one"), layers.at("two"));
    for n in 0..60 {
        let contents = [random.bytes(SIZE), random.bytes(SIZE)];
        // In pairs, so that both are born in the same clock tick.
        let files = [one.join(format!("a{n}")), two.join(format!("b{n}"))].map(|path| File::create(path).unwrap());
        for (file, content) in files.iter().zip(contents) {
            file.write_all_at(&content, 0).unwrap();
        }
    }
    for n in 0..8 {
        for (part, letter) in [(&one, "a"), (&two, "b")] {
            let dir = part.join(format!("dir-{letter}{n}"));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("file"), random.bytes(SIZE)).unwrap();
            one_time(&dir.join("file"));
        }
    }
    for n in 0..60 {
        one_time(&one.join(format!("a{n}")));
        one_time(&two.join(format!("b{n}")));
    }
    layers.mount();
    let merged = layers.at("merged");
    assert!(twins(&merged) > 0, "some must have number and birth in common");
    let volume = Volume::new(&merged);
    let mut past = Vec::new();
    for round in 0..3 {
        let daemon = volume.start_ready();
        committed(&volume, &mut past);
        fs::write(merged.join(format!("a{round}")), random.bytes(SIZE)).unwrap();
        fs::write(merged.join(format!("dir-b{round}/file")), random.bytes(SIZE)).unwrap();
        fs::remove_file(merged.join(format!("b{}", round + 10))).unwrap();
        fs::rename(merged.join(format!("a{}", round + 20)), merged.join(format!("moved{round}"))).unwrap();
        committed(&volume, &mut past);
        if round % 2 == 0 {
            assert!(daemon.stop().success())
        } else {
            daemon.kill9()
        }
        layers.unmount();
        layers.mount();
        look(&merged, round % 2 == 0);
    }
    let daemon = volume.start_ready();
    committed(&volume, &mut past);
    for round in 0..3 {
        let at = random.below(past.len() as u64) as usize;
        is_given(&volume, &past[at], round);
    }
    assert!(daemon.stop().success());
    layers.unmount();
}

//! Races between the whole program and changes of the tree: names that move while directories are listed, pages that are
//! dirty before the start, inodes that change their name or number, writers in the middle of a call.

use engine::model::Seq;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use tests::daemon::{Volume, utf8};
use tests::load::{Random, number, seed};
use tests::mounts::{Kind, Mount, skip};
use tests::raw_io::{Mapping, SlowSource};
use tests::stop::Stop;
use tracker::repository;
use tracker::store::{StoreOptions, StoreUrl, open};

const SYNC: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(30);

fn fast(source: &Path) -> Volume {
    let mut volume = Volume::new(source);
    volume.extra = vec!["--interval".into(), "10ms".into()];
    volume
}

#[track_caller]
fn equal(volume: &Volume) {
    volume.sync(SYNC).expect(0);
    let copy = volume.restored("copy");
    fs::remove_dir_all(copy).unwrap();
}

/// Files move between directories while these are listed. Each has a name in some directory at every moment, and so it must
/// in every commit: a listing that missed it proves nothing.
#[test]
fn names_that_always_existed_are_in_every_commit_of_a_rename_storm() {
    const FILES: u64 = 150;
    const DIRS: u64 = 4;
    let case = "names_that_always_existed_are_in_every_commit_of_a_rename_storm";
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        let Some(mount) = Mount::new_or_skip(case, kind) else { return };
        let source = mount.dir("source");
        for dir in 0..DIRS {
            fs::create_dir(source.join(format!("d{dir}"))).unwrap();
            // Makes a listing long.
            for file in 0..100 {
                File::create(source.join(format!("d{dir}/other-{file}"))).unwrap();
            }
        }
        for file in 0..FILES {
            fs::write(source.join(format!("d{}/f{file}", file % DIRS)), format!("{file}")).unwrap();
        }
        let volume = fast(&source);
        let _daemon = volume.start_ready();
        let first = number(&volume.status(), "head_seq");
        let (stop, moves) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for half in 0..2 {
                let (stop, moves, source) = (&stop, &moves, &source);
                scope.spawn(move || {
                    let mut random = Random::new(seed() + half);
                    let mut at: Vec<u64> = (0..FILES).map(|file| file % DIRS).collect();
                    while !stop.load(SeqCst) {
                        let file = (random.below(FILES / 2) * 2 + half) as usize;
                        let to = random.below(DIRS);
                        let path = |dir: u64| source.join(format!("d{dir}/f{file}"));
                        fs::rename(path(at[file]), path(to)).unwrap();
                        at[file] = to;
                        moves.fetch_add(1, SeqCst);
                    }
                });
            }
            let _stop = Stop(&stop);
            thread::sleep(Duration::from_secs(3));
        });
        equal(&volume);
        let url: StoreUrl = utf8(&volume.store).parse().unwrap();
        let reader = repository::open(open(&url, &StoreOptions::default()).unwrap(), &volume.name).unwrap();
        for seq in Seq(first).to(reader.head()) {
            let manifest = reader.manifest(seq).unwrap();
            let names: HashSet<&[u8]> = manifest.names().map(|(_, name, _)| name).collect();
            for file in 0..FILES {
                assert!(names.contains(format!("f{file}").as_bytes()), "{kind:?}: f{file} is not in commit {seq}");
            }
        }
        let commits = reader.head().0 - first;
        println!("{case}: {kind:?}: {} moves, {commits} commits", moves.load(SeqCst));
        assert!(commits >= 5, "too few commits to show anything");
    }
}

/// A store into a page that was dirty and mapped before the daemon started marks nothing: the page must be cleaned before
/// the scan.
#[test]
fn a_page_that_was_dirty_before_the_start_is_seen_when_stored_into_again() {
    let case = "a_page_that_was_dirty_before_the_start_is_seen_when_stored_into_again";
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Overlay] {
        let Some(mount) = Mount::new_or_skip(case, kind) else { return };
        let source = mount.dir("source");
        fs::write(source.join("file"), [1; 65_536]).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(source.join("file")).unwrap();
        file.sync_all().unwrap();
        let mapping = Mapping::new(&file, 65_536).unwrap();
        mapping.store(20_000, 2);
        let volume = fast(&source);
        let mut daemon = volume.start();
        // Before, during and after its start; the last ones once it says that it is ready.
        let begun = Instant::now();
        let mut value = 3u8;
        while !daemon.ready_within(Duration::from_millis(5)) {
            value = value.wrapping_add(1);
            mapping.store(20_000, value);
            assert!(begun.elapsed() < SOON, "{kind:?}: not ready");
        }
        for store in 0..20u8 {
            mapping.store(20_000, store);
            thread::sleep(Duration::from_millis(7));
        }
        equal(&volume);
    }
}

/// Directories are moved into the tree, and out and in again, while files in them are written through open descriptors.
#[test]
fn a_directory_that_is_moved_in_while_written_is_committed() {
    let case = "a_directory_that_is_moved_in_while_written_is_committed";
    for kind in [Kind::Ext4, Kind::Btrfs, Kind::Tmpfs] {
        let Some(mount) = Mount::new_or_skip(case, kind) else { return };
        let (source, outside) = (mount.dir("source"), mount.dir("outside"));
        let volume = fast(&source);
        let _daemon = volume.start_ready();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            for number in 0..8u64 {
                let deep = outside.join(format!("d{number}/a/b"));
                fs::create_dir_all(&deep).unwrap();
                let file = File::create(deep.join("file")).unwrap();
                let stop = &stop;
                scope.spawn(move || {
                    let mut random = Random::new(number);
                    while !stop.load(SeqCst) {
                        file.write_all_at(&random.bytes(3000), random.below(100_000)).unwrap();
                        thread::sleep(Duration::from_micros(300));
                    }
                });
            }
            let mut random = Random::new(seed());
            for _ in 0..60 {
                let number = random.below(8);
                let (here, there) = (outside.join(format!("d{number}")), source.join(format!("d{number}")));
                let (from, to) = if here.exists() { (here, there) } else { (there, here) };
                fs::rename(from, to).unwrap();
                thread::sleep(Duration::from_millis(random.below(30)));
            }
            // All in, some only for a moment, and written to afterwards.
            for number in 0..8 {
                let here = outside.join(format!("d{number}"));
                if here.exists() {
                    fs::rename(here, source.join(format!("d{number}"))).unwrap();
                }
            }
            thread::sleep(Duration::from_millis(50));
        });
        equal(&volume);
    }
}

/// A file is removed and another one created under its name, with its inode number, its size and its time.
#[test]
fn an_inode_number_that_is_used_again_under_the_same_name_is_another_file() {
    let case = "an_inode_number_that_is_used_again_under_the_same_name_is_another_file";
    let Some(mount) = Mount::new_or_skip(case, Kind::Ext4) else { return };
    let source = mount.dir("source");
    let path = source.join("file");
    let make = |byte: u8| {
        fs::write(&path, [byte; 10_000]).unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::open(&path).unwrap().set_modified(time).unwrap();
        fs::metadata(&path).unwrap().ino()
    };
    let mut before = make(0);
    let volume = fast(&source);
    let _daemon = volume.start_ready();
    let mut again = 0;
    for byte in 1..=20 {
        fs::remove_file(&path).unwrap();
        let ino = make(byte);
        again += u32::from(ino == before);
        before = ino;
        if byte % 4 == 0 {
            equal(&volume);
        } else {
            thread::sleep(Duration::from_millis(u64::from(byte)));
        }
    }
    assert!(again >= 10, "the number was used again {again} times only");
}

/// A file with a second name outside the tree is written only under that name, and one that was written outside is linked
/// in.
#[test]
fn what_is_written_by_a_name_outside_of_the_tree_is_committed() {
    let case = "what_is_written_by_a_name_outside_of_the_tree_is_committed";
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Overlay] {
        let Some(mount) = Mount::new_or_skip(case, kind) else { return };
        let (source, outside) = (mount.dir("source"), mount.dir("outside"));
        fs::write(source.join("inside"), [1; 50_000]).unwrap();
        fs::hard_link(source.join("inside"), outside.join("name")).unwrap();
        let volume = fast(&source);
        let _daemon = volume.start_ready();
        let file = OpenOptions::new().read(true).write(true).open(outside.join("name")).unwrap();
        let mapping = Mapping::new(&file, 50_000).unwrap();
        for round in 2..5u8 {
            file.write_all_at(&[round; 500], 9000).unwrap();
            mapping.store(30_000, round);
            equal(&volume);
        }
        fs::write(outside.join("late"), [5; 20_000]).unwrap();
        fs::hard_link(outside.join("late"), source.join("linked")).unwrap();
        let late = OpenOptions::new().write(true).open(outside.join("late")).unwrap();
        late.write_all_at(&[6; 500], 700).unwrap();
        equal(&volume);
        late.set_len(7000).unwrap();
        equal(&volume);
    }
}

/// Releases a stalled writer when dropped.
struct Release<'a>(&'a SlowSource);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.fill(b'n').unwrap();
    }
}

/// A write that does not end holds up only its own file; when it ends it is committed.
#[test]
fn a_write_that_does_not_end_holds_up_its_own_file_alone() {
    let case = "a_write_that_does_not_end_holds_up_its_own_file_alone";
    for kind in [Kind::Ext4, Kind::Tmpfs] {
        let source = match SlowSource::new(b'n') {
            Ok(source) => source,
            Err(error) => return skip(case, "root", &format!("userfaultfd: {error}")),
        };
        let Some(mount) = Mount::new_or_skip(case, kind) else { return };
        let dir = mount.dir("source");
        fs::write(dir.join("stalled"), [1; 65_536]).unwrap();
        fs::write(dir.join("other"), [1; 65_536]).unwrap();
        let volume = fast(&dir);
        let _daemon = volume.start_ready();
        let file = OpenOptions::new().write(true).open(dir.join("stalled")).unwrap();
        thread::scope(|scope| {
            let release = Release(&source);
            let writer = scope.spawn(|| file.write_all_at(source.bytes(), 4096));
            source.wait().unwrap();
            let deadline = Instant::now() + SOON;
            for byte in 2..5u8 {
                fs::write(dir.join("other"), [byte; 65_536]).unwrap();
                let reference = volume.reference();
                let committed = || volume.tracker(&["cat", utf8(&reference), "other"]).stdout.as_bytes().to_vec();
                while committed() != [byte; 65_536] {
                    assert!(Instant::now() < deadline, "{kind:?}: the other file waits too");
                    thread::sleep(Duration::from_millis(50));
                }
            }
            assert_ne!(
                volume.sync(Duration::from_millis(500)).code,
                Some(0),
                "{kind:?}: synced in the middle of a write"
            );
            drop(release);
            writer.join().unwrap().unwrap();
        });
        equal(&volume);
    }
}

/// No hook saw its begin, its end sets no time, and a direct overwrite holds no lock against a reader: ext4 and xfs take
/// theirs shared (`ext4_dio_write_iter`, `xfs_file_dio_write_aligned`, Linux 6.18).
#[test]
fn a_direct_write_that_began_before_the_start_is_committed() {
    let case = "a_direct_write_that_began_before_the_start_is_committed";
    for kind in [Kind::Ext4, Kind::Xfs] {
        let source = match SlowSource::new(b'n') {
            Ok(source) => source,
            Err(error) => return skip(case, "root", &format!("userfaultfd: {error}")),
        };
        let Some(mount) = Mount::new_or_skip(case, kind) else { return };
        let dir = mount.dir("source");
        fs::write(dir.join("file"), [1; 1 << 20]).unwrap();
        let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(dir.join("file")).unwrap();
        file.sync_all().unwrap();
        let volume = fast(&dir);
        thread::scope(|scope| {
            let release = Release(&source);
            let writer = scope.spawn(|| file.write_all_at(source.bytes(), 65_536));
            source.wait().unwrap();
            let _daemon = volume.start_ready();
            volume.status_when("protected", SOON, |status| status["state"] == "protected");
            let reference = volume.reference();
            let before = volume.tracker(&["cat", utf8(&reference), "file"]).stdout;
            assert_eq!(before.as_bytes(), [1; 1 << 20], "{kind:?}: it was not read before the write");
            drop(release);
            writer.join().unwrap().unwrap();
            assert_ne!(fs::read(dir.join("file")).unwrap(), [1; 1 << 20], "{kind:?}");
            equal(&volume);
        });
    }
}

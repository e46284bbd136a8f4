//! Losses are noticed: full maps, links and pins that are removed, a full watch set, a daemon that does not get to run, a
//! disk that fails. Each must be counted by its cause, must be read again no wider than necessary, and must keep the volume
//! from being called protected until that is complete.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::compare::{Options, compare};
use tests::daemon::{Daemon, Volume, pins};
use tests::held::Held;
use tests::load::{number, seed};
use tests::loads::storm::Storm;
use tests::mounts::{Kind, Mount, SmallStore, run};
use tests::raw_calls::dirty_pages;
use tests::raw_io::Pages;

const SYNC: Duration = Duration::from_secs(60);
/// Longest wait for what must show in a status.
const SOON: Duration = Duration::from_secs(30);
/// A cause that was dropped too early would be gone by then.
const A_WHILE: Duration = Duration::from_millis(800);

fn signal(daemon: &Daemon<'_>, signal: Signal) {
    kill_process(Pid::from_raw(daemon.pid() as i32).unwrap(), signal).unwrap();
}

fn says(status: &Value, cause: &str) -> bool {
    status["reasons"].as_array().unwrap().iter().any(|reason| reason.as_str().unwrap().contains(cause))
}

/// Asserts that the cause is counted and named, and that the volume is degraded until the full re-read is complete, and
/// protected afterwards.
#[track_caller]
fn reread(volume: &Volume, cause: &str, held: Held) -> Value {
    let degraded = |status: &Value| {
        assert_eq!(status["state"], "degraded", "{status}");
        assert!(says(status, cause), "{cause} is not among the reasons: {status}");
    };
    degraded(
        &volume
            .status_when(cause, SOON, |status| status["rescan_reasons"][cause].as_u64().is_some_and(|times| times > 0)),
    );
    assert_ne!(volume.sync(Duration::from_secs(1)).code, Some(0), "synced before the pass was through");
    thread::sleep(A_WHILE);
    degraded(&volume.status());
    drop(held);
    green(volume)
}

#[track_caller]
fn green(volume: &Volume) -> Value {
    volume.sync(SYNC).expect(0);
    let status = volume.status();
    assert_eq!(status["state"], "protected", "{status}");
    let copy = volume.restored("copy");
    fs::remove_dir_all(copy).unwrap();
    status
}

fn fill(source: &Path, files: u32) {
    for number in 0..files {
        fs::write(source.join(format!("f{number}")), [1; 5000]).unwrap();
    }
    fs::write(source.join("held"), [1; 65_536]).unwrap();
}

fn overwrite(source: &Path, files: u32, byte: u8) {
    for number in 0..files {
        let file = OpenOptions::new().write(true).open(source.join(format!("f{number}"))).unwrap();
        file.write_all_at(&[byte; 100], 2000).unwrap();
    }
}

fn with_maps(source: &Path, sizes: &[&str]) -> Volume {
    let mut volume = Volume::new(source);
    for size in sizes {
        volume.extra.extend(["--map-entries".into(), (*size).into()]);
    }
    volume
}

/// The kernel reports that it skipped a program, and marks are really missing: every file is read.
#[test]
fn missed_program_runs_read_everything_again() {
    let case = "missed_program_runs_read_everything_again";
    let Some(mount) = Mount::new_or_skip(case, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fill(&source, 200);
    let mut volume = Volume::new(&source);
    let missed = volume.scratch("missed");
    volume.environment.push(("TRACKER_DROP_MARKS".into(), "1".into()));
    volume.environment.push(("TRACKER_MISSED_RUN".into(), missed.display().to_string()));
    let daemon = volume.start_ready();
    overwrite(&source, 200, 7);
    volume.sync(SYNC).expect(0);
    let copy = volume.scratch("without-marks");
    volume.restore(&copy).expect(0);
    let lost = compare(&source, &copy, Options::default()).unwrap();
    assert!(lost.len() >= 200, "nothing was missed that could be found: {lost:?}");
    let Some(held) = Held::new(case, &source.join("held")) else { return };
    File::create(&missed).unwrap();
    let status = reread(&volume, "missed program run", held);
    // The held file is counted more than once, since it could not be read.
    assert!(number(&status, "rescans") >= 201, "{status}");
    assert_eq!(status["rescan_reasons"]["missed program run"], 1, "{status}");
    assert!(daemon.stop().success());
}

/// Maps of 16 entries, and 200 of 2,000 files written between two drains.
#[test]
fn full_maps_rescan_what_found_no_room() {
    let case = "full_maps_rescan_what_found_no_room";
    let Some(mount) = Mount::new_or_skip(case, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fill(&source, 2000);
    let volume = with_maps(&source, &["dirty=16", "inode=16"]);
    let daemon = volume.start_ready();
    let before = green(&volume);
    let Some(held) = Held::new(case, &source.join("held")) else { return };
    signal(&daemon, Signal::STOP);
    overwrite(&source, 200, 2);
    signal(&daemon, Signal::CONT);
    let status = reread(&volume, "kernel map full", held);
    assert!(number(&status["kernel_counters"], "overflow") > 0, "{status}");
    let read = number(&status, "files_read") - number(&before, "files_read");
    assert!((150..1000).contains(&read), "{read} files read for 200 that were written, of 2,000");
    assert!(number(&status, "kernel_map_bytes") < number(&default_maps(case), "kernel_map_bytes"));
}

/// The status of a volume with maps of the default sizes.
fn default_maps(case: &str) -> Value {
    let mount = Mount::new_or_skip(case, Kind::Ext4).unwrap();
    let volume = Volume::new(&mount.dir("source"));
    let _daemon = volume.start_ready();
    volume.status()
}

/// A removed pin causes a full re-read although the program still runs: once, since the pin is made again.
#[test]
fn removed_pins_are_made_again_after_one_full_reread() {
    let case = "removed_pins_are_made_again_after_one_full_reread";
    let Some(mount) = Mount::new_or_skip(case, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fill(&source, 50);
    let volume = Volume::new(&source);
    let daemon = volume.start_ready();
    let Some(held) = Held::new(case, &source.join("held")) else { return };
    let pin = pins(&volume.state).unwrap().join("link_dirty_folio");
    fs::remove_file(&pin).unwrap();
    reread(&volume, "link gone", held);
    assert!(pin.exists());
    fs::remove_dir_all(pins(&volume.state).unwrap()).unwrap();
    volume.status_when("all pins again", SOON, |_| pin.exists());
    green(&volume);
    thread::sleep(A_WHILE);
    let status = green(&volume);
    assert_eq!(status["rescan_reasons"]["link gone"], 2, "read again and again");
    // The new pins work as well as the first ones.
    overwrite(&source, 50, 3);
    daemon.kill9();
    overwrite(&source, 50, 4);
    let _daemon = volume.start_ready();
    let status = green(&volume);
    assert_eq!(number(&status, "rescans"), 0, "{status}");
}

/// Two links swap places while no daemon runs: it is unknown what they marked.
#[test]
fn replaced_links_are_not_taken_over() {
    let case = "replaced_links_are_not_taken_over";
    let Some(mount) = Mount::new_or_skip(case, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fill(&source, 50);
    let volume = Volume::new(&source);
    volume.start_ready().kill9();
    let (one, other, between) = (
        pins(&volume.state).unwrap().join("link_dirty_folio"),
        pins(&volume.state).unwrap().join("link_dio_begin"),
        pins(&volume.state).unwrap().join("between"),
    );
    for (from, to) in [(&one, &between), (&other, &one), (&between, &other)] {
        fs::rename(from, to).unwrap();
    }
    overwrite(&source, 50, 2);
    // Dropped first, also if the test fails: a daemon with a thread waiting for the lock cannot even be killed.
    let mut daemon;
    let Some(held) = Held::new(case, &source.join("held")) else { return };
    daemon = volume.start();
    until_answered(&volume);
    volume
        .status_when("the comparison", SOON, |status| status["state"] == "verifying" && number(status, "flushes") > 0);
    thread::sleep(A_WHILE);
    assert_eq!(volume.status()["state"], "verifying", "green before the pass was through");
    drop(held);
    daemon.wait_ready(SOON);
    green(&volume);
}

fn until_answered(volume: &Volume) {
    let deadline = Instant::now() + SOON;
    while volume.try_status().is_none() {
        assert!(Instant::now() < deadline, "no daemon answers");
        thread::sleep(Duration::from_millis(20));
    }
}

/// More inodes than the watch capacity: all inodes of the file system are marked from then on, also by the next process.
#[test]
fn a_full_watch_set_marks_everything_and_goes_on_doing_so() {
    let case = "a_full_watch_set_marks_everything_and_goes_on_doing_so";
    let Some(mount) = Mount::new_or_skip(case, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fill(&source, 5);
    let volume = with_maps(&source, &["watch=32"]);
    let daemon = volume.start_ready();
    let Some(held) = Held::new(case, &source.join("held")) else { return };
    fill_more(&source);
    let status = reread(&volume, "watch set full", held);
    assert!(says(&status, "the watch set is full"), "{status}");
    overwrite(&source, 100, 2);
    green(&volume);
    daemon.kill9();
    overwrite(&source, 100, 3);
    let _daemon = volume.start();
    // While it starts, changes must be marked at every moment.
    for byte in 4..40 {
        overwrite(&source, 100, byte);
        thread::sleep(Duration::from_millis(10));
    }
    until_answered(&volume);
    let status = green(&volume);
    assert_eq!(number(&status, "rescans"), 0, "{status}");
}

fn fill_more(source: &Path) {
    for number in 5..100 {
        fs::write(source.join(format!("f{number}")), [1; 5000]).unwrap();
    }
}

/// More direct writes at once than INFLIGHT holds.
#[test]
fn direct_writes_without_a_place_are_marked_all_the_same() {
    let case = "direct_writes_without_a_place_are_marked_all_the_same";
    let Some(mount) = Mount::new_or_skip(case, Kind::Xfs) else { return };
    let source = mount.dir("source");
    fill(&source, 1);
    fs::write(source.join("direct"), vec![1; 4 << 20]).unwrap();
    let volume = with_maps(&source, &["inflight=8"]);
    let _daemon = volume.start_ready();
    let path = source.join("direct");
    let full = |status: &Value| number(&status["kernel_counters"], "inflight_full");
    let begun = Instant::now();
    let mut round = 0u8;
    while full(&volume.status()) == 0 {
        assert!(begun.elapsed() < SOON, "32 direct writes at once always found room");
        round += 1;
        thread::scope(|scope| {
            for number in 0..32u64 {
                let path = &path;
                scope.spawn(move || {
                    let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
                    for turn in 0..20 {
                        file.write_all_at(&Pages([round; 4096]).0, (number * 20 + turn) * 4096).unwrap();
                    }
                });
            }
        });
    }
    green(&volume);
}

/// The daemon gets no processor time while everything is written to; the kernel's maps keep the marks.
#[test]
fn a_stalled_daemon_loses_nothing() {
    let case = "a_stalled_daemon_loses_nothing";
    let seconds = std::env::var("TRACKER_STALL_SECONDS").map_or(10, |text| text.parse().expect("a number of seconds"));
    let Some(mount) = Mount::new_or_skip(case, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::create_dir(source.join("files")).unwrap();
    fill(&source.join("files"), 500);
    let volume = Volume::new(&source);
    let daemon = volume.start_ready();
    let before = green(&volume);
    let storm = Storm::start(&source, 3, seed(), true);
    signal(&daemon, Signal::STOP);
    let begun = Instant::now();
    let mut rounds = 0u32;
    while begun.elapsed() < Duration::from_secs(seconds) {
        overwrite(&source.join("files"), 500, rounds as u8);
        rounds += 1;
    }
    signal(&daemon, Signal::CONT);
    let changes: u64 = storm.stop().iter().sum();
    let status = green(&volume);
    println!(
        "{case}: stopped for {seconds} s (TRACKER_STALL_SECONDS), {} writes and {changes} changes meanwhile; rescans {}",
        rounds * 500,
        status["rescan_reasons"]
    );
    assert_eq!(number(&status, "rescans"), number(&before, "rescans"), "the maps were large enough: {status}");
}

/// The image of the file system is on a full tmpfs: written data has no room, and write-back fails.
#[test]
fn a_write_back_error_stays_visible_until_it_is_acknowledged() {
    let case = "a_write_back_error_stays_visible_until_it_is_acknowledged";
    // Only to skip where it must; apart from that the test needs a loop device.
    let Some(_) = Mount::new_or_skip(case, Kind::Ext4) else { return };
    let below = SmallStore::new(24 << 20);
    let image = below.path().join("image");
    File::create(&image).unwrap().set_len(200 << 20).unwrap();
    // No journal: its failure would make the file system read-only, but only the data is to fail.
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal"]).arg(&image));
    let folder = tempfile::tempdir().unwrap();
    run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(folder.path()));
    let _mounted = Mounted(folder.path());
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), [1; 100_000]).unwrap();
    let volume = Volume::new(&source);
    let daemon = volume.start_ready();
    green(&volume);

    // As much as there is room for: the last write is short.
    let filler = below.path().join("filler");
    let _ = fs::write(&filler, vec![0; 30 << 20]);
    fs::write(source.join("file"), vec![2; 3 << 20]).unwrap();
    let status = volume.status_when("the error", SOON, |status| !status["write_back"].is_null());
    assert_eq!((&status["state"], &status["write_back"]["path"]), (&"degraded".into(), &"file".into()), "{status}");
    fs::remove_file(&filler).unwrap();
    // Nothing is written: what the error left open is read without that.
    volume.status_when("no more errors", SOON, |status| status["pending_inodes"] == 0);
    volume.restored("after-the-error");
    let write = |byte: u8| {
        let file = OpenOptions::new().write(true).open(source.join("file")).unwrap();
        file.write_all_at(&vec![byte; 3 << 20], 0).unwrap();
        file.sync_all()
    };
    // The application gets its own report, if it asks for one.
    let _ = write(3);
    volume.status_when("later successes", SOON, |status| status["pending_inodes"] == 0);
    let seen = |status: &Value| {
        assert_eq!(status["state"], "degraded", "{status}");
        assert!(says(status, "write-back errors, the last of file at"), "{status}");
        number(&status["write_back"], "count")
    };
    let count = seen(&volume.status());
    volume.sync(SYNC).expect(20);
    assert!(daemon.stop().success());

    let daemon = volume.start_ready();
    assert_eq!(seen(&volume.status()), count, "forgotten by a restart");
    volume.tracker(&["acknowledge", "other"]).refuses(10, "no volume");
    let answer = volume.tracker(&["acknowledge", "v"]);
    assert!(answer.expect(0).stdout.contains("acknowledged"), "{answer:?}");
    write(4).unwrap();
    let status = green(&volume);
    assert!(status["write_back"].is_null(), "{status}");
    assert!(daemon.stop().success());
    let _daemon = volume.start_ready();
    assert!(volume.status()["write_back"].is_null(), "it came back");
}

/// Unmounts when dropped.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} stays mounted", self.0.display());
    }
}

/// Whether this kernel makes large folios there, so that each write is told of.
fn has_large_folios(kind: Kind) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers: Vec<u32> = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).collect();
    numbers.as_slice() >= if kind == Kind::Xfs { [6, 12].as_slice() } else { [6, 16].as_slice() }
}

/// What is read of such a file need not be on the disk. But an error of the disk must be heard, also of a file that is quiet then.
#[test]
fn a_file_with_exact_marks_is_read_at_once_and_written_back_later() {
    let case = "a_file_with_exact_marks_is_read_at_once_and_written_back_later";
    for kind in [Kind::Ext4, Kind::Xfs] {
        if !has_large_folios(kind) {
            println!("SKIP {case}/{}: this kernel makes no large folios there", kind.name());
            continue;
        }
        let Some(mount) = Mount::new_or_skip(case, kind) else { continue };
        let source = mount.dir("source");
        fs::write(source.join("file"), vec![1; 1 << 20]).unwrap();
        let mut volume = Volume::new(&source);
        volume.environment.push(("TRACKER_WRITTEN_BACK_AFTER".into(), "3000".into()));
        let daemon = volume.start_ready();
        let file = OpenOptions::new().read(true).write(true).open(source.join("file")).unwrap();
        for block in [5, 7] {
            file.write_all_at(&[2; 100], block * 4096).unwrap();
            volume.sync(SYNC).expect(0);
        }
        assert!(dirty_pages(&file).unwrap() > 0, "{kind:?}: it was written back");
        volume.restored("copy-before");
        let began = Instant::now();
        while dirty_pages(&file).unwrap() > 0 {
            // The kernel waits for 30 s.
            assert!(began.elapsed() < Duration::from_secs(15), "{kind:?}: nobody wrote it back");
            thread::sleep(Duration::from_millis(100));
        }
        file.write_all_at(&[3; 100], 9 * 4096).unwrap();
        volume.sync(SYNC).expect(0);
        volume.restored("copy-after");
        assert!(daemon.stop().success());
    }
}

/// A page of such a file stays dirty over flushes. A write into it is no event of the page, and must be committed all the same.
#[test]
fn a_hot_file_is_not_written_back_by_each_flush() {
    let case = "a_hot_file_is_not_written_back_by_each_flush";
    for kind in [Kind::Ext4, Kind::Xfs] {
        let Some(mount) = Mount::new_or_skip(case, kind) else { continue };
        let source = mount.dir("source");
        // Page by page, so that no folio is large.
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(source.join("file")).unwrap();
        (0..16).for_each(|block| file.write_all_at(&[1; 4096], block * 4096).unwrap());
        let volume = Volume::new(&source);
        let daemon = volume.start_ready();
        let mut dirty = Vec::new();
        for round in 0..20u8 {
            file.write_all_at(&[round; 100], 5 * 4096).unwrap();
            volume.sync(SYNC).expect(0);
            dirty.push(dirty_pages(&file).unwrap());
            if round % 6 == 5 {
                volume.restored(&format!("copy-{round}"));
            }
        }
        println!("{kind:?}: dirty pages after each flush: {dirty:?}");
        assert_eq!(dirty[0], 0, "{kind:?}: the first flushes write it back");
        assert!(dirty[12..].iter().all(|pages| *pages > 0), "{kind:?}: {dirty:?}");
        assert!(daemon.stop().success());
    }
}

//! The program from end to end, with any back end that the kernel allows: for guests with other kernels (`cargo xtask vm`),
//! and for the running one. Of back ends it checks only that `doctor`, `status` and the kernel's own list of tracepoints
//! agree.

use std::fs::{self, File, OpenOptions};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use engine::source::Alive;
use rustix::fs::{FallocateFlags, XattrFlags, fallocate, inotify, setxattr};
use tests::capture_mounts::{Kind, Mount, kernel_is_from};
use tests::capture_rig::{Rig, back_end, obstacle};
use tests::daemon::{Volume, pins};
use tests::held::Held;
use tests::load::number;
use tests::mounts::{root_or_skip, skip};
use tests::raw_io::{Mapping, Pages};
use tracker::capture::mounts::kernel_dev;
use tracker::capture::quiet::slot_of;
use tracker::capture::{BackEnd, Capture, CaptureConfig};
use tracker::source::SourceRoot;

const SYNC: Duration = Duration::from_secs(60);
/// Longest start, when an emulated processor on a busy machine verifies the programs.
const READY: Duration = Duration::from_secs(240);
/// Size of the files: an emulated processor reads each of them many times.
const SIZE: usize = 1 << 18;

/// A file system of this kind, or why `test` is skipped. Whether programs can be loaded does not matter here.
fn mounted(test: &str, kind: Kind) -> Option<Mount> {
    if !root_or_skip(test) {
        return None;
    }
    let what = kind.name();
    Mount::new(kind).map_err(|reason| skip(test, what, &reason)).ok()
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn grow(source: &Path) {
    fs::create_dir_all(source.join("d/deep")).unwrap();
    for (name, bytes) in
        [("plain", 5000), ("mapped", SIZE), ("direct", SIZE), ("cut", SIZE), ("holed", SIZE), ("gone", 10)]
    {
        fs::write(source.join(name), vec![b'x'; bytes]).unwrap();
    }
    fs::write(source.join("d/deep/leaf"), "leaf").unwrap();
    fs::hard_link(source.join("plain"), source.join("d/other-name")).unwrap();
    symlink("../plain", source.join("d/symlink")).unwrap();
    open_new(&source.join("sparse")).set_len(4 << 20).unwrap();
}

fn open_new(path: &Path) -> File {
    OpenOptions::new().create_new(true).read(true).write(true).open(path).unwrap()
}

/// One change of each kind. `byte` makes each round's content different.
fn change(source: &Path, mapping: &Mapping, round: u8) {
    let byte = b'a' + round;
    open(&source.join("plain")).write_all_at(&[byte; 10], 4090).unwrap();
    mapping.store(5000, byte);
    mapping.store(SIZE - 1, byte);
    let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(source.join("direct")).unwrap();
    direct.write_all_at(&Pages([byte; 8192]).0, 65_536 * (1 + u64::from(round))).unwrap();
    let cut = open(&source.join("cut"));
    cut.set_len(100_001 + u64::from(round)).unwrap();
    cut.set_len(SIZE as u64).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(open(&source.join("holed")), punch, 98_304 * u64::from(round), 98_304).unwrap();
    open(&source.join("sparse")).write_all_at(&[byte; 5000], 2_000_000 + 200_000 * u64::from(round)).unwrap();
    // The way most programs save: a new file over the old name.
    fs::write(source.join("new"), vec![byte; 20_000]).unwrap();
    fs::rename(source.join("new"), source.join("d/saved")).unwrap();
    fs::rename(source.join(if round == 0 { "d/deep" } else { "moved0" }), source.join(format!("moved{round}")))
        .unwrap();
    fs::create_dir(source.join(format!("made{round}"))).unwrap();
    fs::write(source.join(format!("made{round}/file")), [byte; 3]).unwrap();
    if round == 0 {
        fs::remove_file(source.join("gone")).unwrap();
    }
    fs::set_permissions(source.join("plain"), fs::Permissions::from_mode(0o600 + u32::from(round))).unwrap();
    setxattr(source.join("cut"), "trusted.round", &[byte], XattrFlags::empty()).unwrap();
}

/// The back end to request: the one in TRACKER_TEST_BACK_END, or the best one.
fn asked() -> String {
    std::env::var("TRACKER_TEST_BACK_END").unwrap_or_else(|_| "auto".into())
}

/// Checks what `status` and `doctor` say of the back end; a tracepoint that they call missing must be missing.
fn explain(volume: &Volume, doctor: &serde_json::Value) {
    let (fs, status) = (&volume.name, volume.status());
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &serde_json::Value| value.as_array().unwrap().iter().map(text).collect::<Vec<_>>();
    let back_end = text(&status["backend"]);
    let (why, general) = (list(&status["reasons"]), list(&doctor["choice"]["reasons"]));
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    println!("BACK END {fs}, Linux {release}: {back_end}; status: {why:?}; doctor: {general:?}");
    assert!(back_end != "scan" || !why.is_empty(), "it scans and does not say why: {status}");
    if asked() != "auto" {
        assert_eq!(back_end, asked(), "what was asked for is taken or refused: {status}");
    } else if back_end == text(&doctor["choice"]["backend"]) {
        let Some(known) = tracepoints() else {
            println!("tracefs is not mounted: the reasons are not compared with it");
            return;
        };
        for reason in why.iter().chain(&general) {
            let Some((_, names)) = reason.split_once("lacks the tracepoints ") else { continue };
            for name in names.split(", ") {
                assert!(!known.iter().any(|known| known == name), "{name} is said to be missing and is there");
            }
        }
    } else {
        assert_eq!(back_end, "scan", "a volume may do worse than the kernel could, with a reason: {status} {doctor}");
    }
}

/// The tracepoints of the running kernel, from its own list; guests have one.
fn tracepoints() -> Option<Vec<String>> {
    let folders = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"];
    let systems = folders.iter().find_map(|folder| fs::read_dir(folder).ok())?;
    let events = systems.flatten().filter_map(|system| fs::read_dir(system.path()).ok());
    Some(events.flatten().flatten().map(|event| event.file_name().to_string_lossy().into_owned()).collect())
}

/// On every file system: changes of each kind, `sync --wait`, `restore`, comparison, twice. The daemons use one state
/// directory in turn, so that the programs are loaded once: an emulated processor takes most of a minute to verify them.
#[test]
fn protects_and_restores_on_every_file_system() {
    let test = "protects_and_restores_on_every_file_system";
    // Mount all before capture starts: a driver that is loaded later adds tracepoints, which would cause a fresh start.
    let kinds = [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Overlay];
    let mounts: Vec<Mount> = kinds.into_iter().filter_map(|kind| mounted(test, kind)).collect();
    let mut volumes: Vec<Volume> = Vec::new();
    let mut doctor = None;
    for mount in &mounts {
        let source = mount.root().join("source");
        fs::create_dir(&source).unwrap();
        grow(&source);
        let mut volume = Volume::new(&source);
        volume.name = mount.kind.name().to_owned();
        volume.extra.extend(["--capture".into(), asked()]);
        volume.keep_tracking();
        if let Some(first) = volumes.first() {
            volume.state.clone_from(&first.state);
        }
        // Ask once what the machine can do: it costs the trial of a program of each kind.
        let said = doctor.get_or_insert_with(|| volume.tracker(&["doctor", "--json"]).json());
        protects_and_restores(&volume, said);
        volumes.push(volume);
    }
}

fn protects_and_restores(volume: &Volume, doctor: &serde_json::Value) {
    let source = &volume.source;
    let mut daemon = volume.start();
    daemon.wait_ready(READY);
    explain(volume, doctor);
    let mapping = Mapping::new(&open(&source.join("mapped")), SIZE).unwrap();
    for round in 0..2 {
        change(source, &mapping, round);
        volume.sync(SYNC).expect(0);
        volume.restored(&format!("copy{round}"));
    }
    assert!(daemon.stop().success());
}

/// Before Linux 6.13 the change time of a file moves with the timer tick (1 to 10 ms), so a write that follows a read
/// within one tick leaves the time that the read saw. A file is written all the time, and once more as soon as a scan has
/// read it: the old content must not be taken for the present file. On tmpfs, because nothing there takes as long as a
/// tick.
#[test]
fn scans_see_writes_within_one_tick_of_the_clock() {
    let name = "scans_see_writes_within_one_tick_of_the_clock";
    let Some(mount) = mounted(name, Kind::Tmpfs) else { return };
    let source = mount.root().join("source");
    fs::create_dir(&source).unwrap();
    let path = source.join("file");
    let file = open_new(&path);
    file.write_all_at(&[0; 8], 0).unwrap();
    let mut volume = Volume::new(&source);
    volume.extra.extend(["--capture".into(), "scan".into()]);
    let daemon = volume.start_ready();
    let mut count = 0u64;
    for round in 0..8 {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&watch, &path, inotify::WatchFlags::CLOSE_NOWRITE).unwrap();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut closed = inotify::Reader::new(&watch, &mut buffer);
        let deadline = Instant::now() + SYNC;
        loop {
            let read = closed.next().is_ok();
            count += 1;
            file.write_all_at(&count.to_le_bytes(), 0).unwrap();
            if read {
                break;
            }
            assert!(Instant::now() < deadline, "no scan reads the file");
        }
        volume.sync(SYNC).expect(0);
        volume.restored(&format!("copy{round}"));
    }
    assert!(daemon.stop().success());
}

/// Writes to what is dirty already, and first stores to it through a mapping, mark no block: where an instant is looked for, each is
/// counted all the same.
#[test]
fn every_write_is_counted_while_an_instant_is_looked_for() {
    let name = "every_write_is_counted_while_an_instant_is_looked_for";
    if back_end() == BackEnd::Tracepoint {
        return skip(name, "functions", "the back end of this kernel counts by change times");
    }
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        let Some(mut rig) = Rig::new(&format!("{name}/{}", kind.name()), kind) else { continue };
        let slot = slot_of("v");
        let file = open_new(&rig.path("file"));
        file.write_all_at(&[1; 8192], 0).unwrap();
        let ino = rig.ino("file");
        let dev = rig.dev;
        let capture = rig.capture();
        assert!(capture.counts_every_change(), "{kind:?}");
        capture.watch_in(slot, &[(dev, ino)]).unwrap();
        let probe = capture.quiet_probe().unwrap();
        let mut before = probe.changes(slot);
        assert_eq!(probe.changes(slot), before, "{kind:?}: nothing changes");
        for byte in 2..52 {
            file.write_all_at(&[byte], 10).unwrap();
            let now = probe.changes(slot);
            assert!(now > before, "{kind:?}: write {byte} is not counted");
            before = now;
        }
        let mapping = Mapping::new(&file, 8192).unwrap();
        mapping.store(4096, 9);
        assert!(probe.changes(slot) > before, "{kind:?}: a store to a dirty page is not counted");
    }
}

/// Whether a removed file lives is asked of its handle. ext4 and btrfs then make an inode with its number for a moment and set its
/// times: that is marked, and counted as a change only if somebody else asks.
#[test]
fn asking_whether_a_file_lives_is_no_change() {
    let name = "asking_whether_a_file_lives_is_no_change";
    if let Some(reason) = obstacle() {
        return skip(name, "ebpf", reason);
    }
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        let Some(mut rig) = Rig::new(&format!("{name}/{}", kind.name()), kind) else { continue };
        let slot = slot_of("v");
        drop(open_new(&rig.path("file")));
        let (ino, dev) = (rig.ino("file"), rig.dev);
        let source = SourceRoot::open(&rig.path("")).unwrap();
        let inode = source.stat(Path::new("file")).unwrap().stat.inode;
        let handle = source.handle(Path::new("file"), inode).unwrap().unwrap();
        fs::remove_file(rig.path("file")).unwrap();
        // Nobody else has it in memory any more.
        source.sync().unwrap();
        rig.capture().watch_in(slot, &[(dev, ino)]).unwrap();
        rig.drain();
        let probe = rig.capture().quiet_probe().unwrap();
        let before = probe.changes(slot);
        for _ in 0..5 {
            assert_eq!(source.alive(&handle), Alive::Gone);
        }
        assert_eq!(probe.changes(slot), before, "{kind:?}: asking is counted");
        let retired = rig.drain();
        // Else nothing happens that could be counted.
        let expected = kind != Kind::Xfs && kernel_is_from(6, 13);
        assert!(!expected || rig.marks(&retired, ino).flags != 0, "{kind:?}: asking is not marked");
    }
}

/// The fentry programs stop seeing the file system while the daemon runs, as if faulty, and their next self-test fails. The
/// same process fails over to kprobe, and is degraded with a reason until everything was compared and kprobe has passed its
/// self-test. No change is missed: neither before the failover, nor during it, nor afterwards.
#[test]
fn a_blind_fentry_makes_way_for_kprobe() {
    let name = "a_blind_fentry_makes_way_for_kprobe";
    if asked() != "auto" {
        return skip(name, "fallback", "another back end was asked for");
    }
    if let Some(reason) = obstacle() {
        return skip(name, "ebpf", reason);
    }
    if back_end() != BackEnd::Fentry {
        return skip(name, "fallback", &format!("the best back end here is {}", back_end().name()));
    }
    if rustix::system::uname().release().to_string_lossy().starts_with("6.1.") {
        return skip(name, "fallback", "the programs of two back ends are verified, which one guest is enough for");
    }
    let Some(mount) = mounted(name, Kind::Ext4) else { return };
    let source = mount.root().join("source");
    fs::create_dir(&source).unwrap();
    grow(&source);
    for file in ["busy", "held"] {
        fs::write(source.join(file), vec![1; SIZE]).unwrap();
    }
    let mapping = Mapping::new(&open(&source.join("mapped")), SIZE).unwrap();
    let mut volume = Volume::new(&source);
    volume.environment.push(("TRACKER_SELF_TEST_GAP".into(), "2000".into()));
    let mut daemon = volume.start();
    daemon.wait_ready(READY);
    let status = volume.status_when("the first self-test", SYNC, |status| status["self_test_passed"] == true);
    assert_eq!((&status["backend"], &status["state"]), (&"fentry".into(), &"protected".into()), "{status}");
    assert_eq!(number(&status, "rescans"), 0, "{status}");

    // No pass over the volume can complete before this is dropped, so that the degraded state can be seen.
    let Some(held) = Held::new(name, &source.join("held")) else { return };
    let config = CaptureConfig::new(pins(&volume.state).unwrap(), BackEnd::Fentry);
    let capture = Capture::take_over(&config).expect("the daemon's pins");
    capture.untrack(kernel_dev(mount.real()).unwrap()).unwrap();
    drop(capture);
    change(&source, &mapping, 0);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = Ending(&over);
        scope.spawn(|| write_until(&over, &source.join("busy")));
        let named = |status: &serde_json::Value| status["reasons"].to_string().contains("fentry was given up");
        let status = volume.status_when("the failure", READY, named);
        println!("FALLBACK {}: {}; {}", status["state"], status["backend"], status["reasons"]);
        assert_eq!((&status["backend"], &status["state"]), (&"kprobe".into(), &"degraded".into()), "{status}");
        assert!(status["reasons"].to_string().contains("was not seen by fentry"), "{status}");
        assert_eq!(number(&status["capture_failures"], "self-test failed"), 1, "{status}");
        assert_ne!(volume.sync(Duration::from_secs(1)).code, Some(0), "synced before everything was compared");
        drop(held);
        volume.status_when("the end of the comparison", READY, |status| {
            status["state"] == "protected" && status["self_test_passed"] == true
        });
    });
    volume.sync(SYNC).expect(0);
    volume.restored("copy0");
    let before = volume.status();
    assert_eq!(before["backend"], "kprobe");
    change(&source, &mapping, 1);
    volume.sync(SYNC).expect(0);
    volume.restored("copy1");
    let after = volume.status();
    assert_eq!((&before["rescans"], &after["state"]), (&after["rescans"], &"protected".into()), "{after}");
    assert!(daemon.stop().success());
}

/// Ends the writer also if the test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes one block after the other, everywhere in the file.
fn write_until(over: &AtomicBool, path: &Path) {
    let file = open(path);
    for count in 0u64.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        file.write_all_at(&count.to_le_bytes(), count * 4096 % SIZE as u64).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
}

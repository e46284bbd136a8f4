//! What a process leaves on the host when it ends: nothing, or what is meant to be taken over, for a limited time. And what
//! it reports of changes that it could not commit or save.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use engine::model::Ino;
use rustix::process::{Pid, Signal, kill_process};
use tests::capture_rig::{Rig, config};
use tests::daemon::{Volume, pins, utf8};
use tests::mounts::{Kind, Mount, SmallStore};
use tracker::capture::{Capture, CaptureConfig, Lease, MapEntries, Started, Why, pin_sets};

const SYNC: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(30);

fn tracked(volume: &Volume) -> Option<PathBuf> {
    pins(&volume.state).filter(|pins| pins.exists())
}

/// After a clean stop the kernel is as before; changes until the next start are found by comparing.
#[test]
fn a_clean_stop_leaves_nothing_in_the_kernel() {
    let name = "a_clean_stop_leaves_nothing_in_the_kernel";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), vec![1; 100_000]).unwrap();
    fs::write(source.join("gone"), "gone").unwrap();
    let volume = Volume::new(&source);
    let daemon = volume.start_ready();
    assert!(tracked(&volume).is_some());
    assert!(daemon.stop().success());
    assert_eq!(tracked(&volume), None);

    let file = fs::File::options().write(true).open(source.join("file")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"nobody looks", 50_000).unwrap();
    fs::remove_file(source.join("gone")).unwrap();
    fs::write(source.join("new"), "new").unwrap();
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    volume.restored("copy");
    // Being interrupted is no reason to leave something either.
    kill_process(Pid::from_raw(daemon.pid() as i32).unwrap(), Signal::INT).unwrap();
    let mut daemon = daemon;
    assert_eq!(daemon.wait_end(SOON).expect("its end").code(), Some(130));
    assert_eq!(tracked(&volume), None);
}

/// A failed start leaves nothing, even for a volume that is meant to come back.
#[test]
fn a_start_that_fails_leaves_nothing_in_the_kernel() {
    let name = "a_start_that_fails_leaves_nothing_in_the_kernel";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), "file").unwrap();
    let mut volume = Volume::new(&source);
    volume.keep_tracking();
    // Another writer has it.
    let other = Volume::new(&source);
    volume.store.clone_from(&other.store);
    assert!(other.start_ready().stop().success());
    volume.protect_ends().refuses(11, "another writer");
    assert_eq!(tracked(&volume), None);
}

/// While it waits for a store's first answer nothing is attached yet, so ending it then leaves nothing.
#[test]
fn nothing_is_attached_before_the_store_has_answered() {
    let name = "nothing_is_attached_before_the_store_has_answered";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), "file").unwrap();
    let mut volume = Volume::new(&source);
    volume.store = "s3://bucket/prefix".into();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
    ];
    volume.environment.extend(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let daemon = volume.start();
    let (_asked, _) = silent.accept().unwrap();
    assert_eq!(tracked(&volume), None, "{}", volume.log_tail());
    daemon.kill9();
    assert_eq!(tracked(&volume), None);
}

/// A signal is handled at every moment of a start: whatever is attached by then is detached.
#[test]
fn a_signal_while_it_starts_leaves_nothing_in_the_kernel() {
    let name = "a_signal_while_it_starts_leaves_nothing_in_the_kernel";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), "file").unwrap();
    for (signal, code) in [(Signal::TERM, 0), (Signal::INT, 130)] {
        let volume = Volume::new(&source);
        let mut daemon = volume.start();
        let begun = Instant::now();
        while tracked(&volume).is_none() {
            assert!(begun.elapsed() < SOON, "{}", volume.log_tail());
            thread::sleep(Duration::from_millis(1));
        }
        kill_process(Pid::from_raw(daemon.pid() as i32).unwrap(), signal).unwrap();
        let ended = daemon.wait_end(SOON).expect("its end");
        assert_eq!((ended.code(), tracked(&volume)), (Some(code), None), "{}", volume.log_tail());
    }
}

/// If somebody removes the state directory, that is reported at once, not only at the next start.
#[test]
fn a_state_directory_that_is_removed_under_a_daemon_is_told() {
    let name = "a_state_directory_that_is_removed_under_a_daemon_is_told";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), "file").unwrap();
    let volume = Volume::new(&source);
    let daemon = volume.start_ready();
    let away = volume.scratch("away");
    fs::rename(&volume.state, &away).unwrap();
    let begun = Instant::now();
    while !volume.log_tail().contains("the state directory was removed or replaced") {
        assert!(begun.elapsed() < SOON, "{}", volume.log_tail());
        thread::sleep(Duration::from_millis(20));
    }
    fs::rename(&away, &volume.state).unwrap();
    fs::write(source.join("later"), "later").unwrap();
    volume.sync(SYNC).expect(0);
    assert!(daemon.stop().success());
}

/// Errors that can be detected before anything is attached are detected before.
#[test]
fn a_metrics_port_that_is_taken_attaches_nothing() {
    let name = "a_metrics_port_that_is_taken_attaches_nothing";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), "file").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut volume = Volume::new(&source);
    volume.keep_tracking();
    volume.extra.extend(["--metrics-listen".into(), taken.local_addr().unwrap().to_string()]);
    volume.protect_ends().refuses(1, "cannot serve metrics");
    assert_eq!(tracked(&volume), None);
}

/// Captures that stay are listed, with owner and lease, and can be removed, but not under a live daemon.
#[test]
fn what_stays_in_the_kernel_is_listed_and_removed() {
    let name = "what_stays_in_the_kernel_is_listed_and_removed";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), vec![1; 100_000]).unwrap();
    let mut volume = Volume::new(&source);
    volume.keep_tracking();
    let daemon = volume.start_ready();
    let id = tracked(&volume).unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let listed = |verb: &str| {
        let line = volume.tracker(&[verb, "--json"]).json();
        let all = line["tracking"].as_array().unwrap().clone();
        all.into_iter().find(|set| set["id"] == id.as_str()).expect("it is listed")
    };
    let set = listed("status");
    assert_eq!((&set["state_dir"]["path"], &set["daemon"]), (&utf8(&volume.state).into(), &"alive".into()), "{set}");
    assert_eq!(set["pid"], daemon.pid(), "{set}");
    let bytes = set["kernel_bytes"].as_u64().unwrap();
    assert!(bytes > 0 && bytes <= 8 << 20, "an idle small volume holds {bytes} bytes in the kernel");
    volume.tracker(&["untrack", &id]).refuses(22, "alive");
    assert!(daemon.stop().success());

    assert!(tracked(&volume).is_some(), "it is meant to come back");
    fs::write(source.join("meanwhile"), "marked").unwrap();
    let daemon = volume.start_ready();
    assert!(volume.log_tail().contains("with the back end chosen last time"), "{}", volume.log_tail());
    volume.sync(SYNC).expect(0);
    volume.restored("copy");
    assert!(daemon.stop().success());

    let set = listed("doctor");
    assert_eq!(set["daemon"], "gone", "{set}");
    let lease = set["lease_left_seconds"].as_u64().unwrap();
    assert!((80_000..=86_400).contains(&lease), "{set}");
    volume.tracker(&["untrack"]).expect(0);
    assert_eq!(tracked(&volume), None);
    volume.tracker(&["untrack", &id]).refuses(10, "nothing is tracked");
}

/// The configuration of a separate capture below `root`, as a tracker with another state directory would have it.
fn leased(root: &Path, lasts: Duration) -> CaptureConfig {
    let lease = Some(Lease { state_dir: "/nowhere".into(), lasts });
    CaptureConfig { pin_dir: root.join("set"), lease, ..config() }
}

/// Programs stop marking if nobody comes back; a process that comes later is told, and others remove what is left.
#[test]
fn marks_cease_when_the_lease_is_over() {
    let name = "marks_cease_when_the_lease_is_over";
    let Some(rig) = Rig::new(name, Kind::Ext4) else { return };
    let root = PathBuf::from(format!("/sys/fs/bpf/tracker-test-{}-leases", std::process::id()));
    let wanted = leased(&root, Duration::from_millis(800));
    let file = rig.path("file");
    fs::write(&file, [1; 4096]).unwrap();
    let ino = rig.ino("file");

    let (capture, started) = Capture::start(&wanted).unwrap();
    assert_eq!(started, Started::Fresh(Why::NoPins));
    capture.track(rig.dev, false).unwrap();
    capture.watch(&[(rig.dev, ino)]).unwrap();
    // Renewed while the process lives.
    thread::sleep(Duration::from_millis(1200));
    fs::write(&file, [2; 4096]).unwrap();
    drop(capture);
    let (mut capture, started) = Capture::start(&wanted).unwrap();
    assert_eq!(started, Started::Resumed, "within the lease");
    capture.swap().unwrap();
    capture.grace().unwrap();
    let retired = capture.read_retired().unwrap();
    assert!(retired.inodes.contains_key(&(rig.dev, ino)), "marked under a lease that holds");
    capture.clear_retired().unwrap();
    assert_eq!(capture.health().unwrap().problems, []);
    drop(capture);

    assert!(!pin_sets::list(&root).unwrap()[0].is_over());
    thread::sleep(Duration::from_millis(1000));
    let set = pin_sets::list(&root).unwrap().remove(0);
    assert_eq!(set.owner.as_ref().unwrap().state_dir, Path::new("/nowhere"));
    // It belongs to this process, which lives: no other may judge it.
    assert!(!set.is_over());
    fs::write(&file, [3; 4096]).unwrap();
    let (capture, started) = Capture::start(&wanted).unwrap();
    assert_eq!(started, Started::Fresh(Why::LeaseOver), "what was not marked must be compared");
    capture.detach().unwrap();
    assert_eq!(pin_sets::list(&root).unwrap(), []);
    fs::remove_dir(&root).unwrap();
}

/// Another start on the host removes a set that nobody came back for.
#[test]
fn a_set_that_nobody_came_back_for_is_removed_by_another_start() {
    let name = "a_set_that_nobody_came_back_for_is_removed_by_another_start";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let (one, two) = (mount.dir("one"), mount.dir("two"));
    let mut gone = Volume::new(&one);
    gone.extra.extend(["--tracking-lease".into(), "5s".into()]);
    gone.start_ready().kill9();
    assert!(tracked(&gone).is_some());
    thread::sleep(Duration::from_millis(5500));
    fs::write(one.join("unseen"), "by nobody").unwrap();
    let other = Volume::new(&two);
    assert!(other.start_ready().stop().success());
    assert_eq!(tracked(&gone), None);
    let back = gone.start_ready();
    gone.sync(SYNC).expect(0);
    gone.restored("copy");
    assert!(back.stop().success());
}

/// A process that was suspended beyond its lease (a frozen cgroup, a debugger) finds that changes were not marked, and
/// compares.
#[test]
fn a_daemon_that_was_held_beyond_its_lease_compares() {
    let name = "a_daemon_that_was_held_beyond_its_lease_compares";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), vec![1; 100_000]).unwrap();
    let mut volume = Volume::new(&source);
    volume.extra.extend(["--tracking-lease".into(), "5s".into()]);
    let daemon = volume.start_ready();
    let pid = Pid::from_raw(daemon.pid() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    thread::sleep(Duration::from_millis(5500));
    fs::write(source.join("file"), vec![2; 100_000]).unwrap();
    fs::write(source.join("new"), "marked by nobody").unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    let paused = |status: &serde_json::Value| status["rescan_reasons"]["tracking paused"].as_u64().is_some();
    volume.status_when("the pause", SOON, paused);
    volume.sync(SYNC).expect(0);
    volume.restored("copy");
    assert!(daemon.stop().success());
}

/// Nothing is attached beyond the limit on kernel memory: by default the volume scans and says why; if a back end is
/// requested by name, the start is refused.
#[test]
fn no_more_kernel_memory_is_taken_than_allowed() {
    let name = "no_more_kernel_memory_is_taken_than_allowed";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    let mut volume = Volume::new(&source);
    volume.extra.extend(["--tracking-memory".into(), "4MiB".into()]);
    let daemon = volume.start_ready();
    let status = volume.status();
    assert_eq!(status["backend"], "scan");
    assert!(status["reasons"].to_string().contains("tracking-memory"), "{status:#}");
    assert_eq!(tracked(&volume), None);
    drop(daemon);
    let mut forced = Volume::new(&source);
    forced.extra.extend(["--tracking-memory".into(), "4MiB".into(), "--capture".into(), "tracepoint".into()]);
    forced.protect_ends().refuses(1, "kernel maps");
}

/// Maps cost memory only for what they hold.
#[test]
fn an_idle_capture_is_small() {
    let name = "an_idle_capture_is_small";
    let wanted = CaptureConfig { entries: MapEntries::default(), ..config() };
    let Some(mut rig) = Rig::with(name, Kind::Ext4, &wanted) else { return };
    let idle = rig.capture().kernel_memory_bytes();
    let said = wanted.entries.idle_bytes();
    println!("{name}: {idle} bytes");
    assert!(idle <= 8 << 20, "{idle}");
    assert!(idle.abs_diff(said) < said / 20, "{idle} bytes, and {said} were reckoned");
    let many: Vec<_> = (1..=50_000).map(|ino| (rig.dev, Ino(ino))).collect();
    rig.capture().watch(&many).unwrap();
    let full = rig.capture().kernel_memory_bytes();
    assert!(full >= idle + 50_000 * 60, "{full} bytes with 50,000 inodes, {idle} without");
    assert!(full <= wanted.entries.largest_bytes(), "{full}");
    rig.capture().unwatch(&many).unwrap();
    assert!(rig.capture().kernel_memory_bytes() < idle + 100_000);
}

/// The store is full at the end: what could not be committed is reported, with its own exit code, within the configured
/// time.
#[test]
fn a_stop_says_what_it_could_not_commit() {
    let name = "a_stop_says_what_it_could_not_commit";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), "before").unwrap();
    let small = SmallStore::new(8 << 20);
    let mut volume = Volume::new(&source);
    volume.store = small.path().join("store");
    volume.extra.extend(["--stop-timeout".into(), "2s".into()]);
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = volume.start_ready();
        small.remount("ro");
        fs::write(source.join("important"), vec![signal.as_raw() as u8; 300_000]).unwrap();
        let begun = std::time::Instant::now();
        kill_process(Pid::from_raw(daemon.pid() as i32).unwrap(), signal).unwrap();
        let code = daemon.wait_end(SOON).expect("its end").code();
        assert_eq!(code, Some(3), "{signal:?}\n{}", volume.log_tail());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let log = volume.log_tail();
        assert!(log.contains("error: volume v: changes of at least 1 file are"), "{log}");
        small.remount("rw");
    }
    // A second signal ends it at once.
    let mut daemon = volume.start_ready();
    small.remount("ro");
    fs::write(source.join("important"), "again").unwrap();
    let pid = Pid::from_raw(daemon.pid() as i32).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    thread::sleep(Duration::from_millis(300));
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(daemon.wait_end(Duration::from_millis(1900)).and_then(|status| status.code()), Some(130));
    small.remount("rw");

    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    volume.restored("copy");
    assert_eq!(daemon.stop().code(), Some(0), "everything is committed");
}

/// The disk of the state directory is full: changes that cannot be saved count from the first one, and the volume is not
/// ready until there is room; then it recovers by itself.
#[test]
fn changes_that_cannot_be_saved_are_told_until_there_is_room() {
    let name = "changes_that_cannot_be_saved_are_told_until_there_is_room";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    for file in 0..50 {
        fs::write(source.join(format!("file{file}")), vec![file; 20_000]).unwrap();
    }
    let small = SmallStore::new(6 << 20);
    let mut volume = Volume::new(&source);
    volume.state = small.path().join("state");
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    let filler = small.path().join("filler");
    let _ = fs::write(&filler, vec![0; 8 << 20]);
    // The room in its last pages is used up first.
    let mut changed = 0u32;
    let full = loop {
        changed += 1;
        assert!(changed < 400, "the state directory is never full");
        fs::write(source.join(format!("new{changed}")), vec![9; 20_000]).unwrap();
        thread::sleep(Duration::from_millis(50));
        let status = volume.try_status().unwrap_or_default();
        if status["unsaved_inodes"].as_u64().is_some_and(|inodes| inodes > 0) {
            break status;
        }
    };
    assert!(full["reasons"].to_string().contains("cannot be written"), "{full:#}");
    let window = |status: &serde_json::Value| status["loss_window_seconds"].as_f64().unwrap();
    let first = window(&full);
    let status = volume.status_when("the loss window grows", SOON, |status| window(status) > first + 2.0);
    assert_eq!(status["state"], "degraded", "{status:#}");
    assert!(status["pending_inodes"].as_u64().unwrap() > 0, "{status:#}");

    fs::remove_file(&filler).unwrap();
    volume.status_when("it heals", SOON, |status| status["unsaved_inodes"] == 0 && status["pending_inodes"] == 0);
    volume.sync(SYNC).expect(0);
    assert_eq!(volume.status()["state"], "protected");
    volume.restored("copy");
    assert!(daemon.stop().success());
}

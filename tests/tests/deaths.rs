//! The daemon dies at each step of a drain and of a flush, and continues in the same boot from its marks alone.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tests::compare::{Options, compare};
use tests::daemon::{Volume, pins};
use tests::load::{Random, number};
use tests::mounts::{Kind, Mount};

const SYNC: Duration = Duration::from_secs(30);

/// Every step in its order: the drain's five, then the flush's.
const STEPS: [&str; 13] = [
    "swap",
    "grace",
    "read-retired",
    "pending",
    "clear",
    "names",
    "read",
    "pack",
    "before-intent",
    "intent",
    "put",
    "before-settle",
    "settle",
];

/// Writes, creates, renames and removes until it is told to stop.
fn load(source: &std::path::Path, stop: &AtomicBool, seed: u64) {
    let mut random = Random::new(seed);
    let file = File::options().write(true).open(source.join("file")).unwrap();
    let mut round = 0u64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        file.write_all_at(&random.bytes(3000), random.below(4 << 20)).unwrap();
        let name = source.join(format!("new{}", random.below(20)));
        match random.below(4) {
            0 => drop(fs::rename(&name, source.join(format!("new{}", random.below(20))))),
            1 => drop(fs::remove_file(&name)),
            _ => fs::write(&name, random.bytes(9000)).unwrap(),
        }
        // Enough for a separate pack, which small commits do not need.
        if round.is_multiple_of(8) {
            fs::write(source.join("large"), random.bytes(400_000)).unwrap();
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The daemon dies at each step while a load runs that outlives it: the next process compares nothing, and the restored
/// tree equals the source.
#[test]
fn a_death_at_any_step_loses_nothing_and_compares_nothing() {
    let name = "a_death_at_any_step_loses_nothing_and_compares_nothing";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), vec![1; 4 << 20]).unwrap();
    let mut volume = Volume::new(&source);
    volume.keep_tracking();
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    assert!(daemon.stop().success());
    for (at, step) in (0..).zip(STEPS) {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| load(&source, &stop, at));
            // Not at the first time: what the last process left is handled by the same steps.
            volume.environment = vec![("TRACKER_FAILPOINT".into(), format!("{step}:3"))];
            let mut daemon = volume.start();
            let status = daemon.wait_end(Duration::from_secs(40));
            drop(daemon);
            volume.environment.clear();
            let status = status.unwrap_or_else(|| {
                stop.store(true, Ordering::Relaxed);
                panic!("{step} was not passed three times")
            });
            if status.success() {
                stop.store(true, Ordering::Relaxed);
                panic!("{step}: it did not die");
            }
            // Marks are still made while nobody drains.
            thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
        });
        let daemon = volume.start_ready();
        volume.sync(SYNC).expect(0);
        let status = volume.status();
        assert_eq!((number(&status, "rescans"), &status["state"]), (0, &"protected".into()), "{step}: {status:#}");
        assert_eq!(status["rescan_reasons"], serde_json::json!({}), "{step}: {status:#}");
        let copy = volume.restored(&format!("copy-{step}"));
        fs::remove_dir_all(&copy).unwrap();
        assert!(daemon.stop().success());
    }
}

/// A set that a start takes over without trying back ends must be complete: a program whose pin is gone ended with the
/// process that held it.
#[test]
fn a_choice_is_taken_over_only_with_every_program() {
    let name = "a_choice_is_taken_over_only_with_every_program";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), vec![1; 100_000]).unwrap();
    let mut volume = Volume::new(&source);
    volume.keep_tracking();
    assert!(volume.start_ready().stop().success());
    let overwrite = |text: &[u8], at| {
        File::options().write(true).open(source.join("file")).unwrap().write_all_at(text, at).unwrap();
    };

    overwrite(b"seen while nobody runs", 10_000);
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    assert_eq!(number(&volume.status(), "rescans"), 0);
    assert_eq!(volume.log_tail().matches("with the back end chosen last time").count(), 1, "{}", volume.log_tail());
    assert_eq!(volume.log_tail().matches("capture is attached").count(), 1, "{}", volume.log_tail());
    assert!(daemon.stop().success());

    let link = fs::read_dir(pins(&volume.state).unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.file_name().unwrap().to_str().unwrap().starts_with("link_") && path.ends_with("link_dirty_folio")
        })
        .unwrap();
    fs::remove_file(link).unwrap();
    overwrite(b"seen by nobody", 50_000);
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    assert!(volume.log_tail().contains("started=Fresh"), "{}", volume.log_tail());
    let copy = volume.scratch("copy");
    volume.restore(&copy).expect(0);
    assert_eq!(compare(&source, &copy, Options::default()).unwrap(), [""; 0]);
    assert!(daemon.stop().success());
}

/// Programs of another kernel object are not taken over: after an upgrade a corrected hook is in place, and everything is
/// compared, since nothing was marked while the sets were exchanged.
#[test]
fn an_upgrade_replaces_the_programs_of_another_object() {
    let test = "an_upgrade_replaces_the_programs_of_another_object";
    let Some(mount) = Mount::new_or_skip(test, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), vec![1; 100_000]).unwrap();
    let mut volume = Volume::new(&source);
    volume.start_ready().kill9();
    fs::write(source.join("meanwhile"), "with the programs of before").unwrap();
    // After its last section an ELF file may contain anything: this one works the same, but is another object.
    let object = volume.scratch("object");
    let mut bytes = tracker::capture::object().unwrap().to_vec();
    bytes.extend([0; 64]);
    fs::write(&object, bytes).unwrap();
    volume.environment.push(("TRACKER_EBPF_OBJECT".into(), object.display().to_string()));
    {
        let _daemon = volume.start_ready();
        let log = volume.log_tail();
        assert!(log.contains("OtherObject"), "{log}");
        File::options().write(true).open(source.join("file")).unwrap().write_all_at(&[2; 100], 50_000).unwrap();
        volume.sync(SYNC).expect(0);
        volume.restored("upgraded");
    }
    let again = volume.start_ready();
    assert_eq!(number(&volume.status(), "rescans"), 0, "the same object is taken over");
    again.stop();
}

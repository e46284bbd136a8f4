//! Captures that miss changes, found by the self-test and by the scrub, and what the volume does then.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::compare::{Options, compare};
use tests::daemon::{Volume, pins};
use tests::load::number;
use tests::mounts::{Kind, Mount};
use tracker::capture::{BackEnd, Capture, CaptureConfig};
use tracker::source::SourceRoot;

const SYNC: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(60);

fn back_end(status: &Value) -> BackEnd {
    let name = status["backend"].as_str().unwrap();
    BackEnd::WITH_PROGRAMS.into_iter().find(|back_end| back_end.name() == name).expect("a back end with programs")
}

fn overwrite(volume: &Volume, name: &str, text: &[u8], offset: u64) {
    File::options().write(true).open(volume.source.join(name)).unwrap().write_all_at(text, offset).unwrap();
}

/// The programs stop seeing the file system while the daemon runs, as if faulty, and nothing reports it. The next self-test
/// notices; changes made meanwhile are found, and the volume continues with another back end.
#[test]
fn a_capture_that_goes_blind_is_found_and_replaced() {
    let name = "a_capture_that_goes_blind_is_found_and_replaced";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), vec![1; 300_000]).unwrap();
    fs::write(source.join("other"), "other").unwrap();
    let mut volume = Volume::new(&source);
    volume.environment.push(("TRACKER_SELF_TEST_GAP".into(), "700".into()));
    let daemon = volume.start_ready();
    let status = volume.status_when("the first self-test", LONG, |status| status["self_test_passed"] == true);
    let kinds: Vec<&str> = status["self_test_kinds"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for kind in ["a write", "a store through a mapping", "a direct write", "a punched hole", "a change of mode"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
    assert_eq!((number(&status, "rescans"), &status["state"]), (0, &Value::from("protected")));
    let tests = number(&status, "self_tests");
    volume.status_when("more self-tests", LONG, |status| number(status, "self_tests") > tests + 2);
    let first = back_end(&status);

    let config = CaptureConfig::new(pins(&volume.state).unwrap(), first);
    let capture = Capture::take_over(&config).expect("the daemon's pins");
    capture.untrack(SourceRoot::open(&source).unwrap().marks_dev()).unwrap();
    drop(capture);
    overwrite(&volume, "file", b"nobody sees this", 70_000);
    fs::write(source.join("new"), "nor this").unwrap();

    let status =
        volume.status_when("the failure", LONG, |status| !status["capture_failures"]["self-test failed"].is_null());
    assert_ne!(status["backend"].as_str(), Some(first.name()), "{status:#}");
    let text = status["reasons"].to_string();
    assert!(text.contains("was not seen") && text.contains(first.name()), "{text}");
    let replaced = status["backend"] != "scan";
    let answer = volume.sync(SYNC);
    if replaced {
        volume.status_when("the end of the comparison", LONG, |status| {
            status["state"] == "protected" && status["self_test_passed"] == true
        });
    } else {
        assert_eq!(volume.status()["state"], "degraded");
        assert!(answer.stdout.contains("was not seen") || answer.stderr.contains("was not seen"), "{answer:?}");
    }
    volume.restored("copy");

    // It continues.
    overwrite(&volume, "file", b"and this is seen", 140_000);
    fs::remove_file(source.join("other")).unwrap();
    volume.sync(SYNC);
    volume.restored("second copy");
    assert!(daemon.stop().success());

    // The next process starts with the best back end again, which passes its self-test.
    let daemon = volume.start_ready();
    let status = volume.status_when("the first self-test", LONG, |status| status["self_test_passed"] == true);
    assert_eq!((back_end(&status), &status["state"]), (first, &Value::from("protected")));
    volume.sync(SYNC).expect(0);
    volume.restored("third copy");
    assert!(daemon.stop().success());
}

/// Single marks are lost. Without the scrub nothing reports it, and the restored tree is wrong; with it the volume is
/// degraded, everything is compared, and another back end takes over.
#[test]
fn the_scrub_finds_lost_marks() {
    let name = "the_scrub_finds_lost_marks";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    for (scrub, finds) in [("off", false), ("200000%", true)] {
        let source = mount.dir(&format!("source-{finds}"));
        for file in 0..40 {
            fs::write(source.join(format!("small{file}")), vec![file; 5000]).unwrap();
        }
        fs::write(source.join("large"), vec![9; 6 << 20]).unwrap();
        let mut volume = Volume::new(&source);
        volume.environment.push(("TRACKER_DROP_MARKS".into(), "5".into()));
        volume.environment.push(("TRACKER_SCRUB_MAX".into(), "1e8".into()));
        volume.extra.extend(["--scrub".into(), scrub.into()]);
        let daemon = volume.start_ready();
        if finds {
            let status = volume.status_when("a whole scrub", LONG, |status| number(status, "scrubbed_bytes") > 7 << 20);
            assert_eq!(number(&status, "scrub_differences"), 0, "nothing has changed yet: {status:#}");
            assert_eq!((number(&status, "rescans"), &status["state"]), (0, &Value::from("protected")));
        }
        for block in 0..10 {
            overwrite(&volume, "large", b"a change", block * 3 * 131_072 + 5);
        }
        if finds {
            let status = volume.status_when("a difference", LONG, |status| number(status, "scrub_differences") > 0);
            assert_eq!(
                (&status["capture_failures"]["scrub"], &status["rescan_reasons"]["scrub"]),
                (&1.into(), &1.into())
            );
            assert!(status["reasons"].to_string().contains("large from block"), "{status:#}");
        }
        let answer = volume.sync(SYNC);
        let copy = volume.scratch("copy");
        volume.restore(&copy).expect(0);
        let differences = compare(&source, &copy, Options::default()).unwrap();
        if finds {
            assert_eq!(differences, [""; 0]);
        } else {
            answer.expect(0);
            assert!(!differences.is_empty(), "no mark was lost: this test proves nothing");
        }
        assert!(daemon.stop().success());
    }
}

/// A database's own writes, by stores and calls, while everything is scrubbed again and again: no difference is found.
#[test]
fn the_scrub_raises_no_false_alarm() {
    use tests::raw_io::Mapping;
    let name = "the_scrub_raises_no_false_alarm";
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        let Some(mount) = Mount::new_or_skip(name, kind) else { continue };
        let source = mount.dir("source");
        fs::write(source.join("mapped"), vec![1; 1 << 20]).unwrap();
        fs::write(source.join("written"), vec![2; 1 << 20]).unwrap();
        let mut volume = Volume::new(&source);
        volume.environment.push(("TRACKER_SCRUB_MAX".into(), "1e8".into()));
        volume.extra.extend(["--scrub".into(), "1000000%".into()]);
        let daemon = volume.start_ready();
        let file = File::options().read(true).write(true).open(source.join("mapped")).unwrap();
        let mapping = Mapping::new(&file, 1 << 20).unwrap();
        let begin = Instant::now();
        let mut round = 0u32;
        while begin.elapsed() < Duration::from_millis(2500) {
            round += 1;
            mapping.store((round as usize * 7919) % (1 << 20), round as u8);
            overwrite(&volume, "written", &round.to_le_bytes(), u64::from(round) * 4099 % (1 << 20));
            if round.is_multiple_of(50) {
                let grown = File::options().append(true).create(true).open(source.join("grown")).unwrap();
                grown.set_len(u64::from(round) * 37).unwrap();
                rustix::fs::fallocate(&grown, rustix::fs::FallocateFlags::KEEP_SIZE, 1 << 20, 65_536).unwrap();
                fs::rename(source.join("grown"), source.join("moved")).unwrap();
                fs::rename(source.join("moved"), source.join("grown")).unwrap();
            }
            thread::sleep(Duration::from_micros(200));
        }
        drop(mapping);
        volume.sync(SYNC).expect(0);
        let status = volume.status();
        assert!(number(&status, "scrubbed_bytes") > 1 << 20, "{status:#}");
        assert_eq!((number(&status, "scrub_differences"), &status["state"]), (0, &Value::from("protected")));
        volume.restored("copy");
        assert!(daemon.stop().success());
    }
}

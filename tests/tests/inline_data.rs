//! ext4 with `inline_data`: a small file is in its inode, and a write to it dirties no page.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use tests::capture_rig::{back_end, config};
use tests::daemon::{Volume, binary};
use tests::mounts::Mount;
use tracker::capture::Capture;
use tracker::source::SourceRoot;
use tracker::volume::selftest::changes::{SelfTestOutcome, prove};

fn mounted(test: &str) -> Option<Mount> {
    Mount::ext4_or_skip(test, &["-O", "inline_data", "-I", "256"])
}

/// Its volume uses no back end and says why, and the change is still committed.
#[test]
fn small_files_in_their_inodes_are_scanned() {
    let Some(mounted) = mounted("small_files_in_their_inodes_are_scanned") else { return };
    let source = mounted.dir("source");
    fs::write(source.join("small"), [1; 40]).unwrap();
    let volume = Volume::new(&source);
    let _daemon = volume.start_ready();
    File::options().write(true).open(source.join("small")).unwrap().write_all_at(&[2; 10], 7).unwrap();
    volume.sync(Duration::from_secs(60)).expect(0);
    volume.restored("copy");
    let told = Command::new(binary()).args(["doctor", "--json"]).arg(&source).output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("inline_data"), "{told}");
    let status = volume.status();
    assert_eq!(status["backend"], "scan", "{status:#}");
    assert!(status["reasons"].to_string().contains("inline_data"), "{status:#}");
}

#[test]
fn a_watch_refuses_small_files_in_their_inodes() {
    let Some(mounted) = mounted("a_watch_refuses_small_files_in_their_inodes") else { return };
    let output = Command::new(binary()).arg("watch").arg(mounted.root()).args(["--timeout", "1s"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("inline_data"), "{output:?}");
}

/// Even if something else hides a write to a small file, the self-test notices.
#[test]
fn the_self_test_finds_that_a_small_file_is_not_seen() {
    let Some(mounted) = mounted("the_self_test_finds_that_a_small_file_is_not_seen") else { return };
    let mut capture = Capture::start(&config()).unwrap().0;
    let proof = prove(&mut capture, &SourceRoot::open(mounted.root()).unwrap(), None);
    capture.detach().unwrap();
    match proof.unwrap() {
        SelfTestOutcome::Failed { kind } => assert!(kind.contains("some bytes"), "{kind}"),
        other => panic!("{:?}: {other:?}", back_end()),
    }
}

//! A baseline that is interrupted in the middle: what is in the store is never taken for the whole.

use std::fs;

use tests::compare::{Options, compare};
use tests::daemon::{READY, Volume};

/// More than fits into one flush.
const FILES: usize = 10_400;

#[test]
fn a_first_copy_that_was_cut_off_is_not_restored_as_the_whole() {
    let source = tempfile::tempdir().unwrap();
    for n in 0..FILES {
        // Without content: freeing blocks takes a minute on a file system that discards them.
        fs::File::create(source.path().join(format!("file-{n}"))).unwrap();
    }
    let mut volume = Volume::new(source.path());
    volume.extra.extend(["--capture".into(), "scan".into()]);
    volume.environment = vec![("TRACKER_FAILPOINT".into(), "settle:1".into())];
    let mut daemon = volume.start();
    assert!(daemon.wait_end(READY).is_some_and(|status| !status.success()), "it dies after its first commit");
    drop(daemon);
    let (reference, out) = (volume.reference(), volume.scratch("part"));
    let (reference, out) = (reference.to_str().unwrap(), out.to_str().unwrap());
    let refused = volume.tracker(&["restore", reference, out]);
    refused.refuses(3, "--partial");
    assert!(!volume.scratch("part").exists());
    volume.tracker(&["verify", reference]).expect(3);
    let part = volume.tracker(&["restore", reference, out, "--partial"]);
    part.expect(3);
    let there = fs::read_dir(volume.scratch("part")).unwrap().count();
    assert!(there > 0 && there < FILES, "{there} files are there");

    volume.environment.clear();
    let daemon = volume.start_ready();
    assert!(daemon.stop().success());
    let copy = volume.restored("whole");
    let differences = compare(source.path(), &copy, Options::default()).unwrap();
    assert!(differences.is_empty(), "{differences:?}");
    let log = volume.tracker(&["log", reference, "--json"]).stdout;
    assert!(log.lines().next().is_some_and(|newest| newest.contains("\"baseline\":true")), "{log}");
    assert!(log.lines().last().is_some_and(|first| first.contains("\"baseline\":false")), "{log}");
}

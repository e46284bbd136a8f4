//! Where a commit cannot be of one instant it says why, and the changes are committed all the same.

use std::fs;
use std::time::Duration;

use tests::daemon::Volume;
use tests::mounts::{Kind, Mount};

/// What the newest commit says after a file was written a few times.
fn said(mount: &Mount) -> String {
    let source = mount.dir("source");
    fs::write(source.join("file"), [1; 5000]).unwrap();
    let volume = Volume::new(&source);
    let _daemon = volume.start_ready();
    for byte in 2..5 {
        fs::write(source.join("file"), [byte; 5000]).unwrap();
        volume.sync(Duration::from_secs(60)).expect(0);
    }
    volume.restored("copy");
    let newest = volume.status()["consistency"].clone();
    newest["reason"].as_str().unwrap_or_else(|| panic!("of one instant: {newest}")).to_owned()
}

/// Within one second a change time stands still there, whoever looks at it: no event tells of a second write to a dirty page.
#[test]
fn without_parts_of_a_second_no_commit_is_of_one_instant() {
    let test = "without_parts_of_a_second_no_commit_is_of_one_instant";
    let Some(mount) = Mount::ext4_or_skip(test, &["-I", "128"]) else { return };
    assert_eq!(said(&mount), "file_system");
}

#[test]
fn on_tmpfs_no_commit_is_of_one_instant() {
    let Some(mount) = Mount::new_or_skip("on_tmpfs_no_commit_is_of_one_instant", Kind::Tmpfs) else { return };
    assert_eq!(said(&mount), "file_system");
}

//! Where a commit cannot be of one instant it says why, and the changes are committed all the same.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tests::capture_rig::obstacle;
use tests::daemon::Volume;
use tests::mounts::{programs_or_skip, root_or_skip, run, skip};

struct Mounted {
    folder: TempDir,
}

impl Mounted {
    fn or_skip(test: &str, programs: &[&str]) -> Option<Mounted> {
        if !root_or_skip(test) || !programs_or_skip(test, "the file system", programs) {
            return None;
        }
        if let Some(reason) = obstacle() {
            skip(test, "ebpf", reason);
            return None;
        }
        let mounted = Mounted { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(mounted.root()).unwrap();
        Some(mounted)
    }

    /// ext4 with inodes that have no room for parts of a second.
    fn small_inodes(test: &str) -> Option<Mounted> {
        let mounted = Mounted::or_skip(test, &["mkfs.ext4"])?;
        let image = mounted.folder.path().join("image");
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-I", "128"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(mounted.root()));
        Some(mounted)
    }

    fn tmpfs(test: &str) -> Option<Mounted> {
        let mounted = Mounted::or_skip(test, &[])?;
        run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(mounted.root()));
        Some(mounted)
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("m")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.root()));
    }
}

/// What the newest commit says after a file was written a few times.
fn said(root: &Path) -> String {
    let source = root.join("source");
    fs::create_dir(&source).unwrap();
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
    let Some(mounted) = Mounted::small_inodes("without_parts_of_a_second_no_commit_is_of_one_instant") else { return };
    assert_eq!(said(&mounted.root()), "file_system");
}

#[test]
fn on_tmpfs_no_commit_is_of_one_instant() {
    let Some(mounted) = Mounted::tmpfs("on_tmpfs_no_commit_is_of_one_instant") else { return };
    assert_eq!(said(&mounted.root()), "file_system");
}

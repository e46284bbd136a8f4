//! What is trusted after another boot. To the daemon it is another boot if the kernel's boot id differs: the tests mount a
//! file over it in the daemon's own mount namespace.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tests::compare::{Options, assert_same, compare};
use tests::daemon::{Volume, utf8};
use tests::load::number;
use tests::mounts::{programs_or_skip, root_or_skip, run};

const SYNC: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// An ext4 image that can be unmounted and mounted again.
struct Image {
    folder: TempDir,
    mounted: bool,
}

impl Image {
    fn new() -> Image {
        let image = Image { folder: tempfile::tempdir().unwrap(), mounted: false };
        File::create(image.path()).unwrap().set_len(300 * MIB).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096"]).arg(image.path()));
        fs::create_dir(image.at()).unwrap();
        image
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn at(&self) -> PathBuf {
        self.folder.path().join("m")
    }

    fn mount(&mut self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.path()).arg(self.at()));
        self.mounted = true;
    }

    fn unmount(&mut self) {
        run(Command::new("umount").arg(self.at()));
        self.mounted = false;
    }

    /// Produces what a power cut after an overwrite and an `fdatasync` leaves (measured on ext4 and xfs): other bytes, and
    /// all times as before. `file` is a path in the image, `block` one of its blocks.
    fn overwrite_behind_the_times(&self, file: &str, block: u64, bytes: &[u8]) {
        assert!(!self.mounted);
        let answer = run(Command::new("debugfs").args(["-R", &format!("bmap {file} {block}")]).arg(self.path()));
        let at: u64 = answer.trim().parse().unwrap_or_else(|error| panic!("debugfs: {error}: {answer}"));
        assert_ne!(at, 0, "a hole");
        let image = File::options().write(true).open(self.path()).unwrap();
        image.write_all_at(bytes, at * 4096).unwrap();
        image.sync_all().unwrap();
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.mounted {
            let at = self.at();
            if !Command::new("umount").arg(&at).status().is_ok_and(|status| status.success()) {
                let _ = Command::new("umount").arg("-l").arg(&at).status();
            }
        }
    }
}

/// The arguments that run a program in a boot with this id.
fn boot(folder: &Path, id: u64) -> Vec<String> {
    let file = folder.join(format!("boot-{id}"));
    fs::write(&file, format!("00000000-0000-4000-8000-{id:012}\n")).unwrap();
    let script = format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"", utf8(&file));
    ["unshare", "--mount", "--propagation", "slave", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

fn ctime(path: &Path) -> (i64, i64, u64) {
    let meta = fs::metadata(path).unwrap();
    (meta.ctime(), meta.ctime_nsec(), meta.size())
}

/// Bytes that changed under the old times are found in another boot, which reads everything and meanwhile shows
/// `verifying`. The same boot trusts the times, and would have missed them: so the boot decides.
#[test]
fn another_boot_reads_everything_again() {
    let name = "another_boot_reads_everything_again";
    if !root_or_skip(name) || !programs_or_skip(name, "ext4", &["mkfs.ext4", "debugfs", "unshare"]) {
        return;
    }
    for (second_boot, found) in [(1, false), (2, true)] {
        let mut image = Image::new();
        image.mount();
        let source = image.at().join("source");
        fs::create_dir(&source).unwrap();
        // Enough that reading it takes a while.
        fs::write(source.join("large"), vec![5; 96 << 20]).unwrap();
        for file in 0..20 {
            fs::write(source.join(format!("small{file}")), vec![file; 9000]).unwrap();
        }
        let mut volume = Volume::new(&source);
        volume.keep_tracking();
        volume.wrapper = boot(image.folder.path(), 1);
        let daemon = volume.start_ready();
        // Change times younger than one clock step are not trusted, and are not tested here.
        thread::sleep(Duration::from_millis(100));
        fs::write(source.join("last"), "last").unwrap();
        volume.sync(SYNC).expect(0);
        assert!(daemon.stop().success());
        // Otherwise the same boot would find a file system that is still marked.
        volume.lose_marks();

        let times = [ctime(&source.join("large")), ctime(&source.join("small7"))];
        image.unmount();
        image.overwrite_behind_the_times("/source/large", 77, b"after the power cut");
        image.overwrite_behind_the_times("/source/small7", 1, b"this as well");
        image.mount();
        assert_eq!(times, [ctime(&source.join("large")), ctime(&source.join("small7"))], "the times must not tell");

        volume.wrapper = boot(image.folder.path(), second_boot);
        let daemon = volume.start();
        let mut states = Vec::new();
        loop {
            if let Some(status) = volume.try_status() {
                states.push(status["state"].as_str().unwrap_or_default().to_owned());
                if states.last().is_some_and(|state| state == "protected") {
                    break;
                }
            }
            assert!(states.len() < 4000, "{states:?}");
        }
        // Changes are committed meanwhile and afterwards as always.
        fs::write(source.join("live"), "live").unwrap();
        volume.sync(SYNC).expect(0);
        let status = volume.status();
        let copy = volume.scratch("copy");
        volume.restore(&copy).expect(0);
        if found {
            assert!(states.iter().any(|state| state == "verifying"), "{states:?}");
            assert_eq!(status["rescan_reasons"]["reboot"], 1, "{status:#}");
            assert!(number(&status, "bytes_read") >= 96 << 20, "{status:#}");
            assert_same(&source, &copy);
            drop(daemon);

            // Once is enough: in this boot marks are trusted from now on.
            let daemon = volume.start_ready();
            volume.sync(SYNC).expect(0);
            assert_eq!(number(&volume.status(), "rescans"), 0);
            assert!(daemon.stop().success());
        } else {
            let differences = compare(&source, &copy, Options::default()).unwrap();
            assert_eq!(differences.len(), 2, "the times were believed: {differences:?}");
            assert!(daemon.stop().success());
        }
    }
}

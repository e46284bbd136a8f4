//! File systems for one test: an image file behind a loop device, an overlay on such a one, or a tmpfs. Unmounted and
//! detached when dropped, after a panic too. It never touches a mount or a device that it did not make.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

/// How long an unmount is tried: a process that was just killed may hold a file for a moment.
const UNMOUNT: Duration = Duration::from_secs(10);
/// Size of the image files, which are sparse. xfs makes none below 300 MiB.
const IMAGE_MIB: u64 = 768;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fs {
    Ext4,
    Xfs,
    Btrfs,
    /// With its upper directory on ext4.
    Overlay,
    Tmpfs,
}

impl Fs {
    pub const ALL: [Fs; 5] = [Fs::Ext4, Fs::Xfs, Fs::Btrfs, Fs::Overlay, Fs::Tmpfs];

    pub fn name(self) -> &'static str {
        match self {
            Fs::Ext4 => "ext4",
            Fs::Xfs => "xfs",
            Fs::Btrfs => "btrfs",
            Fs::Overlay => "overlay",
            Fs::Tmpfs => "tmpfs",
        }
    }

    /// The program that makes it, and its arguments.
    fn maker(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            // Without lazy work after the mount: it would be disk traffic in the middle of a test.
            Fs::Ext4 => Some(("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"])),
            Fs::Xfs => Some(("mkfs.xfs", &["-q", "-f"])),
            Fs::Btrfs => Some(("mkfs.btrfs", &["-q", "-f"])),
            Fs::Overlay | Fs::Tmpfs => None,
        }
    }
}

/// A mounted file system.
pub struct Mount {
    point: PathBuf,
    upper: Option<PathBuf>,
    /// Freed last to first: unmount, detach, then the folder with the image. The layer below is a field after.
    mounted: bool,
    loop_device: Option<String>,
    _below: Option<Box<Mount>>,
    _folder: TempDir,
}

/// Says why `test` does not run as anybody but root. With `root` in `TRACKER_TEST_REQUIRE` that is a failure.
pub fn root_or_skip(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let reason = "needs root, for mounts and for eBPF";
    assert!(!crate::s3_server::required("root"), "{test}: {reason}");
    println!("SKIP {test}: {reason}");
    false
}

/// The first of `names` that is in no directory of the path.
pub fn missing_program<'a>(names: &[&'a str]) -> Option<&'a str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    names.iter().copied().find(|name| !dirs.iter().any(|dir| dir.join(name).is_file()))
}

impl Mount {
    /// Makes and mounts one, or says why `test` skips.
    ///
    /// # Panics
    /// When root cannot mount it though its tools are there.
    pub fn new_or_skip(test: &str, fs: Fs) -> Option<Mount> {
        if !root_or_skip(test) {
            return None;
        }
        let tools = match fs.maker() {
            Some((maker, _)) => vec!["losetup", "mount", maker],
            None => vec!["mount"],
        };
        if let Some(tool) = missing_program(&tools) {
            println!("SKIP {test}: no {tool}");
            return None;
        }
        Some(Mount::new(fs, &[]))
    }

    /// A tmpfs that holds `bytes` of data at most.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn small_tmpfs(bytes: u64) -> Mount {
        Mount::new(Fs::Tmpfs, &[format!("size={bytes}")])
    }

    fn new(fs: Fs, options: &[String]) -> Mount {
        let folder = tempfile::Builder::new().prefix("tracker-mount-").tempdir().expect("a temporary folder");
        // Programs under test run as other users and must get through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let point = folder.path().join("mnt");
        fs::create_dir(&point).expect("mkdir");
        let mut mount = Mount { point, upper: None, mounted: false, loop_device: None, _below: None, _folder: folder };
        let mut options = options.to_vec();
        let device = match fs {
            Fs::Tmpfs => "tmpfs".to_owned(),
            Fs::Overlay => {
                let below = Mount::new(Fs::Ext4, &[]);
                let [lower, upper, work] = ["lower", "upper", "work"].map(|name| below.path().join(name));
                for dir in [&lower, &upper, &work] {
                    fs::create_dir(dir).expect("mkdir");
                }
                for (name, dir) in [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)] {
                    options.push(format!("{name}={}", dir.display()));
                }
                mount.upper = Some(upper);
                mount._below = Some(Box::new(below));
                "overlay".to_owned()
            }
            Fs::Ext4 | Fs::Xfs | Fs::Btrfs => mount.attach(fs),
        };
        // The options of a mount decide whether reads are changes; these are what servers are mounted with.
        let mut command = Command::new("mount");
        command.args(["-t", fs.name()]);
        if !options.is_empty() {
            command.args(["-o", &options.join(",")]);
        }
        run(command.arg(&device).arg(&mount.point));
        mount.mounted = true;
        mount
    }

    /// Makes the file system in an image file and gives its loop device.
    fn attach(&mut self, fs: Fs) -> String {
        let image = self._folder.path().join("image");
        let file = File::create(&image).expect("the image");
        file.set_len(IMAGE_MIB << 20).expect("the image's size");
        let (maker, args) = fs.maker().expect("a file system in an image has one");
        run(Command::new(maker).args(args).arg(&image));
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&image)).trim().to_owned();
        self.loop_device = Some(device.clone());
        device
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// The upper directory of an overlay.
    pub fn upper(&self) -> Option<&Path> {
        self.upper.as_deref()
    }

    /// A new directory in it: the root of ext4 has `lost+found`, which no restore could make.
    ///
    /// # Panics
    /// When it is there already.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.point.join(name);
        fs::create_dir(&dir).expect("mkdir on the mount");
        dir
    }

    /// Changes its mount options, such as `ro` or `size=..`.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.point));
    }

    fn unmount(&mut self) {
        let deadline = Instant::now() + UNMOUNT;
        while let Err(error) = unmount(&self.point, UnmountFlags::empty()) {
            if Instant::now() < deadline {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            eprintln!("{} stays busy ({error}): detached, it goes with its last user", self.point.display());
            if let Err(error) = unmount(&self.point, UnmountFlags::DETACH) {
                eprintln!("cannot even detach {}: {error}", self.point.display());
            }
            break;
        }
        self.mounted = false;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            self.unmount();
        }
        if let Some(device) = &self.loop_device {
            match Command::new("losetup").args(["--detach", device]).status() {
                Ok(status) if status.success() => {}
                other => eprintln!("cannot detach {device}: {other:?}"),
            }
        }
    }
}

/// Runs a command that must succeed and gives what it printed.
///
/// # Panics
/// With what it said, when it does not.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

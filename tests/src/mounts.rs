//! File systems for the loads, made by [`crate::capture_mounts`]: accessible to other users, with small ones and remounts
//! in addition, and skips that give a reason.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use crate::capture_mounts;
pub use crate::capture_mounts::Kind;
use crate::capture_rig::obstacle;

/// A mounted file system, unmounted when dropped.
pub struct Mount {
    mount: capture_mounts::Mount,
}

/// Prints why `test` is skipped. If `TRACKER_TEST_REQUIRE` names `what`, that is a failure.
///
/// # Panics
/// In that case.
pub fn skip(test: &str, what: &str, reason: &str) {
    assert!(!crate::s3_server::required(what), "{test}: {reason}");
    println!("SKIP {test}: {reason}");
}

/// True as root; else prints why `test` is skipped.
pub fn root_or_skip(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(test, "root", "needs root, for mounts and for eBPF");
    }
    root
}

/// True if all `programs` are in the path; else prints why `test`, which needs them for `what`, is skipped.
pub fn programs_or_skip(test: &str, what: &str, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let missing = programs.iter().find(|name| !dirs.iter().any(|dir| dir.join(name).is_file()));
    if let Some(name) = missing {
        skip(test, what, &format!("no {name} in the path"));
    }
    missing.is_none()
}

impl Mount {
    /// Creates and mounts one that the program can capture, or prints why `test` is skipped.
    ///
    /// # Panics
    /// When root cannot mount it although its tools are there.
    pub fn new_or_skip(test: &str, kind: Kind) -> Option<Mount> {
        Self::made_or_skip(test, kind, || capture_mounts::Mount::new(kind))
    }

    /// As [`Mount::new_or_skip`]; ext4 is created with projects if the kernel supports them.
    ///
    /// # Panics
    /// As there.
    pub fn with_projects_or_skip(test: &str, kind: Kind) -> Option<Mount> {
        Self::made_or_skip(test, kind, || match kind {
            Kind::Ext4 => capture_mounts::Mount::ext4_with_projects().or_else(|reason| {
                // The rest of the test runs: only this case of it is skipped.
                println!("SKIP {test}/ext4-projects: {reason}");
                capture_mounts::Mount::new(kind)
            }),
            kind => capture_mounts::Mount::new(kind),
        })
    }

    /// As [`Mount::new_or_skip`], for ext4 made with these options.
    ///
    /// # Panics
    /// As there.
    pub fn ext4_or_skip(test: &str, options: &[&str]) -> Option<Mount> {
        Self::made_or_skip(test, Kind::Ext4, || capture_mounts::Mount::ext4(options))
    }

    fn made_or_skip(
        test: &str,
        kind: Kind,
        make: impl FnOnce() -> Result<capture_mounts::Mount, String>,
    ) -> Option<Mount> {
        let (name, maker) = match kind {
            Kind::Ext4 => ("ext4", "mkfs.ext4"),
            Kind::Overlay | Kind::OverlayVolatile => ("overlay", "mkfs.ext4"),
            Kind::OverlayXfs => ("overlay", "mkfs.xfs"),
            Kind::Xfs => ("xfs", "mkfs.xfs"),
            Kind::Btrfs => ("btrfs", "mkfs.btrfs"),
            Kind::Tmpfs => ("tmpfs", "mount"),
        };
        if !root_or_skip(test) {
            return None;
        }
        if let Some(reason) = obstacle() {
            skip(test, "ebpf", reason);
            return None;
        }
        if !programs_or_skip(test, name, &[maker]) {
            return None;
        }
        let mount = make().unwrap_or_else(|error| panic!("{test}: {error}"));
        // Servers under test run as other users and must be able to pass through.
        let folder = mount.root().parent().expect("a mount point lies in a folder");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("chmod");
        Some(Mount { mount })
    }

    /// Its root.
    pub fn root(&self) -> &Path {
        self.mount.root()
    }

    /// A new directory in it: the root of ext4 has `lost+found`, which no restore could create.
    ///
    /// # Panics
    /// When it exists already.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.mount.root().join(name);
        fs::create_dir(&dir).expect("mkdir on the mount");
        dir
    }
}

/// A tmpfs of a given size, for stores that fill up or turn read-only.
pub struct SmallStore {
    point: TempDir,
}

impl SmallStore {
    /// # Panics
    /// When it cannot be mounted.
    pub fn new(bytes: u64) -> SmallStore {
        let point = tempfile::Builder::new().prefix("tracker-tmpfs-").tempdir().expect("a temporary folder");
        let options = format!("size={bytes}");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(point.path()));
        SmallStore { point }
    }

    pub fn path(&self) -> &Path {
        self.point.path()
    }

    /// Changes its mount options, such as `ro` or `size=..`.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.path()));
    }
}

impl Drop for SmallStore {
    fn drop(&mut self) {
        // Detached, if a process that was just killed still has a file open: the mount ends with that process.
        if let Err(error) = unmount(self.point.path(), UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.point.path().display());
        }
    }
}

/// Runs a command that must succeed and returns its output.
///
/// # Panics
/// With its output, when it fails.
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

//! File systems on loop devices for cases that need root; unmounted and deleted on drop.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What can be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext4 with its defaults.
    Ext4,
    /// XFS with reflinks.
    Xfs,
    /// Btrfs with its defaults.
    Btrfs,
    /// An overlay whose upper directory lies on ext4.
    Overlay,
    /// An overlay whose upper directory lies on XFS.
    OverlayXfs,
    /// As `Overlay`, mounted `volatile`: it never waits for a disk.
    OverlayVolatile,
    /// tmpfs.
    Tmpfs,
}

/// The kinds of which each has its own way of being captured.
pub const ALL: [Kind; 5] = [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Overlay, Kind::Tmpfs];

/// One mounted file system.
#[derive(Debug)]
pub struct Mount {
    /// What it is.
    pub kind: Kind,
    /// Mount points, innermost last.
    mounted: Vec<PathBuf>,
    /// Directory in which files are written.
    root: PathBuf,
    /// Directory whose inodes the kernel's events name: differs from `root` on an overlay.
    real: PathBuf,
    _directory: tempfile::TempDir,
}

impl Mount {
    /// Makes and mounts a file system of 400 MiB; an error text when a tool or the kernel does not have it.
    ///
    /// # Errors
    /// The output of the tool that failed.
    pub fn new(kind: Kind) -> Result<Self, String> {
        Self::make(kind, &std::env::temp_dir(), |_| Ok(()))
    }

    /// As `new`, with its image and its mount point in a directory of its own below `parent`.
    ///
    /// # Errors
    /// As `new`.
    pub fn beside(kind: Kind, parent: &Path) -> Result<Self, String> {
        Self::make(kind, parent, |_| Ok(()))
    }

    /// As `new`; `fill` puts files into an overlay's lower directory before it is mounted.
    ///
    /// # Errors
    /// As `new`, and that of `fill`.
    pub fn with_lower(kind: Kind, fill: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<Self, String> {
        Self::make(kind, &std::env::temp_dir(), fill)
    }

    fn make(kind: Kind, parent: &Path, fill: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<Self, String> {
        let directory = tempfile::tempdir_in(parent).map_err(|error| error.to_string())?;
        let base = directory.path().to_owned();
        let point = base.join("m");
        std::fs::create_dir(&point).map_err(|error| error.to_string())?;
        let mut mount =
            Self { kind, mounted: Vec::new(), root: point.clone(), real: point.clone(), _directory: directory };
        match kind {
            Kind::Tmpfs => mount.mount(&["-t", "tmpfs", "-o", "size=200m", "tmpfs"], &point)?,
            Kind::Ext4 => mount.image(&base, "mkfs.ext4", &["-q", "-F"], &point)?,
            Kind::Xfs => mount.image(&base, "mkfs.xfs", &["-q", "-f", "-m", "reflink=1"], &point)?,
            Kind::Btrfs => mount.image(&base, "mkfs.btrfs", &["-q", "-f"], &point)?,
            Kind::Overlay | Kind::OverlayXfs | Kind::OverlayVolatile => {
                match kind {
                    Kind::OverlayXfs => mount.image(&base, "mkfs.xfs", &["-q", "-f", "-m", "reflink=1"], &point)?,
                    _ => mount.image(&base, "mkfs.ext4", &["-q", "-F"], &point)?,
                }
                for name in ["lower", "upper", "work", "merged"] {
                    std::fs::create_dir(point.join(name)).map_err(|error| error.to_string())?;
                }
                fill(&point.join("lower")).map_err(|error| format!("lower directory: {error}"))?;
                let part = |name: &str| point.join(name).display().to_string();
                let mut options =
                    format!("lowerdir={},upperdir={},workdir={}", part("lower"), part("upper"), part("work"));
                if kind == Kind::OverlayVolatile {
                    options.push_str(",volatile");
                }
                mount.mount(&["-t", "overlay", "-o", &options, "overlay"], &point.join("merged"))?;
                mount.root = point.join("merged");
                mount.real = point.join("upper");
            }
        }
        Ok(mount)
    }

    /// Where to write.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the inodes of the kernel's events are found under the same relative paths.
    #[must_use]
    pub fn real(&self) -> &Path {
        &self.real
    }

    fn image(&mut self, base: &Path, tool: &str, options: &[&str], point: &Path) -> Result<(), String> {
        let image = base.join("image");
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(400 << 20).map_err(|error| error.to_string())?;
        let text = image.display().to_string();
        run(tool, &[options, &[&text]].concat())?;
        self.mount(&["-o", "loop", &text], point)
    }

    fn mount(&mut self, options: &[&str], point: &Path) -> Result<(), String> {
        run("mount", &[options, &[&point.display().to_string()]].concat())?;
        self.mounted.push(point.to_owned());
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        while let Some(point) = self.mounted.pop() {
            let text = point.display().to_string();
            // Lazily if something still holds a file: a leaked mount would outlive the test run.
            if run("umount", &[&text]).is_err() {
                let _ = run("umount", &["-l", &text]);
            }
        }
    }
}

fn run(tool: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(tool).args(arguments).output().map_err(|error| format!("{tool}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

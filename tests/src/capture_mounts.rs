//! File systems on loop devices for cases that need root; unmounted and deleted on drop.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What can be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// The kinds that are captured in different ways.
pub const ALL: [Kind; 5] = [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Overlay, Kind::Tmpfs];

impl Kind {
    /// Its name in results and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
            Kind::Overlay => "overlay",
            Kind::OverlayXfs => "overlay-xfs",
            Kind::OverlayVolatile => "overlay-volatile",
            Kind::Tmpfs => "tmpfs",
        }
    }

    /// Whether it is an overlay over another one.
    #[must_use]
    pub const fn is_overlay(self) -> bool {
        matches!(self, Kind::Overlay | Kind::OverlayXfs | Kind::OverlayVolatile)
    }
}

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
    directory: tempfile::TempDir,
}

impl Mount {
    /// Creates and mounts a file system of 400 MiB.
    ///
    /// # Errors
    /// The output of the tool that failed, or that a tool or the kernel lacks it.
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

    /// ext4 with projects, which it lacks by default.
    ///
    /// # Errors
    /// As `new`.
    pub fn ext4_with_projects() -> Result<Self, String> {
        Self::ext4(&["-O", "project,quota"])
    }

    /// ext4 made with these options.
    ///
    /// # Errors
    /// As `new`.
    pub fn ext4(options: &[&str]) -> Result<Self, String> {
        let mut mount = Self::empty(Kind::Ext4, &std::env::temp_dir())?;
        let base = mount.directory.path().to_owned();
        mount.image(&base, "mkfs.ext4", &[&["-q", "-F"], options].concat(), &base.join("m"))?;
        Ok(mount)
    }

    /// ext4 whose data go through its journal: by the mount, or by the default of its superblock, which the list of mounts leaves out.
    ///
    /// # Errors
    /// As `new`.
    pub fn ext4_journalled(by_default: bool) -> Result<Self, String> {
        let mut mount = Self::empty(Kind::Ext4, &std::env::temp_dir())?;
        let base = mount.directory.path().to_owned();
        let image = make(&base, "mkfs.ext4", &["-q", "-F"])?;
        let options = if by_default { "loop" } else { "loop,data=journal" };
        if by_default {
            run("tune2fs", &["-o", "journal_data", &image])?;
        }
        mount.mount(&["-o", options, &image], &base.join("m"))?;
        Ok(mount)
    }

    fn empty(kind: Kind, parent: &Path) -> Result<Self, String> {
        let directory = tempfile::tempdir_in(parent).map_err(|error| error.to_string())?;
        let point = directory.path().join("m");
        std::fs::create_dir(&point).map_err(|error| error.to_string())?;
        Ok(Self { kind, mounted: Vec::new(), root: point.clone(), real: point, directory })
    }

    fn make(kind: Kind, parent: &Path, fill: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<Self, String> {
        let mut mount = Self::empty(kind, parent)?;
        let base = mount.directory.path().to_owned();
        let point = base.join("m");
        match kind {
            Kind::Tmpfs => mount.mount(&["-t", "tmpfs", "-o", "size=200m", "tmpfs"], &point)?,
            Kind::Ext4 => mount.image(&base, "mkfs.ext4", &["-q", "-F"], &point)?,
            Kind::Xfs => {
                let image = make(&base, "mkfs.xfs", &["-q", "-f", "-m", "reflink=1"])?;
                // With support for exchanging ranges.
                if kernel_is_from(6, 10) {
                    exchange_ranges(Path::new(&image)).map_err(|error| error.to_string())?;
                }
                mount.mount(&["-o", "loop", &image], &point)?;
            }
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

    /// Where the inodes of the kernel's events are, under the same relative paths.
    #[must_use]
    pub fn real(&self) -> &Path {
        &self.real
    }

    fn image(&mut self, base: &Path, tool: &str, options: &[&str], point: &Path) -> Result<(), String> {
        self.mount(&["-o", "loop", &make(base, tool, options)?], point)
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
            // Lazily, if a file is still open: a leaked mount would outlive the test run.
            if run("umount", &[&text]).is_err() {
                let _ = run("umount", &["-l", &text]);
            }
        }
    }
}

/// A file with a file system; its path.
fn make(base: &Path, tool: &str, options: &[&str]) -> Result<String, String> {
    let image = base.join("image");
    let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
    file.set_len(400 << 20).map_err(|error| error.to_string())?;
    let text = image.display().to_string();
    run(tool, &[options, &[&text]].concat())?;
    Ok(text)
}

/// Whether this kernel is of that version or later.
#[must_use]
pub fn kernel_is_from(major: u32, minor: u32) -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// Turns on the feature `exchange` of an XFS that is not mounted, as later mkfs.xfs do: a bit of the first superblock
/// (`sb_features_incompat`), and its checksum.
fn exchange_ranges(image: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    const FEATURES: usize = 216;
    const EXCHANGE: u8 = 1 << 6;
    const CHECKSUM: usize = 224;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(image)?;
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0)?;
    sector[FEATURES + 3] |= EXCHANGE;
    sector[CHECKSUM..CHECKSUM + 4].fill(0);
    let sum = crc32c(&sector);
    sector[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&sector, 0)
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

fn run(tool: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(tool).args(arguments).output().map_err(|error| format!("{tool}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

//! A separate capture for one case: its own pins, one mounted file system, drains.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use engine::model::{Dev, Ino};
use tracker::capture::choose::{KernelFacts, choose};
use tracker::capture::mounts::kernel_dev;
use tracker::capture::{BackEnd, Capture, CaptureConfig, InodeMarks, MapEntries, Retired, object};
use tracker::source::HowMarked;

use crate::capture_mounts::{Kind, Mount};

static CASES: AtomicU32 = AtomicU32::new(0);

/// Why capture cannot be tested here, if so.
#[must_use]
pub fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("this kernel has no BTF");
    }
    if object().is_none() {
        return Some("no eBPF object was built (cargo xtask build-ebpf)");
    }
    None
}

/// The back end under test: the one named by the environment, or the best one here.
#[must_use]
pub fn back_end() -> BackEnd {
    // Asking the kernel takes half a second.
    static CHOSEN: OnceLock<BackEnd> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var("TRACKER_TEST_BACK_END").ok();
        let only = BackEnd::WITH_PROGRAMS.into_iter().find(|back_end| wanted.as_deref() == Some(back_end.name()));
        assert!(only.is_some() || wanted.is_none(), "TRACKER_TEST_BACK_END names no back end: {wanted:?}");
        choose(&KernelFacts { only, ..KernelFacts::gather() }).back_end
    })
}

/// A configuration with pins of its own.
#[must_use]
pub fn config() -> CaptureConfig {
    let case = CASES.fetch_add(1, Ordering::Relaxed);
    let mut config = CaptureConfig::new(format!("/sys/fs/bpf/tracker-test-{}-{case}", std::process::id()), back_end());
    config.entries = MapEntries { dirty: 4096, inode: 4096, watch: 4096, inflight: 256 };
    config
}

/// A capture and a file system.
#[derive(Debug)]
pub struct Rig {
    /// The capture; `None` after it was taken.
    pub capture: Option<Capture>,
    /// The file system.
    pub mount: Mount,
    /// Its superblock (that of the upper directory, for an overlay).
    pub dev: Dev,
    pins: PathBuf,
}

impl Rig {
    /// A fresh capture that tracks a fresh file system of this kind, watched inodes only. `None`, with a message, if that
    /// is not possible.
    #[must_use]
    pub fn new(case: &str, kind: Kind) -> Option<Self> {
        Self::with(case, kind, &config())
    }

    /// As `new`, with this configuration.
    #[must_use]
    pub fn with(case: &str, kind: Kind, config: &CaptureConfig) -> Option<Self> {
        if let Some(reason) = obstacle() {
            println!("SKIP {case}: {reason}");
            return None;
        }
        match Mount::new(kind) {
            Ok(mount) => Some(Self::on(mount, config)),
            Err(reason) => {
                println!("SKIP {case}: {reason}");
                None
            }
        }
    }

    /// A fresh capture that tracks this file system. `None`, with a message, if that is not possible.
    #[must_use]
    pub fn on_or_skip(case: &str, mount: Result<Mount, String>) -> Option<Self> {
        match obstacle().map_or(mount, |reason| Err(reason.to_owned())) {
            Ok(mount) => Some(Self::on(mount, &config())),
            Err(reason) => {
                println!("SKIP {case}: {reason}");
                None
            }
        }
    }

    /// A fresh capture that tracks this file system.
    ///
    /// # Panics
    /// When capture does not start.
    #[must_use]
    pub fn on(mount: Mount, config: &CaptureConfig) -> Self {
        let dev = kernel_dev(mount.real()).unwrap();
        let (capture, _) = Capture::start(config).unwrap();
        capture.track(dev, false).unwrap();
        Self { capture: Some(capture), mount, dev, pins: config.pin_dir.clone() }
    }

    /// The capture.
    #[must_use]
    pub fn capture(&mut self) -> &mut Capture {
        self.capture.as_mut().unwrap()
    }

    /// A path in the file system.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.mount.root().join(name)
    }

    /// Inode number that the kernel's events have for `name`.
    #[must_use]
    pub fn ino(&self, name: &str) -> Ino {
        Ino(std::fs::symlink_metadata(self.mount.real().join(name)).unwrap().ino())
    }

    /// Watches these names, writes everything back, and forgets all marks.
    pub fn settle(&mut self, names: &[&str]) {
        let inodes: Vec<_> = names.iter().map(|name| (self.dev, self.ino(name))).collect();
        self.capture().watch(&inodes).unwrap();
        rustix::fs::syncfs(File::open(self.mount.real()).unwrap()).unwrap();
        for _ in 0..2 {
            self.drain();
        }
    }

    /// One complete drain.
    pub fn drain(&mut self) -> Retired {
        let capture = self.capture();
        capture.swap().unwrap();
        capture.grace().unwrap();
        let retired = capture.read_retired().unwrap();
        capture.clear_retired().unwrap();
        retired
    }

    /// What tells how this capture marks the writes of a file.
    ///
    /// # Panics
    /// When the program cannot be opened once more.
    #[must_use]
    pub fn how_marked(&self) -> HowMarked {
        let probe = self.capture.as_ref().unwrap().exact_probe().unwrap();
        Arc::new(move |file, may_begin| probe.ask(file, may_begin))
    }

    /// Marks of an inode in a drain; empty when there are none.
    #[must_use]
    pub fn marks(&self, retired: &Retired, ino: Ino) -> InodeMarks {
        retired.inodes.get(&(self.dev, ino)).cloned().unwrap_or_default()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(capture) = self.capture.take() {
            let _ = capture.detach();
        }
        // After the capture was taken, it is unknown whether it was detached.
        if let Err(error) = std::fs::remove_dir_all(&self.pins)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("cannot remove the pins {}: {error}", self.pins.display());
        }
    }
}

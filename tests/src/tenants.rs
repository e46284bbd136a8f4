//! One daemon with two volumes on one file system: `tenant`, in which a user does harm, and `other`, which must not be
//! affected.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Answer, binary, pins};
use crate::mounts::{Kind, Mount};

/// Time for `other` to commit one small file: enough for a machine under load, and far less than a tenant could cause.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most memory that the daemon, in a debug build, may ever use.
const MEMORY_KIB: u64 = 512 << 10;

/// The user who does harm: he has his directory and no rights outside it.
const NOBODY: u32 = 65534;

/// Runs `harm` as a user without rights, in a thread of its own, because the kernel's users belong to threads.
///
/// # Panics
/// When the rights cannot be given up, and when `harm` panics.
pub fn as_nobody<T: Send>(harm: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| nobody(harm)).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// As [`as_nobody`], in the calling thread, which stays without rights.
///
/// # Panics
/// When the rights cannot be given up.
pub fn nobody<T>(harm: impl FnOnce() -> T) -> T {
    let (uid, gid) = (rustix::fs::Uid::from_raw(NOBODY), rustix::fs::Gid::from_raw(NOBODY));
    rustix::thread::set_thread_groups(&[]).expect("no groups");
    rustix::thread::set_thread_gid(gid).expect("another group");
    // Changing the user drops the capabilities.
    rustix::thread::set_thread_uid(uid).expect("another user");
    assert!(File::open("/proc/1/environ").is_err(), "rights are left");
    harm()
}

/// The daemon; it ends and its pins are removed when dropped.
pub struct Tenants {
    pub tenant: PathBuf,
    pub other: PathBuf,
    pub folder: TempDir,
    child: Child,
    written: u32,
    _mount: Mount,
}

impl Tenants {
    /// `before`: what the tenant, or somebody for him, does before the start. `None`: it cannot run here, and a message
    /// says so.
    ///
    /// # Panics
    /// When the daemon is not ready in time.
    #[track_caller]
    pub fn new_or_skip(test: &str, before: impl FnOnce(&Path)) -> Option<Tenants> {
        let mount = Mount::new_or_skip(test, Kind::Ext4)?;
        let (tenant, other) = (mount.dir("tenant"), mount.dir("other"));
        fs::write(tenant.join("plain"), "the tenant's own").expect("a file");
        fs::write(other.join("plain"), "the other's own").expect("a file");
        for path in [&tenant, &tenant.join("plain")] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("the tenant's own");
        }
        before(&tenant);
        let folder = tempfile::Builder::new().prefix("tracker-tenants-").tempdir().expect("a folder");
        let at = folder.path().display();
        let mut text =
            format!("[metrics]\nlisten = \"off\"\n[defaults]\nstore = \"{at}/store\"\ninterval = \"100ms\"\n");
        for source in [&tenant, &other] {
            text.push_str(&format!("[[volume]]\nsource = \"{}\"\n", source.display()));
        }
        fs::write(folder.path().join("tracker.toml"), text).expect("the configuration");
        let log = File::create(folder.path().join("log")).expect("the log");
        let mut command = Command::new(binary());
        command.arg("daemon").arg("--config").arg(folder.path().join("tracker.toml"));
        command.arg("--state-dir").arg(folder.path().join("state")).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(log).spawn().expect("tracker starts");
        let stdout = child.stdout.take().expect("piped");
        let all = Tenants { tenant, other, folder, child, written: 0, _mount: mount };
        // The other volume must be ready, whatever the tenant's volume finds.
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let begun = Instant::now();
        loop {
            let left = Duration::from_secs(60).saturating_sub(begun.elapsed());
            let line = lines.recv_timeout(left).unwrap_or_else(|_| panic!("`other` is not ready; {}", all.log()));
            if line == "ready other" {
                return Some(all);
            }
        }
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("log")).unwrap_or_default()).into_owned()
    }

    /// Runs a verb.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn tracker(&self, args: &[&str]) -> Answer {
        let mut command = Command::new(binary());
        command.args(args).arg("--state-dir").arg(self.folder.path().join("state")).stdin(Stdio::null());
        command.output().expect("tracker starts").into()
    }

    /// The status of one volume.
    ///
    /// # Panics
    /// When the daemon has none.
    #[track_caller]
    pub fn status(&self, volume: &str) -> Value {
        let answer = self.tracker(&["status", volume, "--json"]);
        answer.json()["volumes"][0].clone()
    }

    /// Asserts that the other volume's changes are still committed, and that the daemon lives and has not grown without
    /// bound.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn other_is_well(&mut self) {
        self.written += 1;
        fs::write(self.other.join(format!("new{}", self.written)), [self.written as u8; 9000]).expect("a file");
        let timeout = format!("{}ms", PATIENCE.as_millis());
        let answer = self.tracker(&["sync", "other", "--wait", "--timeout", &timeout]);
        assert_eq!(answer.code, Some(0), "{answer:?}; {}", self.log());
        assert!(self.child.try_wait().expect("its state").is_none(), "the daemon has ended; {}", self.log());
        let peak = self.peak_kib();
        assert!(peak < MEMORY_KIB, "{peak} KiB at some moment");
    }

    /// Asserts that the tenant's own volume answers too within the requested time, degraded or not.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn tenant_answers(&self, codes: &[i32]) -> Answer {
        let begun = Instant::now();
        let answer = self.tracker(&["sync", "tenant", "--wait", "--timeout", "5s"]);
        assert!(begun.elapsed() < Duration::from_secs(5) + PATIENCE, "{:?}: {answer:?}", begun.elapsed());
        assert!(answer.code.is_some_and(|code| codes.contains(&code)), "{answer:?}; {}", self.log());
        answer
    }

    /// Most memory that the daemon has used at once, in KiB.
    ///
    /// # Panics
    /// When it has ended.
    pub fn peak_kib(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running daemon");
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Tenants {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let begun = Instant::now();
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(pins) = pins(&self.folder.path().join("state")) {
            let _ = fs::remove_dir_all(pins);
        }
    }
}

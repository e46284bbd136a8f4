//! A control group of a test's own, for whoever is to be paused.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tracker::cgroups::Hierarchy;

use crate::mounts::skip;

/// How long the end of its tasks may take.
const ENDS: Duration = Duration::from_secs(20);

/// A control group below the root. Dropped, it lets its tasks go on, kills them, and is removed.
pub struct Group {
    /// As in `/proc/PID/cgroup`.
    pub path: PathBuf,
    dir: PathBuf,
    /// It holds threads of this process.
    threads: bool,
}

impl Group {
    /// Prints why `test` is skipped where there can be none.
    ///
    /// # Panics
    /// When root cannot make one.
    pub fn new_or_skip(test: &str, name: &str) -> Option<Group> {
        let Some(hierarchy) = Hierarchy::find() else {
            skip(test, "cgroup2", "control groups of version 2 are not mounted");
            return None;
        };
        let path = Path::new("/").join(format!("tracker-test-{}-{name}", std::process::id()));
        let dir = hierarchy.dir(&path);
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        Some(Group { path, dir, threads: false })
    }

    /// One for threads of this process, below its own; the others stay where they are, and go on while these are paused.
    ///
    /// # Panics
    /// When root cannot make one.
    pub fn of_threads_or_skip(test: &str) -> Option<Group> {
        let (Some(hierarchy), Ok(text)) = (Hierarchy::find(), fs::read_to_string("/proc/self/cgroup")) else {
            skip(test, "cgroup2", "control groups of version 2 are not mounted");
            return None;
        };
        let own = text.lines().find_map(|line| line.strip_prefix("0::")).expect("a group");
        let path = Path::new(own).join(format!("tracker-test-{}-threads", std::process::id()));
        let dir = hierarchy.dir(&path);
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let group = Group { path, dir, threads: true };
        if let Err(error) = fs::write(group.dir.join("cgroup.type"), "threaded") {
            skip(test, "cgroup2", &format!("its own control group can have none of threads: {error}"));
            return None;
        }
        Some(group)
    }

    /// Moves the calling thread into a group of threads.
    ///
    /// # Panics
    /// When it cannot be moved.
    pub fn join(dir: &Path) {
        let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
        fs::write(dir.join("cgroup.threads"), thread).expect("a thread can be moved");
    }

    /// Moves a process into it.
    ///
    /// # Panics
    /// When it cannot be moved.
    pub fn take(&self, pid: u32) {
        fs::write(self.dir.join("cgroup.procs"), pid.to_string()).expect("a process can be moved");
    }

    /// The kernel's id.
    pub fn id(&self) -> u64 {
        fs::metadata(&self.dir).expect("the group").ino()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a program in it.
    pub fn start(&self, program: &str, args: &[&str]) -> Member {
        let join = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", join]).arg(&self.dir).arg(program).args(args).stdin(Stdio::null());
        Member(command.spawn().expect("sh starts"))
    }

    /// Whether somebody wants it frozen.
    pub fn is_frozen(&self) -> bool {
        fs::read_to_string(self.dir.join("cgroup.freeze")).expect("cgroup.freeze").trim() == "1"
    }

    /// Waits until nobody wants it frozen, and says for how long.
    ///
    /// # Panics
    /// When that does not happen within `limit`.
    #[track_caller]
    pub fn thawed_within(&self, limit: Duration) -> Duration {
        let began = Instant::now();
        while self.is_frozen() {
            assert!(began.elapsed() < limit, "still frozen after {limit:?}");
            thread::sleep(Duration::from_micros(200));
        }
        began.elapsed()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.dir.join("cgroup.freeze"), "0");
        if !self.threads {
            let _ = fs::write(self.dir.join("cgroup.kill"), "1");
        }
        let began = Instant::now();
        while let Err(error) = fs::remove_dir(&self.dir) {
            if began.elapsed() > ENDS {
                eprintln!("cannot remove {}: {error}", self.dir.display());
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A program in a group, killed when dropped.
pub struct Member(Child);

impl Member {
    /// Whether it has ended by itself.
    ///
    /// # Panics
    /// When the kernel cannot tell.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("wait").is_some()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Paused ones die of it too.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

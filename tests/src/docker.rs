//! A separate Docker daemon for one case: no network, no rules in the host's firewall, all data in a folder of the test.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::mounts::{run, skip};

/// Longest start and end of the daemon.
const PATIENCE: Duration = Duration::from_secs(60);
/// Applets of the image.
const APPLETS: [&str; 16] = [
    "sh", "dd", "mv", "cp", "rm", "ln", "chmod", "chown", "mkdir", "echo", "cat", "sleep", "truncate", "touch", "seq",
    "rmdir",
];

/// A running daemon; when dropped, it ends with all its containers.
pub struct Docker {
    child: Child,
    /// Sockets, logs, state.
    folder: TempDir,
    path: String,
}

impl Docker {
    /// Starts one with its data in `data`, or prints why `test` is skipped. If its programs are missing and
    /// `TRACKER_TEST_REQUIRE` has `docker`, that is a failure; if the machine allows no daemon, it is not.
    ///
    /// # Panics
    /// In that case.
    pub fn start_or_skip(test: &str, data: &Path) -> Option<Docker> {
        let system = std::env::var("PATH").unwrap_or_default();
        let own = std::env::var("TRACKER_TEST_DOCKER").unwrap_or_default();
        let path = format!("{own}/usr/bin:{own}/usr/sbin:{system}");
        let has = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
        if let Some(name) = ["dockerd", "docker", "containerd", "runc", "busybox"].into_iter().find(|name| !has(name)) {
            skip(test, "docker", &format!("no {name} (cargo xtask setup)"));
            return None;
        }
        let folder = tempfile::Builder::new().prefix("tracker-docker-").tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let log = fs::File::create(at("log")).expect("the log");
        let mut command = Command::new("dockerd");
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--userland-proxy=false"]);
        command.args(["--storage-driver=overlay2", "--config-file"]).arg(at("none.json")).arg("--data-root").arg(data);
        command.arg("--exec-root").arg(at("exec")).arg("--pidfile").arg(at("pid"));
        command.arg("-H").arg(format!("unix://{}", at("socket").display())).env("PATH", &path);
        fs::write(at("none.json"), "{}").expect("a configuration");
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log).spawn();
        let mut docker = Docker { child: child.expect("dockerd starts"), folder, path };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answers = docker.command(&["version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if answers.is_ok_and(|status| status.success()) {
                return Some(docker);
            }
            let ended = docker.child.try_wait().expect("wait").is_some();
            if ended || Instant::now() > deadline {
                let text = fs::read_to_string(docker.folder.path().join("log")).unwrap_or_default();
                let last = text.lines().rev().find(|line| !line.is_empty()).unwrap_or("it says nothing").to_owned();
                println!("SKIP {test}: dockerd does not start here: {last}");
                return None;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The client with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.env("PATH", &self.path).env("DOCKER_CONFIG", self.folder.path());
        command.arg("-H").arg(format!("unix://{}", self.folder.path().join("socket").display())).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Runs the client to its end and returns its output.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        run(&mut self.command(args))
    }

    /// Creates an image of one program with many names, and of the files of `more` below `/lower`.
    ///
    /// # Panics
    /// When that fails.
    pub fn image(&self, name: &str, more: &[(&str, &[u8])]) {
        let root = self.folder.path().join("image");
        fs::create_dir_all(root.join("bin")).expect("mkdir");
        fs::create_dir_all(root.join("lower")).expect("mkdir");
        let busybox = std::env::split_paths(&self.path).map(|dir| dir.join("busybox")).find(|path| path.is_file());
        fs::copy(busybox.expect("looked for at the start"), root.join("bin/busybox")).expect("copy");
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).expect("symlink");
        }
        for (file, content) in more {
            fs::write(root.join("lower").join(file), content).expect("write");
        }
        let tar: PathBuf = self.folder.path().join("image.tar");
        run(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&root).arg("."));
        self.run(&["import", tar.to_str().expect("text"), name]);
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let listed = self.command(&["ps", "-aq"]).output().map(|output| output.stdout).unwrap_or_default();
        let ids = String::from_utf8_lossy(&listed).into_owned();
        if !ids.trim().is_empty() {
            let _ = self.command(&["rm", "-f"]).args(ids.split_whitespace()).stdout(Stdio::null()).status();
        }
        // When asked to end, it ends containerd itself.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

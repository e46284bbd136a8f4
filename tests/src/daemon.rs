//! The program under test as a process: started, killed, queried, stopped. Knows the command line of the product and
//! nothing of its internals.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longest start: a full machine with a debug build.
pub const READY: Duration = Duration::from_secs(60);
/// Longest orderly stop. The daemon allows 30 s for a last flush, and then detaches: the kernel waits for a grace period
/// for each hooked function, which takes a minute in total in an emulated guest on a busy machine.
const STOP: Duration = Duration::from_secs(120);
/// How much of the log's end a failed test prints.
const LOG_SHOWN: u64 = 16 << 10;

/// The program: `$TRACKER_BIN`, `$TRACKER_TEST_BIN`, or the one beside this test, which is built if needed.
///
/// # Panics
/// When there is none and none can be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let named = ["TRACKER_BIN", "TRACKER_TEST_BIN"].iter().find_map(std::env::var_os);
        if let Some(path) = named {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "{} is not there", path.display());
            return path;
        }
        // target/debug/deps/this-test
        let own = std::env::current_exe().expect("the path of this test");
        let beside = own.ancestors().nth(2).expect("a target directory").join("tracker");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        crate::mounts::run(Command::new(cargo).args(["build", "-q", "-p", "tracker", "--features", "test-switches"]));
        assert!(beside.is_file(), "`cargo build -p tracker --features test-switches` made no {}", beside.display());
        beside
    })
}

/// One volume: source, store and state directory. Its folder is removed when dropped.
pub struct Volume {
    pub source: PathBuf,
    /// A directory, or an URL.
    pub store: PathBuf,
    pub state: PathBuf,
    pub name: String,
    /// More arguments of `protect`.
    pub extra: Vec<String>,
    /// Program and arguments that are put before `protect`, to run it with other rights.
    pub wrapper: Vec<String>,
    /// Environment of every command.
    pub environment: Vec<(String, String)>,
    log: PathBuf,
    folder: TempDir,
}

/// The result of a command of the product.
#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// The last line of stdout as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("no JSON: {error}: {self:?}"))
    }

    /// Asserts that the command ended with `code`.
    #[track_caller]
    pub fn expect(&self, code: i32) -> &Answer {
        assert_eq!(self.code, Some(code), "exit code, after {self:?}");
        self
    }

    /// Asserts that it ended with `code`, with one error that contains `word`, and one hint.
    #[track_caller]
    pub fn refuses(&self, code: i32, word: &str) {
        self.expect(code);
        let lines = |start: &str| self.stderr.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!((lines("error: "), lines("hint: ")), (1, 1), "one error and one hint, not {self:?}");
        assert!(self.stderr.contains(word), "`{word}` is not said: {self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Answer {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Answer { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Volume {
    /// A volume of `source` whose store and state directory are in a temporary folder of their own.
    ///
    /// # Panics
    /// When there is no temporary folder.
    pub fn new(source: &Path) -> Volume {
        let folder = tempfile::Builder::new().prefix("tracker-volume-").tempdir().expect("a temporary folder");
        // Servers under test start from what was restored here, as other users.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let at = |name: &str| folder.path().join(name);
        Volume {
            source: source.to_path_buf(),
            store: at("store"),
            state: at("state"),
            name: "v".to_owned(),
            extra: vec!["--interval".into(), "100ms".into()],
            wrapper: Vec::new(),
            environment: Vec::new(),
            log: at("log"),
            folder,
        }
    }

    /// Keeps tracking after a clean stop, as for a volume that is meant to come back.
    pub fn keep_tracking(&mut self) {
        self.extra.push("--keep-tracking".into());
    }

    /// A path in the folder, for restores and the like.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `STORE/VOLUME`.
    pub fn reference(&self) -> PathBuf {
        self.store.join(&self.name)
    }

    fn protect(&self) -> Command {
        let mut command = self.command(&self.wrapper);
        command.arg("protect").arg(&self.source).arg("--store").arg(&self.store).arg("--name").arg(&self.name);
        // Which capture was chosen and how it started is logged only on request.
        command.args(["--log", "info,tracker::capture::pins=debug,tracker::volume::startup::capture=debug,tracker::volume::world::paused=debug"]);
        command.arg("--state-dir").arg(&self.state).args(&self.extra);
        // The back end under test.
        match std::env::var("TRACKER_TEST_BACK_END") {
            Ok(back_end) if !self.extra.iter().any(|arg| arg == "--capture") => {
                _ = command.args(["--capture", &back_end])
            }
            _ => {}
        }
        command
    }

    fn command(&self, wrapper: &[String]) -> Command {
        let mut command = match wrapper.split_first() {
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args).arg(binary());
                command
            }
            None => Command::new(binary()),
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }

    /// Starts `protect` without waiting for `ready`. Log lines of several starts are appended to one file.
    ///
    /// # Panics
    /// When the program does not start at all.
    pub fn start(&self) -> Daemon<'_> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("the log");
        let mut child = self.protect().stdout(Stdio::piped()).stderr(log).spawn().expect("tracker starts");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Daemon { volume: self, child: Some(child), lines }
    }

    /// Starts `protect` and waits for `ready`.
    ///
    /// # Panics
    /// When it is not ready within [`READY`].
    #[track_caller]
    pub fn start_ready(&self) -> Daemon<'_> {
        let mut daemon = self.start();
        daemon.wait_ready(READY);
        daemon
    }

    /// Runs `protect` when it must refuse and end by itself.
    ///
    /// # Panics
    /// When it has not ended after [`READY`].
    #[track_caller]
    pub fn protect_ends(&self) -> Answer {
        limited(self.protect(), READY)
    }

    /// Runs another verb with this volume's state directory.
    #[track_caller]
    pub fn tracker(&self, args: &[&str]) -> Answer {
        let mut command = self.command(&[]);
        command.args(args).arg("--state-dir").arg(&self.state);
        limited(command, Duration::from_secs(180))
    }

    /// The volume's part of `status --json`; `None` if no daemon answers.
    pub fn try_status(&self) -> Option<Value> {
        let answer = self.tracker(&["status", "--json"]);
        let line: Value = serde_json::from_str(answer.stdout.lines().last()?).ok()?;
        line["volumes"].as_array()?.first().cloned()
    }

    /// As [`Volume::try_status`], when a daemon must answer.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.try_status().expect("a status")
    }

    /// Waits for a status that is `wanted`; `what` names it.
    ///
    /// # Panics
    /// When that does not happen within `limit`.
    #[track_caller]
    pub fn status_when(&self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.try_status().unwrap_or_default();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what} was not seen: {status:#}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// `sync --wait`.
    #[track_caller]
    pub fn sync(&self, timeout: Duration) -> Answer {
        self.tracker(&["sync", "--wait", "--timeout", &format!("{}ms", timeout.as_millis())])
    }

    /// `restore` of the newest commit.
    #[track_caller]
    pub fn restore(&self, target: &Path) -> Answer {
        let reference = self.reference();
        self.tracker(&["restore", utf8(&reference), utf8(target)])
    }

    /// Restores the newest commit into a directory of the folder, which must equal the source.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn restored(&self, name: &str) -> PathBuf {
        let copy = self.scratch(name);
        self.restore(&copy).expect(0);
        crate::compare::assert_same(&self.source, &copy);
        copy
    }

    /// `verify`, with `--read-data` when asked.
    #[track_caller]
    pub fn verify(&self, read_data: bool) -> Answer {
        let reference = self.reference();
        let mut args = vec!["verify", utf8(&reference)];
        args.extend(read_data.then_some("--read-data"));
        self.tracker(&args)
    }

    /// Ends tracking while no daemon runs: changes from now on are marked nowhere.
    ///
    /// # Panics
    /// When it was not tracked.
    pub fn lose_marks(&self) {
        let pins = pins(&self.state).expect("a state directory");
        fs::remove_dir_all(&pins).unwrap_or_else(|error| panic!("{}: {error}", pins.display()));
    }

    /// The end of the log of this volume's daemons.
    pub fn log_tail(&self) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let from = file.metadata()?.len().saturating_sub(LOG_SHOWN);
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_or_else(|error| format!("no log: {error}"), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- log of the daemon of {} ----\n{}", self.source.display(), self.log_tail());
            if std::env::var_os("TRACKER_TEST_KEEP").is_some() {
                self.folder.disable_cleanup(true);
                eprintln!("kept: {}", self.folder.path().display());
            }
        }
        // Tracking continues after a kill by design; if no daemon follows, it would only cost.
        if let Some(pins) = pins(&self.state)
            && let Err(error) = fs::remove_dir_all(&pins)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("cannot remove the pins {}: {error}", pins.display());
        }
    }
}

/// The pins of a state directory, named by its device and inode.
pub fn pins(state: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(state).ok()?;
    Some(Path::new("/sys/fs/bpf/tracker").join(format!("{:x}-{:x}", meta.dev(), meta.ino())))
}

/// Paths that tests make are text.
pub fn utf8(path: &Path) -> &str {
    path.to_str().expect("a path of a test is text")
}

/// Runs a command to its end.
///
/// # Panics
/// When it takes longer than `limit`; it is killed first.
#[track_caller]
fn limited(mut command: Command, limit: Duration) -> Answer {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tracker starts");
    let pid = Pid::from_child(&child);
    let (sender, ended) = channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    match ended.recv_timeout(limit) {
        Ok(output) => output.expect("its output").into(),
        Err(_) => {
            // Not waited for yet, so the id is still valid.
            let _ = kill_process(pid, Signal::KILL);
            let output = ended.recv().expect("its end").map(Answer::from);
            panic!("{command:?} did not end within {limit:?}: {output:?}");
        }
    }
}

/// A running `protect`, killed when dropped.
pub struct Daemon<'a> {
    volume: &'a Volume,
    child: Option<Child>,
    lines: Receiver<String>,
}

impl Daemon<'_> {
    /// Waits for the line `ready`; `false` when `limit` has passed.
    ///
    /// # Panics
    /// When the daemon ends instead.
    #[track_caller]
    pub fn ready_within(&mut self, limit: Duration) -> bool {
        match self.lines.recv_timeout(limit) {
            Ok(line) if line == "ready" => true,
            Ok(line) => panic!("`{line}` before `ready`"),
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.as_mut().map(Child::wait);
                panic!("the daemon ended before `ready`: {status:?}\n{}", self.volume.log_tail());
            }
        }
    }

    /// Waits for the line `ready`.
    ///
    /// # Panics
    /// When it does not come within `limit`.
    #[track_caller]
    pub fn wait_ready(&mut self, limit: Duration) {
        let status = || self.volume.try_status();
        if !self.ready_within(limit) {
            panic!("not ready within {limit:?}; status: {:?}\n{}", status(), self.volume.log_tail());
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it had ended before.
    #[track_caller]
    pub fn kill9(mut self) {
        let mut child = self.child.take().expect("running");
        if let Ok(Some(status)) = child.try_wait() {
            panic!("the daemon ended by itself: {status}\n{}", self.volume.log_tail());
        }
        child.kill().expect("kill");
        child.wait().expect("its end");
    }

    /// SIGTERM, then its exit status.
    ///
    /// # Panics
    /// When it does not obey within 40 s.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        let child = self.child.as_ref().expect("running");
        kill_process(Pid::from_child(child), Signal::TERM).expect("SIGTERM");
        let status = self.wait_end(STOP);
        status.unwrap_or_else(|| panic!("SIGTERM was not obeyed within {STOP:?}\n{}", self.volume.log_tail()))
    }

    /// Waits for its end; `None` when `limit` has passed.
    pub fn wait_end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        let child = self.child.as_mut()?;
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                self.child = None;
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

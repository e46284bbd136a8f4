//! What the benchmarks need from processes: the daemon in release mode, CPU time, bytes read, pins, links of the kernel.
#![expect(unsafe_code, reason = "CPU clocks of processes and the count of BPF links, which no safe crate offers")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tracker::daemon::control::Client;
use tracker::volume::status::VolumeStatus;

use super::Outcome;

/// The name of every volume of a benchmark.
pub(super) const VOLUME: &str = "v";

/// Source, store and state directory of one volume; with `None` as source one is created in the same folder.
pub(super) struct Place {
    pub(super) source: PathBuf,
    pub(super) store: PathBuf,
    pub(super) state: PathBuf,
    pub(super) folder: TempDir,
}

impl Place {
    pub(super) fn new(source: Option<&Path>) -> Outcome<Place> {
        let folder = tempfile::Builder::new().prefix("tracker-bench-").tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let (store, state) = (at("store"), at("state"));
        let source = source.map_or_else(|| at("source"), Path::to_path_buf);
        fs::create_dir_all(&source)?;
        fs::create_dir_all(&state)?;
        Ok(Place { source, store, state, folder })
    }

    /// The daemon's pins, named by the state directory's device and inode.
    fn pins(&self) -> Outcome<PathBuf> {
        let meta = fs::metadata(&self.state)?;
        Ok(Path::new("/sys/fs/bpf/tracker").join(format!("{:x}-{:x}", meta.dev(), meta.ino())))
    }

    /// Ends the tracking that the daemon leaves on purpose. Returns whether there were pins.
    pub(super) fn detach(&self) -> Outcome<bool> {
        match fs::remove_dir_all(self.pins()?) {
            Ok(()) => {
                // The kernel releases links a moment after their last pin.
                std::thread::sleep(Duration::from_millis(100));
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts `protect` with its defaults, except that tracking is kept as by a daemon, and waits for `ready`, which it
    /// times.
    pub(super) fn start(&self) -> Outcome<Daemon> {
        self.start_with(&[])
    }

    /// As [`Place::start`], with more arguments.
    pub(super) fn start_with(&self, more: &[&str]) -> Outcome<Daemon> {
        let mut command = Command::new(binary()?);
        command.arg("protect").arg(&self.source).arg("--store").arg(&self.store).args(["--name", VOLUME]);
        command.arg("--state-dir").arg(&self.state).arg("--keep-tracking").args(more);
        self.ready(command)
    }

    /// Starts the daemon of a configuration file, and waits for `ready` of all its `volumes`.
    pub(super) fn start_configured(&self, config: &Path, volumes: u64) -> Outcome<Daemon> {
        let mut command = Command::new(binary()?);
        command.arg("daemon").arg("--config").arg(config);
        self.ready_after(command, volumes)
    }

    fn ready(&self, command: Command) -> Outcome<Daemon> {
        self.ready_after(command, 1)
    }

    /// With several volumes each line also has the name of one.
    fn ready_after(&self, mut command: Command, mut volumes: u64) -> Outcome<Daemon> {
        let began = Instant::now();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log"))?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let mut daemon = Daemon { child, client: Client::new(&self.state), ready: Duration::ZERO };
        for line in BufReader::new(stdout).lines() {
            volumes -= u64::from(line?.starts_with("ready"));
            if volumes == 0 {
                daemon.ready = began.elapsed();
                return Ok(daemon);
            }
        }
        let status = daemon.child.wait()?;
        let log = fs::read_to_string(self.folder.path().join("log"))?;
        Err(format!("the daemon ended before `ready`: {status}\n{log}").into())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            eprintln!("bench: the pins of {} stay: {error}", self.state.display());
        }
    }
}

/// `$TRACKER_BIN`, or the program beside this one.
fn binary() -> Outcome<PathBuf> {
    let path = match std::env::var_os("TRACKER_BIN") {
        Some(path) => path.into(),
        None => std::env::current_exe()?.with_file_name("tracker"),
    };
    if path.is_file() { Ok(path) } else { Err(format!("{} is not there; build it first", path.display()).into()) }
}

/// A running `protect`, killed when dropped.
pub(super) struct Daemon {
    child: Child,
    client: Client,
    /// From the start of the process to `ready`.
    pub(super) ready: Duration,
}

impl Daemon {
    pub(super) fn status(&self) -> Outcome<VolumeStatus> {
        let volumes = self.client.status().map_err(|error| error.message)?;
        Ok(volumes.into_iter().next().ok_or("the daemon has no volume")?)
    }

    /// Calls `sync --wait`; an error if it is partial or degraded.
    pub(super) fn sync(&self) -> Outcome<()> {
        let reply = self.client.sync(None, Duration::from_secs(300), false).map_err(|error| error.message)?;
        if reply.exit_code() == tracker::error::ExitCode::Ok { Ok(()) } else { Err(format!("{reply:?}").into()) }
    }

    /// CPU time in seconds of all its threads, including ended ones.
    pub(super) fn cpu_seconds(&self) -> Outcome<f64> {
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let pid = libc::pid_t::try_from(self.child.id())?;
        // SAFETY: both calls write only to the values they are given, which outlive them.
        let failed = unsafe {
            libc::clock_getcpuclockid(pid, &raw mut clock) != 0 || libc::clock_gettime(clock, &raw mut time) != 0
        };
        if failed {
            return Err("the daemon's CPU clock cannot be read".into());
        }
        Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
    }

    /// CPU seconds of its threads that live, by the threads' names.
    pub(super) fn cpu_by_thread(&self) -> Outcome<BTreeMap<String, f64>> {
        let mut found = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // A thread may end meanwhile.
            let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
            let (name, rest) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).ok_or("no stat")?;
            let ticks: u64 =
                rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
            *found.entry(name.to_owned()).or_default() += ticks as f64 / 100.0;
        }
        Ok(found)
    }

    /// Bytes returned by all its read calls (files, sockets, its catalog).
    pub(super) fn rchar(&self) -> Outcome<u64> {
        rchar(&self.child.id().to_string())
    }

    /// Bytes that it caused to be written to a disk: catalog and store.
    pub(super) fn written(&self) -> Outcome<u64> {
        field(&format!("/proc/{}/io", self.child.id()), "write_bytes")
    }

    /// A memory line of `/proc/PID/status`, such as `VmRSS`, in bytes.
    pub(super) fn memory(&self, name: &str) -> Outcome<u64> {
        Ok(field(&format!("/proc/{}/status", self.child.id()), name)? << 10)
    }

    /// Sends SIGTERM, then waits for its end.
    pub(super) fn stop(mut self) -> Outcome<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the daemon ended with {status}").into()) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An error means that it has ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `NAME:  number` of a file in `/proc`.
fn field(path: &str, name: &str) -> Outcome<u64> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()).ok_or("a missing field")?;
    Ok(number.parse()?)
}

/// Bytes returned by the read calls of a process and of its children that were waited for.
pub(super) fn rchar(pid: &str) -> Outcome<u64> {
    field(&format!("/proc/{pid}/io"), "rchar")
}

/// CPU seconds of this process's children that were waited for, with theirs.
pub(super) fn children_cpu_seconds() -> Outcome<f64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call writes one rusage to the place it is given; all zeros are a valid one before it.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

/// How many BPF links this kernel has; `None` if it does not tell. They run whoever made them, so a benchmark of "nothing
/// attached" must know.
pub(super) fn bpf_links() -> Option<usize> {
    const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;
    let mut count = 0;
    // start_id, next_id, open_flags
    let mut attributes = [0u32; 3];
    loop {
        // SAFETY: the kernel reads and writes the array within the length that is passed.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_LINK_GET_NEXT_ID, attributes.as_mut_ptr(), size_of_val(&attributes))
        };
        if result != 0 {
            let ended = std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT);
            return ended.then_some(count);
        }
        count += 1;
        attributes[0] = attributes[1];
    }
}

//! One real load against one protected directory, from the baseline to the verified restore. A load's own file defines it;
//! this file checks what must hold for every load.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use serde_json::Value;

use crate::compare::assert_same;
use crate::daemon::{READY, Volume};
use crate::mounts::Mount;

/// Commits that each run must see at least.
const COMMITS: u64 = 100;
/// How often the daemon is killed in a run with kills.
const KILLS: u32 = 20;
/// A load that has not reached its commits by then has failed.
const LIMIT: Duration = Duration::from_secs(120);
const SYNC: Duration = Duration::from_secs(60);
/// How many times the dirty bytes may be read.
const READ_FACTOR: f64 = 1.5;
/// What a run may read in addition: the file that is first dirtied when the load begins, directories as bytes, ..
const READ_SLACK: u64 = 256 << 10;

/// Something that writes to a directory on its own until it is stopped.
pub trait Load {
    /// Fills the directory before it is protected. What it starts may keep running.
    fn prepare(&mut self, dir: &Path);

    /// Starts writing.
    fn start(&mut self);

    /// Stops writing and returns what was written since `start`. Fails if the load itself has failed.
    fn stop(&mut self, how: Stop) -> Written;

    /// Checks that `copy`, a restored directory that may be changed now, is usable.
    fn check(&mut self, copy: &Path);
}

/// How the writing application ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It closes its files.
    Clean,
    /// As by a crash: it leaves journals and sockets in place.
    Abrupt,
}

/// What a load knows of its own writing, independent of the daemon.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Bytes of its writes: rounded to 4 KiB blocks if the load makes the writes itself, else the bytes that its processes
    /// passed to `write` and similar calls, by the kernel's count. A block written in two flushes counts twice.
    pub bytes: u64,
    /// Bytes that stores through mappings can dirty in one flush; nothing counts these stores.
    pub mapped: u64,
}

/// Small seeded generator: a failing seed repeats the same choices, though not the same moments.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.below(u64::MAX).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// `$TRACKER_TEST_SEED`, or a fixed one.
pub fn seed() -> u64 {
    let set = std::env::var("TRACKER_TEST_SEED").ok();
    set.map_or(1, |text| text.parse().expect("TRACKER_TEST_SEED is a number"))
}

/// A file that nobody touches after the baseline, and a watch on every open of it.
struct Untouched {
    watch: OwnedFd,
}

impl Untouched {
    fn make(dir: &Path) -> PathBuf {
        let path = dir.join("untouched.bin");
        fs::write(&path, Random::new(7).bytes(200_000)).expect("the untouched file");
        path
    }

    fn watch(path: &Path) -> Untouched {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
        inotify::add_watch(&watch, path, WatchFlags::OPEN | WatchFlags::ACCESS).expect("a watch");
        Untouched { watch }
    }

    /// Openings and reads since the last call.
    fn events(&self) -> usize {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.watch, &mut buffer);
        let mut found = 0;
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => panic!("too many openings to count"),
                Ok(_) => found += 1,
                Err(error) if error == rustix::io::Errno::AGAIN => return found,
                Err(error) => panic!("the watch: {error}"),
            }
        }
    }
}

/// A number of a status.
#[track_caller]
pub fn number(status: &Value, field: &str) -> u64 {
    status[field].as_u64().unwrap_or_else(|| panic!("no number `{field}` in {status}"))
}

struct Run<'a> {
    name: &'a str,
    volume: Volume,
    untouched: PathBuf,
}

/// Runs the load for at least 100 commits without a fault.
///
/// # Panics
/// When any check fails.
#[track_caller]
pub fn steady(name: &str, mount: &Mount, load: &mut dyn Load) {
    let run = Run::prepare(name, mount, "steady", load);
    let daemon = run.volume.start_ready();
    let first = run.expect_capture();
    let untouched = Untouched::watch(&run.untouched);
    let (begun, io) = (Instant::now(), Io::of(daemon.pid()));
    load.start();
    run.until_head(number(&first, "head_seq") + COMMITS, begun + LIMIT);
    let written = load.stop(Stop::Clean);
    let last = run.settle();
    let opened = untouched.events();
    let seconds = begun.elapsed().as_secs_f64();
    let of = |field: &str| number(&last, field) - number(&first, field);
    let dirty = written.bytes + written.mapped * of("flushes");
    let (read, marked, literal) = (of("bytes_read"), of("bytes_marked"), of("bytes_literal"));
    println!(
        "{name}: {} commits in {seconds:.1} s; written {} (+ mapped {}), marked {marked}, read {read} ({:.3} per dirty byte), \
         literal {literal}, uploaded {}, files read {}, rescans {} {}, carried {}, late {}; the daemon's own reads {}",
        of("head_seq"),
        written.bytes,
        written.mapped * of("flushes"),
        read as f64 / dirty.max(1) as f64,
        of("bytes_uploaded"),
        of("files_read"),
        of("rescans"),
        last["rescan_reasons"],
        of("carried"),
        of("late"),
        Io::of(daemon.pid()).read - io.read,
    );
    run.restored(load);
    assert_eq!(opened, 0, "{name}: a file that nobody touched was opened or read after the baseline");
    assert_eq!(of("rescans"), 0, "{name}: rescans without a kill: {}", last["rescan_reasons"]);
    let bound = (dirty as f64 * READ_FACTOR) as u64 + READ_SLACK;
    assert!(read <= bound, "{name}: {read} bytes read for {dirty} dirty ones");
    assert!(daemon.stop().success(), "{name}: a polite stop\n{}", run.volume.log_tail());
}

/// Runs the load while the daemon is killed 20 times.
///
/// # Panics
/// When any check fails.
#[track_caller]
pub fn killed(name: &str, mount: &Mount, load: &mut dyn Load) {
    let seed = seed();
    println!("{name}: seed {seed} (TRACKER_TEST_SEED sets another)");
    let mut random = Random::new(seed);
    let run = Run::prepare(name, mount, "killed", load);
    let mut daemon = run.volume.start_ready();
    let first = number(&run.expect_capture(), "head_seq");
    let untouched = Untouched::watch(&run.untouched);
    let begun = Instant::now();
    load.start();
    let (mut head, mut rescans, mut early) = (first, 0, 0);
    let mut slowest = Duration::ZERO;
    for kill in 0..KILLS {
        // A third while it starts, the others while it works.
        if random.one_in(3) {
            early += 1;
            thread::sleep(Duration::from_millis(random.below(400)));
        } else {
            let started = Instant::now();
            if kill > 0 {
                daemon.wait_ready(READY);
            }
            slowest = slowest.max(started.elapsed());
            thread::sleep(Duration::from_millis(random.below(600)));
            let status = run.expect_capture();
            let now = number(&status, "head_seq");
            assert!(now >= head, "{name}: the head went back from {head} to {now} after {kill} kills");
            (head, rescans) = (now, rescans + number(&status, "rescans"));
            // Not always at the same point of a flush.
            thread::sleep(Duration::from_millis(random.below(100)));
        }
        daemon.kill9();
        daemon = run.volume.start();
    }
    daemon.wait_ready(READY);
    run.expect_capture();
    run.until_head(first + COMMITS, begun + LIMIT);
    let written = load.stop(Stop::Abrupt);
    let last = run.settle();
    let opened = untouched.events();
    println!(
        "{name}: {KILLS} kills ({early} while it started; slowest start {:.1} s), {} commits in {:.1} s, written {}; rescans {} \
         before the kills, {} after the last {}; openings of the untouched file {opened}",
        slowest.as_secs_f64(),
        number(&last, "head_seq") - first,
        begun.elapsed().as_secs_f64(),
        written.bytes,
        rescans,
        number(&last, "rescans"),
        last["rescan_reasons"],
    );
    run.restored(load);
    assert_eq!(opened, 0, "{name}: a file that nobody touched was opened or read after the baseline");
    assert!(daemon.stop().success(), "{name}: a polite stop\n{}", run.volume.log_tail());
}

impl<'a> Run<'a> {
    fn prepare(name: &'a str, mount: &Mount, dir: &str, load: &mut dyn Load) -> Run<'a> {
        let source = mount.dir(dir);
        load.prepare(&source);
        let untouched = Untouched::make(&source);
        Run { name, volume: Volume::new(&source), untouched }
    }

    /// Asserts that the kernel marks changes.
    #[track_caller]
    fn expect_capture(&self) -> Value {
        let status = self.volume.status();
        assert_eq!(status["backend"], "tracepoint", "{}: {status}", self.name);
        assert_eq!(status["armed"], true, "{}: {status}", self.name);
        status
    }

    #[track_caller]
    fn until_head(&self, head: u64, deadline: Instant) {
        loop {
            let status = self.volume.status();
            if number(&status, "head_seq") >= head {
                return;
            }
            assert!(Instant::now() < deadline, "{}: no commit {head} within {LIMIT:?}: {status}", self.name);
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// `sync --wait` with the load at rest.
    #[track_caller]
    fn settle(&self) -> Value {
        self.volume.sync(SYNC).expect(0);
        let status = self.volume.status();
        assert_eq!(status["state"], "protected", "{}: after the sync: {status}", self.name);
        status
    }

    /// Asserts that the newest commit, restored, equals the source, and that the application can use it.
    #[track_caller]
    fn restored(&self, load: &mut dyn Load) {
        let copy = self.volume.scratch("copy");
        self.volume.restore(&copy).expect(0);
        assert_same(&self.volume.source, &copy);
        load.check(&copy);
    }
}

/// The kernel's counters of a process and of its ended children.
#[derive(Clone, Copy, Debug, Default)]
pub struct Io {
    pub read: u64,
    pub written: u64,
}

impl Io {
    /// Of a process that runs, or has ended and was not waited for.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn of(pid: u32) -> Io {
        Io::try_of(pid).expect("the counters of the process")
    }

    fn try_of(pid: u32) -> io::Result<Io> {
        let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok());
            value.ok_or_else(|| io::Error::other(format!("no {name} in the process's counters")))
        };
        Ok(Io { read: field("rchar")?, written: field("wchar")? })
    }

    /// The same, including its living children.
    pub fn of_tree(pid: u32) -> Io {
        let mut sum = Io::of(pid);
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // A child that has just ended is included in its parent's counters next time.
            if let Ok(io) = Io::try_of(child) {
                sum.read += io.read;
                sum.written += io.written;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_of_the_untouched_file_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = Untouched::make(dir.path());
        let untouched = Untouched::watch(&path);
        fs::metadata(&path).unwrap();
        assert_eq!(untouched.events(), 0, "a look at its attributes is none");
        drop(fs::File::open(&path).unwrap());
        assert_eq!(untouched.events(), 1);
        fs::read(&path).unwrap();
        assert!(untouched.events() >= 2, "an opening and a read");
        assert_eq!(untouched.events(), 0);
    }

    #[test]
    fn writes_of_a_process_are_counted() {
        let before = Io::of(std::process::id()).written;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), vec![1; 100_000]).unwrap();
        assert!(Io::of(std::process::id()).written >= before + 100_000);
        assert!(Io::of_tree(std::process::id()).written >= before + 100_000);
    }
}

//! `tracker watch`: the real program over real file systems. Which paths, kinds and byte ranges it prints, that it needs no
//! store, and that it leaves nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::capture_rig::back_end;
use tests::daemon::binary;
use tests::mounts::{Kind, Mount};
use tests::raw_io::{Mapping, Pages};
use tracker::capture::{Capture, CaptureConfig};

/// Where a watch has its pins while it starts.
const PINS: &str = "/sys/fs/bpf/tracker/watch";
/// Generous: the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
const BLOCK: u64 = 4096;

/// One watch at a time: all cases use the same place for pins.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running `tracker watch`, killed when dropped.
struct Watch {
    child: Child,
    lines: Receiver<String>,
    /// Printed lines not yet consumed.
    seen: Vec<String>,
    /// Its working directory, and the state directory that it must not create.
    place: tempfile::TempDir,
}

impl Watch {
    fn start(dir: &Path, args: &[&str]) -> Watch {
        let place = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary());
        command.arg("watch").arg(dir).args(["--interval", "50ms"]).args(args);
        command.arg("--state-dir").arg(place.path().join("state")).current_dir(place.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Watch { child, lines, seen: Vec::new(), place }
    }

    /// The next line that is `wanted`; earlier lines are dropped.
    #[track_caller]
    fn line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("{what} was not printed, but {:#?}", self.seen);
            };
            self.seen.push(line.clone());
            if wanted(&line) {
                self.seen.clear();
                return line;
            }
        }
    }

    /// Merges the next changes of `path` until `enough`: kinds, and bytes as (offset, length).
    #[track_caller]
    fn change(&mut self, path: &str, enough: impl Fn(&Seen) -> bool) -> Seen {
        let mut all = Seen::default();
        let deadline = Instant::now() + SOON;
        while !enough(&all) {
            assert!(Instant::now() < deadline, "{path}: only {all:?}");
            let line = self.line(&format!("{path} (so far {all:?})"), |line| {
                let line: Value = serde_json::from_str(line).unwrap();
                assert_eq!(line["type"], "change");
                line["path"] == path || line["path_base64"] == path
            });
            all.add(&serde_json::from_str(&line).unwrap());
        }
        all
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Both calls return errors for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Changes of one path, merged.
#[derive(Debug, Default)]
struct Seen {
    kinds: Vec<String>,
    ranges: Vec<(u64, u64)>,
}

impl Seen {
    fn add(&mut self, line: &Value) {
        for kind in line["kinds"].as_array().unwrap() {
            let kind = kind.as_str().unwrap().to_owned();
            if !self.kinds.contains(&kind) {
                self.kinds.push(kind);
            }
        }
        for range in line["ranges"].as_array().unwrap() {
            self.ranges.push((range[0].as_u64().unwrap(), range[1].as_u64().unwrap()));
        }
    }

    fn has(&self, kind: &str) -> bool {
        self.kinds.iter().any(|have| have == kind)
    }

    /// Whether one printed range has all of these bytes.
    fn covers(&self, offset: u64, len: u64) -> bool {
        self.ranges.iter().any(|(at, have)| *at <= offset && offset + len <= at + have)
    }
}

/// A tree with a file `a` of 16 blocks that are on disk and not in memory, so that one written page is one folio.
fn tree(mount: &Mount) -> PathBuf {
    let dir = mount.dir("tree");
    for (name, bytes) in [("a", vec![b'a'; 16 * BLOCK as usize]), ("b", b"old".to_vec()), ("gone", b"gone".to_vec())] {
        fs::write(dir.join(name), bytes).unwrap();
    }
    fs::hard_link(dir.join("a"), dir.join("z-linked")).unwrap();
    let file = File::open(dir.join("a")).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    dir
}

fn write_only(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

fn every_change_is_printed(test: &str, kind: Kind) {
    let Some(mount) = Mount::new_or_skip(test, kind) else { return };
    let _turn = turn();
    let dir = tree(&mount);
    let mut watch = Watch::start(&dir, &["--json"]);
    let ready: Value = serde_json::from_str(&watch.line("ready", |_| true)).unwrap();
    assert_eq!((&ready["type"], &ready["path"]), (&"ready".into(), &dir.to_str().unwrap().into()));
    assert_eq!(ready["inodes"], 4, "the directory, a, b, gone: {ready}");
    assert!(!Path::new(PINS).exists(), "a watch keeps no pins");

    // A write, under both names of the file.
    write_only(&dir.join("a")).write_all_at(&[b'1'; BLOCK as usize], 5 * BLOCK).unwrap();
    for name in ["a", "z-linked"] {
        let seen = watch.change(name, |seen| seen.has("data"));
        assert_eq!(seen.ranges, [(5 * BLOCK, BLOCK)], "{name}: {seen:?}");
        assert!(!seen.has("size") && !seen.has("rescan") && !seen.has("names"), "{name}: {seen:?}");
    }

    let mut file = OpenOptions::new().append(true).open(dir.join("a")).unwrap();
    file.write_all(b"tail").unwrap();
    let seen = watch.change("a", |seen| seen.has("size") && seen.has("data"));
    assert!(seen.covers(16 * BLOCK, 4), "{seen:?}");
    let end = seen.ranges.iter().map(|(at, len)| at + len).max();
    assert_eq!(end, Some(16 * BLOCK + 4), "no range goes beyond the end of the file: {seen:?}");

    // Names.
    fs::create_dir(dir.join("d")).unwrap();
    watch.change(".", |seen| seen.has("names"));
    let seen = watch.change("d", |seen| seen.has("names"));
    assert_eq!(seen.ranges, []);
    fs::write(dir.join("d/new"), b"content").unwrap();
    let seen = watch.change("d/new", |seen| seen.has("data") && seen.has("size") && seen.covers(0, 7));
    assert!(seen.ranges.iter().all(|(at, len)| at + len <= 7), "{seen:?}");
    fs::rename(dir.join("b"), dir.join("d/c")).unwrap();
    watch.change(".", |seen| seen.has("names"));
    watch.change("d", |seen| seen.has("names"));
    write_only(&dir.join("d/c")).write_all_at(b"new", 0).unwrap();
    let seen = watch.change("d/c", |seen| seen.has("data"));
    assert_eq!(seen.ranges, [(0, 3)], "{seen:?}");
    fs::remove_file(dir.join("gone")).unwrap();
    watch.change(".", |seen| seen.has("names"));
    fs::write(dir.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    watch.change("/w==", |seen| seen.has("meta"));

    // Attributes say nothing of content.
    fs::set_permissions(dir.join("d/c"), fs::Permissions::from_mode(0o600)).unwrap();
    let seen = watch.change("d/c", |seen| seen.has("meta"));
    assert_eq!((&seen.kinds[..], &seen.ranges[..]), (&["meta".to_owned()][..], &[][..]));
    rustix::fs::setxattr(dir.join("d/new"), "user.k", b"v", rustix::fs::XattrFlags::empty()).unwrap();
    let seen = watch.change("d/new", |seen| seen.has("meta"));
    assert_eq!((&seen.kinds[..], &seen.ranges[..]), (&["meta".to_owned()][..], &[][..]));

    // Stores through a mapping: the second one is into the same page, and is seen only because of a write-back.
    let file = OpenOptions::new().read(true).write(true).open(dir.join("a")).unwrap();
    let map = Mapping::new(&file, 16 * BLOCK as usize).unwrap();
    for byte in *b"12" {
        map.store(3 * BLOCK as usize + 1, byte);
        let seen = watch.change("a", |seen| seen.has("data"));
        assert!(seen.covers(3 * BLOCK, BLOCK) && !seen.has("size"), "{seen:?}");
    }
    drop(map);

    write_only(&dir.join("a")).set_len(BLOCK).unwrap();
    watch.change("a", |seen| seen.has("size"));

    watch.signal(Signal::TERM);
    assert_eq!(watch.wait(), Some(0));
    let rest: Vec<String> = watch.lines.iter().collect();
    assert!(!rest.iter().any(|line| line.contains("\"gone\"")), "{rest:#?}");
    assert!(!Path::new(PINS).exists());
    assert_eq!(fs::read_dir(watch.place.path()).unwrap().count(), 0, "neither store nor state");
}

#[test]
fn watch_prints_changes_on_ext4() {
    every_change_is_printed("watch_prints_changes_on_ext4", Kind::Ext4);
}

#[test]
fn watch_prints_changes_on_xfs() {
    every_change_is_printed("watch_prints_changes_on_xfs", Kind::Xfs);
}

#[test]
fn watch_prints_changes_through_an_overlay() {
    every_change_is_printed("watch_prints_changes_through_an_overlay", Kind::Overlay);
}

#[test]
fn watch_prints_text_and_ends_as_the_signal_says() {
    let name = "watch_prints_text_and_ends_as_the_signal_says";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let _turn = turn();
    let dir = tree(&mount);
    for (signal, code, at) in [(Signal::INT, Some(130), 3), (Signal::KILL, None, 7), (Signal::TERM, Some(0), 11)] {
        let mut watch = Watch::start(&dir, &[]);
        assert_eq!(watch.line("ready", |_| true), "ready");
        write_only(&dir.join("a")).write_all_at(&[b'0' + at; BLOCK as usize], u64::from(at) * BLOCK).unwrap();
        let line = watch.line("a", |line| line.starts_with("a  ") && line.contains("data"));
        let mut fields = line.split("  ").skip(1);
        assert!(fields.next().unwrap().starts_with("data"), "{line}");
        assert_eq!(fields.next(), Some(&*format!("{}+{BLOCK}", u64::from(at) * BLOCK)), "{line}");
        watch.signal(signal);
        assert_eq!(watch.wait(), code, "{signal:?}");
        assert!(!Path::new(PINS).exists(), "pins after {signal:?}");
    }
    let mut watch = Watch::start(&dir, &["--timeout", "300ms"]);
    assert_eq!(watch.wait(), Some(0), "the end of --timeout");
}

#[test]
fn a_watch_removes_what_a_killed_start_left() {
    let name = "a_watch_removes_what_a_killed_start_left";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let _turn = turn();
    let dir = tree(&mount);
    // Complete pins with marks of another file system: what a kill leaves between pinning and removal.
    let (left, _) = Capture::start(&CaptureConfig::new(PINS, back_end())).unwrap();
    drop(left);
    assert!(Path::new(PINS).exists());
    let mut watch = Watch::start(&dir, &["--json"]);
    watch.line("ready", |line| line.contains("\"ready\""));
    assert!(!Path::new(PINS).exists());
    // Two at once do not disturb each other.
    let mut other = Watch::start(&dir, &["--json"]);
    other.line("ready", |line| line.contains("\"ready\""));
    watch.signal(Signal::TERM);
    assert_eq!(watch.wait(), Some(0));
    write_only(&dir.join("a")).write_all_at(b"x", 0).unwrap();
    other.change("a", |seen| seen.has("data") && seen.covers(0, 1));
}

#[test]
fn a_watch_refuses_back_ends_that_cannot_be_had() {
    let dir = tempfile::tempdir().unwrap();
    for word in ["fentry", "kprobe", "scan"] {
        let args = ["--capture", word, "--timeout", "1s"];
        let output = Command::new(binary()).arg("watch").arg(dir.path()).args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{word}: {text}");
        assert!(text.contains(word) && text.contains("hint: "), "{text}");
    }
}

/// Volumes mark completions of direct requests whose begin is unknown; a watch does not, since they are reads.
#[test]
fn a_direct_read_is_not_printed() {
    let Some(mount) = Mount::new_or_skip("a_direct_read_is_not_printed", Kind::Ext4) else { return };
    let _turn = turn();
    let dir = tree(&mount);
    fs::write(dir.join("read"), [1; 65_536]).unwrap();
    let mut watch = Watch::start(&dir, &[]);
    watch.line("ready", |line| line == "ready");
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(dir.join("read")).unwrap();
    let mut pages = Box::new(Pages([0; 65_536]));
    file.read_exact_at(&mut pages.0, 0).unwrap();
    write_only(&dir.join("a")).write_all_at(b"x", 0).unwrap();
    watch.line("a, and nothing before it", |line| {
        assert!(!line.starts_with("read  "), "{line}");
        line.starts_with("a  ")
    });
}

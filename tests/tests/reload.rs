//! Volumes that are added, changed and removed while the daemon runs and their files are written to. Whenever writers rest,
//! the restore of each volume equals its directory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::daemon::{Answer, Volume, binary, utf8};
use tests::load::{Random, seed};
use tests::mounts::{Kind, Mount};

const SYNC: Duration = Duration::from_secs(60);

/// Writes to a directory until it is stopped: blocks in the middle of files, appends, new names, renames, removals.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(dir: &Path, seed: u64) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, dir) = (Arc::clone(&stop), dir.to_path_buf());
        let thread = std::thread::spawn(move || {
            let mut random = Random::new(seed);
            while !seen.load(Ordering::SeqCst) {
                write_once(&dir, &mut random);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Writer { stop, thread: Some(thread) }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().expect("the load has no fault of its own");
    }
}

fn write_once(dir: &Path, random: &mut Random) {
    let path = dir.join(format!("in/{}", random.below(30)));
    let file = || File::options().write(true).create(true).truncate(false).open(&path).unwrap();
    let bytes = random.bytes(5000);
    match random.below(10) {
        0 => drop(fs::remove_file(&path)),
        1 => drop(fs::rename(&path, dir.join(format!("in/{}", random.below(30))))),
        2 => fs::write(&path, &bytes).unwrap(),
        _ => file().write_all_at(&bytes, random.below(1 << 20)).unwrap(),
    }
}

/// A daemon with sources on one file system.
struct Bed {
    /// The file system of the sources. Its folder `root` has one directory for each volume.
    _mount: Mount,
    root: PathBuf,
    /// Volume `a`; it also has the state directory, the store and the restores.
    a: Volume,
    daemon: Child,
}

impl Drop for Bed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        if std::thread::panicking() {
            eprintln!("---- log ----\n{}", fs::read_to_string(self.a.scratch("daemon.log")).unwrap_or_default());
        }
    }
}

impl Bed {
    fn new(mount: Mount, volumes: &[(&str, &str)]) -> Bed {
        let root = mount.dir("sources");
        for name in ["a", "b", "c"] {
            fs::create_dir_all(root.join(name).join("in")).unwrap();
            fs::write(root.join(name).join("large"), vec![7; 16 << 20]).unwrap();
        }
        let mut a = Volume::new(&root.join("a"));
        a.name = "a".into();
        write(&root, &a, volumes);
        let daemon = start(&a);
        Bed { _mount: mount, root, a, daemon }
    }

    /// Writes the configuration file: the lines of each volume, by name.
    fn write(&self, volumes: &[(&str, &str)]) {
        write(&self.root, &self.a, volumes);
    }

    fn source(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    #[track_caller]
    fn reload(&self) -> Answer {
        self.a.tracker(&["config", "reload"])
    }

    #[track_caller]
    fn add(&self, name: &str, more: &[&str]) {
        let (source, store) = (self.source(name), self.a.store.clone());
        let mut args = vec!["volume", "add", utf8(&source), "--store", utf8(&store), "--name", name];
        args.extend(["--interval", "100ms"].iter().chain(more));
        self.a.tracker(&args).expect(0);
    }

    fn statuses(&self) -> Vec<Value> {
        let answer = self.a.tracker(&["status", "--json"]);
        let line = answer.stdout.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
        line.and_then(|line| line["volumes"].as_array().cloned()).unwrap_or_default()
    }

    fn names(&self) -> Vec<String> {
        self.statuses().iter().filter_map(|v| Some(v["volume"].as_str()?.to_owned())).collect()
    }

    #[track_caller]
    fn when(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..1200 {
            let found = self.statuses().into_iter().find(|v| v["volume"] == name);
            if let Some(found) = found.filter(|status| wanted(status)) {
                return found;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{name} is not {what}: {:#?}", self.statuses());
    }

    /// Waits until the volume is protected, with or without the kernel's programs.
    #[track_caller]
    fn protected(&self, name: &str, captured: bool) -> Value {
        let what = if captured { "captured" } else { "scanned" };
        self.when(name, what, |v| v["state"] == "protected" && (v["backend"] != "scan") == captured)
    }

    /// Asserts that the newest commit equals the directory, without requesting a flush.
    #[track_caller]
    fn is_committed(&self, name: &str, copy: &str) {
        let copy = self.a.scratch(&format!("{name}-{copy}"));
        self.a.tracker(&["restore", utf8(&self.a.store.join(name)), utf8(&copy)]).expect(0);
        tests::compare::assert_same(&self.source(name), &copy);
        fs::remove_dir_all(&copy).unwrap();
    }

    #[track_caller]
    fn are_restored(&self, names: &[&str], copy: &str) {
        self.a.sync(SYNC).expect(0);
        names.iter().for_each(|name| self.is_committed(name, copy));
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.daemon), signal).unwrap();
    }

    #[track_caller]
    fn ends_with(mut self, code: i32) {
        self.signal(Signal::TERM);
        assert_eq!(self.daemon.wait().unwrap().code(), Some(code));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.a.scratch("daemon.log")).unwrap()
    }
}

fn write(root: &Path, a: &Volume, volumes: &[(&str, &str)]) {
    let mut text = format!("[metrics]\nlisten = \"off\"\n[defaults]\nstore = {:?}\ninterval = \"100ms\"\n", a.store);
    for (name, more) in volumes {
        text += &format!("[[volume]]\nname = \"{name}\"\nsource = {:?}\n{more}\n", root.join(name));
    }
    fs::write(a.scratch("tracker.toml"), text).unwrap();
}

fn start(a: &Volume) -> Child {
    let log = File::options().create(true).append(true).open(a.scratch("daemon.log")).unwrap();
    let mut command = Command::new(binary());
    command.arg("daemon").arg("--config").arg(a.scratch("tracker.toml")).arg("--state-dir").arg(&a.state);
    command.args(["--log", "info"]);
    command.stdout(Stdio::null()).stderr(log).spawn().expect("tracker starts")
}

#[test]
fn volumes_come_change_and_go_under_load() {
    let name = "volumes_come_change_and_go_under_load";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let seed = seed();
    let bed = Bed::new(mount, &[("a", "")]);
    bed.protected("a", true);
    let load = |name: &str| Writer::start(&bed.source(name), seed + u64::from(name.as_bytes()[0]));
    let writers = ["a", "b", "c"].map(load);

    bed.add("b", &[]);
    bed.write(&[("a", "interval = \"50ms\"\nscrub = \"100%\""), ("c", "capture = \"scan\"")]);
    let said = bed.reload();
    for line in ["volume a: interval = 50ms applied", "volume a: scrub = 100% applied", "volume c: added"] {
        assert!(said.expect(0).stdout.contains(line), "{line}: {said:?}");
        assert!(bed.log().contains(line), "each change is a line of the log");
    }
    bed.protected("b", true);
    bed.protected("c", false);
    // Switches both ways between marks and scans, while everything moves.
    bed.a.tracker(&["volume", "set", "c", "capture=auto", "nice=5"]).expect(0);
    bed.a.tracker(&["volume", "set", "a", "capture=scan"]).expect(0);
    bed.protected("c", true);
    bed.protected("a", false);
    // The other volumes continue.
    let other = if bed.protected("c", true)["backend"] == "kprobe" { "capture=fentry" } else { "capture=kprobe" };
    let refused = bed.a.tracker(&["volume", "set", "b", other, "interval=80ms"]);
    assert!(refused.expect(22).stdout.contains("interval = 80ms applied"), "{refused:?}");
    assert!(refused.stdout.contains("capture = ") && refused.stdout.contains("share one capture"), "{refused:?}");
    writers.into_iter().for_each(Writer::end);
    bed.are_restored(&["a", "b", "c"], "first");

    // The last flush of a removed volume includes what was written until then.
    let writers = ["b", "c"].map(load);
    std::thread::sleep(Duration::from_millis(500));
    writers.into_iter().for_each(Writer::end);
    bed.write(&[("a", "")]);
    bed.signal(Signal::HUP);
    bed.a.tracker(&["volume", "remove", "b"]).expect(0);
    for _ in 0..1200 {
        if bed.names() == ["a"] {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(bed.names(), ["a"]);
    bed.is_committed("b", "removed");
    bed.is_committed("c", "removed");
    // A reload undoes what was set; changes made while a volume was away are found when it comes back.
    bed.protected("a", true);
    let writers = ["a", "b", "c"].map(load);
    std::thread::sleep(Duration::from_millis(500));
    bed.write(&[("a", ""), ("b", "")]);
    bed.reload().expect(0);
    bed.add("c", &[]);
    bed.protected("b", true);
    bed.protected("c", true);
    writers.into_iter().for_each(Writer::end);
    bed.are_restored(&["a", "b", "c"], "second");
    bed.ends_with(0);
}

/// At first there is no capture and no volume requests one; then one does. What stays in the kernel serves the next
/// process.
#[test]
fn a_daemon_that_scans_gets_capture_when_a_volume_asks_for_it() {
    let name = "a_daemon_that_scans_gets_capture_when_a_volume_asks_for_it";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let scan = "capture = \"scan\"";
    let mut bed = Bed::new(mount, &[("a", scan), ("b", scan)]);
    bed.protected("a", false);
    let pins = tests::daemon::pins(&bed.a.state).unwrap();
    assert!(!pins.exists(), "nothing is attached for volumes that scan");
    bed.write(&[("a", ""), ("b", scan), ("c", "")]);
    let writer = Writer::start(&bed.source("a"), seed());
    bed.reload().expect(0);
    bed.protected("a", true);
    bed.protected("b", false);
    let before = bed.protected("c", true);
    writer.end();
    assert!(pins.exists());
    // The marks are exact.
    let large = File::options().write(true).open(bed.source("c").join("large")).unwrap();
    large.write_all_at(&[9; 100], 5_000_000).unwrap();
    bed.are_restored(&["a", "b", "c"], "captured");
    let after = bed.protected("c", true);
    let read = after["bytes_read"].as_u64().unwrap() - before["bytes_read"].as_u64().unwrap();
    // Of 16 MiB; if the page cache has large folios, a mark covers a whole one.
    assert!((1..8 << 20).contains(&read), "{read} bytes read for one block");

    bed.daemon.kill().unwrap();
    bed.daemon.wait().unwrap();
    large.write_all_at(&[8; 100], 9_000_000).unwrap();
    bed.daemon = start(&bed.a);
    let status = bed.protected("c", true);
    bed.are_restored(&["a", "b", "c"], "again");
    assert!(status["bytes_read"].as_u64().unwrap() < 8 << 20, "the marks were kept: {status}");
    bed.ends_with(0);
}

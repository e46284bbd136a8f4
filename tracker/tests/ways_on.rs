//! How a volume continues: a source that was restored, moved or created again, a store that was moved, and what a daemon
//! waits for. With the scan back end, so that it passes without privilege.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

/// A folder with sources, stores and a state directory.
struct Place {
    dir: tempfile::TempDir,
}

/// A running `protect` or `daemon`; killed when dropped.
struct Service {
    child: Child,
    lines: Receiver<String>,
}

impl Service {
    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("a line")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    #[track_caller]
    fn stop(mut self) {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(0));
                return;
            }
            assert!(begun.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Only a failing test leaves one behind; for a child that has ended both calls return errors.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Place {
    fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(path)
    }

    fn text(&self, path: &str) -> String {
        self.at(path).to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tracker"));
        command.args(args).arg("--state-dir").arg(self.at("state"));
        // No endpoint and no keys of this machine: a test that needs others sets them.
        command.env_remove("NOTIFY_SOCKET").env("AWS_EC2_METADATA_DISABLED", "true").env("RUST_LOG", "warn");
        command.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s").env("AWS_REGION", "us-east-1");
        command
    }

    fn start(&self, args: &[&str]) -> Service {
        let mut child = self.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Service { child, lines }
    }

    fn ask(&self, args: &[&str]) -> (i32, String) {
        let output = self.command(args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + std::str::from_utf8(&output.stderr).unwrap();
        (output.status.code().unwrap(), text)
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let (code, text) = self.ask(args);
        assert_eq!(code, 0, "{args:?}: {text}");
        text
    }

    /// `protect src --store STORE`, with more arguments.
    fn protect(&self, store: &str, more: &[&str]) -> Vec<String> {
        let first = ["protect", &self.text("src"), "--store", &self.text(store), "--name", "v", "--capture", "scan"];
        first.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
    }

    fn volume(&self, name: &str) -> Value {
        let (_, text) = self.ask(&["status", "--json"]);
        let status: Value = serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_default();
        let volumes = status["volumes"].as_array().cloned().unwrap_or_default();
        volumes.into_iter().find(|volume| volume["volume"] == name).unwrap_or_default()
    }

    /// The volume's status, once it is `wanted`.
    #[track_caller]
    fn when(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let volume = self.volume(name);
            if wanted(&volume) {
                return volume;
            }
            assert!(begun.elapsed() < LIMIT, "{what} was not seen: {volume:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A configuration with these volumes, each with its own lines; all are scanned.
    fn configure(&self, volumes: &[(&str, &str)]) -> String {
        let mut text = format!("state_dir = {:?}\n[metrics]\nlisten = \"off\"\n", self.text("state"));
        text += &format!("[defaults]\nstore = {:?}\ncapture = \"scan\"\ninterval = \"50ms\"\n", self.text("store"));
        for (name, lines) in volumes {
            text += &format!("[[volume]]\nname = \"{name}\"\nsource = {:?}\n{lines}\n", self.text(name));
        }
        std::fs::write(self.at("tracker.toml"), text).unwrap();
        self.text("tracker.toml")
    }

    /// Restores a volume and compares names and contents with its source.
    #[track_caller]
    fn restores(&self, store: &str, name: &str, source: &str) {
        let copy = self.at(&format!("copy-{name}"));
        let _ = std::fs::remove_dir_all(&copy);
        self.done(&["restore", &self.text(&format!("{store}/{name}")), copy.to_str().unwrap()]);
        assert_eq!(tree(&copy), tree(&self.at(source)));
    }
}

/// Every path below `root` with its content; a directory has none.
fn tree(root: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let (mut out, mut dirs) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            let content = match (kind.is_dir(), kind.is_symlink()) {
                (true, _) => None,
                (false, true) => Some(path.read_link().unwrap().into_os_string().into_encoded_bytes()),
                (false, false) => Some(std::fs::read(&path).unwrap()),
            };
            out.push((path.strip_prefix(root).unwrap().to_path_buf(), content));
            if kind.is_dir() {
                dirs.push(path);
            }
        }
    }
    out.sort();
    out
}

fn args(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

fn number(volume: &Value, key: &str) -> u64 {
    volume[key].as_u64().unwrap_or_else(|| panic!("no {key}: {volume}"))
}

/// Bytes that do not repeat.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A tree with directories in directories, a file of several names, and files of one and of many blocks.
fn fill(root: &Path) {
    std::fs::create_dir_all(root.join("deep/er")).unwrap();
    std::fs::write(root.join("top"), noise(1, 300_000)).unwrap();
    std::fs::write(root.join("deep/middle"), noise(2, 200_000)).unwrap();
    std::fs::write(root.join("deep/er/large"), noise(3, 9_000_000)).unwrap();
    std::fs::write(root.join("deep/small"), "small").unwrap();
    std::fs::hard_link(root.join("top"), root.join("deep/er/link")).unwrap();
    std::os::unix::fs::symlink("deep/small", root.join("symlink")).unwrap();
}

/// The source was lost and restored to the same place, with the state directory intact. It is refused with the command that
/// continues. After that command the same history continues: nothing that the store has is uploaded again, but what changed
/// meanwhile is.
#[test]
fn a_restored_source_goes_on_in_its_history_without_a_second_upload() {
    let place = Place::new();
    std::fs::create_dir(place.at("src")).unwrap();
    fill(&place.at("src"));
    let service = place.start(&args(&place.protect("store", &[])));
    assert_eq!(service.line(), "ready");
    let first = place.volume("v");
    assert!(number(&first, "bytes_literal") > 9_000_000, "{first}");
    service.stop();

    place.done(&["restore", &place.text("store/v"), &place.text("restored")]);
    std::fs::remove_dir_all(place.at("src")).unwrap();
    std::fs::rename(place.at("restored"), place.at("src")).unwrap();
    std::fs::remove_file(place.at("src/deep/small")).unwrap();
    std::fs::write(place.at("src/deep/new"), "new").unwrap();

    let (code, text) = place.ask(&args(&place.protect("store", &[])));
    assert_eq!(code, 22, "{text}");
    assert!(text.contains("protect --adopt") && text.contains("tracker adopt v"), "{text}");

    let service = place.start(&args(&place.protect("store", &["--adopt"])));
    assert_eq!(service.line(), "ready");
    place.done(&["sync", "--wait"]);
    let adopted = place.when("v", "the removal", |volume| volume["removals_waiting"] == 0);
    assert_eq!(adopted["volume_id"], first["volume_id"]);
    assert!(number(&adopted, "head_seq") > number(&first, "head_seq"));
    assert_eq!(number(&adopted, "bytes_literal"), 3, "the new file alone: {adopted}");
    assert!(number(&adopted, "bytes_read") > 9_000_000, "all of it was compared: {adopted}");
    std::fs::write(place.at("src/deep/middle"), noise(4, 1000)).unwrap();
    place.done(&["sync", "--wait"]);
    place.restores("store", "v", "src");
    place.done(&["verify", &place.text("store/v"), "--read-data"]);
    service.stop();

    // From now on it is the source, and a plain start works.
    let service = place.start(&args(&place.protect("store", &[])));
    assert_eq!(service.line(), "ready");
    service.stop();
}

/// An adopted directory that has nothing in common with the source is committed as it is; the old state can still be
/// restored.
#[test]
fn another_directory_that_is_adopted_is_committed_as_it_is() {
    let place = Place::new();
    std::fs::create_dir(place.at("src")).unwrap();
    fill(&place.at("src"));
    let service = place.start(&args(&place.protect("store", &[])));
    assert_eq!(service.line(), "ready");
    let before = number(&place.volume("v"), "head_seq");
    service.stop();
    std::fs::rename(place.at("src"), place.at("old")).unwrap();
    // A file where a directory was, a directory where a file was, two names of one file where two files were.
    std::fs::create_dir_all(place.at("src/top")).unwrap();
    std::fs::write(place.at("src/top/inner"), "inner").unwrap();
    std::fs::write(place.at("src/deep"), noise(2, 200_000)).unwrap();
    std::fs::hard_link(place.at("src/deep"), place.at("src/symlink")).unwrap();
    place.done(&["adopt", "v"]);
    let service = place.start(&args(&place.protect("store", &[])));
    assert_eq!(service.line(), "ready");
    place.done(&["sync", "--wait"]);
    place.when("v", "the removals", |volume| volume["removals_waiting"] == 0);
    place.done(&["sync", "--wait"]);
    place.restores("store", "v", "src");
    place.done(&["restore", &place.text("store/v"), &place.text("as-it-was"), "--at", &before.to_string()]);
    assert_eq!(tree(&place.at("as-it-was")), tree(&place.at("old")));
    service.stop();
}

/// A renamed store is accepted if the operator allows it and it is that store: an older copy of it is refused.
#[test]
fn a_store_that_was_moved_goes_on_and_an_older_copy_does_not() {
    let place = Place::new();
    std::fs::create_dir(place.at("src")).unwrap();
    fill(&place.at("src"));
    let service = place.start(&args(&place.protect("store", &[])));
    assert_eq!(service.line(), "ready");
    assert!(Command::new("cp").arg("-a").args([place.at("store"), place.at("copy")]).status().unwrap().success());
    std::fs::write(place.at("src/more"), "more").unwrap();
    place.done(&["sync", "--wait"]);
    let head = number(&place.volume("v"), "head_seq");
    service.stop();
    std::fs::rename(place.at("store"), place.at("moved")).unwrap();

    let (code, text) = place.ask(&args(&place.protect("moved", &[])));
    assert_eq!(code, 22, "{text}");
    assert!(text.contains("protect --store-moved") && text.contains("tracker adopt v --store-moved"), "{text}");
    let (code, text) = place.ask(&args(&place.protect("copy", &["--store-moved"])));
    assert_eq!(code, 21, "{text}");
    assert!(text.contains("is not the store that was moved"), "{text}");

    let service = place.start(&args(&place.protect("moved", &["--store-moved"])));
    assert_eq!(service.line(), "ready");
    let moved = place.volume("v");
    assert_eq!((number(&moved, "head_seq"), number(&moved, "bytes_literal")), (head, 0), "{moved}");
    service.stop();
    let service = place.start(&args(&place.protect("moved", &[])));
    assert_eq!(service.line(), "ready");
    service.stop();
}

/// Another volume's store is refused even if the operator allows a moved store.
#[test]
fn a_store_of_another_volume_is_no_moved_store() {
    let place = Place::new();
    std::fs::create_dir(place.at("src")).unwrap();
    std::fs::write(place.at("src/a"), "a").unwrap();
    for (state, store) in [("state", "store"), ("other-state", "other")] {
        let mut list = place.protect(store, &[]);
        let service = if state == "state" {
            place.start(&args(&list))
        } else {
            list.extend(["--state-dir".to_owned(), place.text(state)]);
            let mut child = Command::new(env!("CARGO_BIN_EXE_tracker"));
            let mut child = child.args(&list).stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            let (sender, lines) = channel();
            sender.send(line.trim().to_owned()).unwrap();
            Service { child, lines }
        };
        assert_eq!(service.line(), "ready");
        service.stop();
    }
    let (code, text) = place.ask(&args(&place.protect("other", &["--store-moved"])));
    assert_eq!(code, 11, "{text}");
    assert!(text.contains("another volume"), "{text}");
}

/// A volume whose source is away waits, and says so; the others run. It starts when its source appears, without a restart.
#[test]
fn a_volume_whose_source_is_away_waits_and_the_others_run() {
    let place = Place::new();
    std::fs::create_dir(place.at("one")).unwrap();
    std::fs::write(place.at("one/a"), "a").unwrap();
    let config = place.configure(&[("one", ""), ("two", "")]);
    let checked = place.done(&["config", "check", &config]);
    assert!(checked.contains("waits: ") && checked.contains("two does not exist"), "{checked}");
    let service = place.start(&["daemon", "--config", &config]);
    assert_eq!(service.line(), "ready one");
    let two = place.when("two", "waiting", |volume| volume["state"] == "waiting");
    assert!(two["waiting"].as_str().unwrap().contains("two does not exist"), "{two}");
    assert!(two["fenced_store"].is_null() && two["failure"].is_null(), "nobody asked its store: {two}");
    let (code, text) = place.ask(&["status"]);
    assert_eq!(code, 20, "{text}");
    assert!(text.contains("waits, and tries again by itself") && !text.contains("unfenced"), "{text}");
    place.done(&["sync", "one", "--wait"]);
    let (code, text) = place.ask(&["sync", "two", "--wait", "--timeout", "200ms"]);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("the volume waits"), "{text}");

    std::fs::create_dir(place.at("two")).unwrap();
    std::fs::write(place.at("two/b"), "b").unwrap();
    assert_eq!(service.line(), "ready two");
    place.done(&["sync", "--wait"]);
    assert_eq!(place.ask(&["status"]).0, 0);
    place.restores("store", "two", "two");
    service.stop();
}

/// A path that feeds back into itself is found when the source appears, and only that volume ends.
#[test]
fn a_source_that_comes_back_inside_another_is_refused_then() {
    let place = Place::new();
    std::fs::create_dir(place.at("one")).unwrap();
    let config = place.configure(&[("two", ""), ("one", "")]);
    let service = place.start(&["daemon", "--config", &config]);
    assert_eq!(service.line(), "ready one");
    place.when("two", "waiting", |volume| volume["state"] == "waiting");
    std::fs::create_dir(place.at("one/inner")).unwrap();
    std::os::unix::fs::symlink(place.at("one/inner"), place.at("two")).unwrap();
    let two = place.when("two", "the refusal", |volume| volume["state"] == "stopped");
    assert_eq!(two["failure"]["code"], 22, "{two}");
    assert_eq!(place.volume("one")["state"], "protected");
    service.stop();
}

/// A store that does not answer is waited for; it is not called unfenced, and a stop works.
#[test]
fn a_store_that_does_not_answer_is_waited_for() {
    let place = Place::new();
    std::fs::create_dir(place.at("one")).unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = place.configure(&[("one", "store = \"s3://bucket/x\"")]);
    let mut command = place.command(&["daemon", "--config", &config]);
    let child = command.env("AWS_ENDPOINT_URL", format!("http://{closed}")).stdout(Stdio::null()).spawn().unwrap();
    let (_, lines) = channel();
    let service = Service { child, lines };
    let one = place.when("one", "waiting", |volume| volume["state"] == "waiting");
    assert!(one["fenced_store"].is_null() && one["failure"].is_null(), "{one}");
    assert!(one["waiting"].as_str().is_some_and(|text| !text.is_empty()), "{one}");
    let (code, text) = place.ask(&["status"]);
    assert!(code == 20 && !text.contains("unfenced"), "{text}");
    service.stop();
}

/// A store that is away when a daemon starts again: it is waited for, changes made meanwhile are committed, and a reload
/// tries at once.
#[test]
fn a_volume_goes_on_when_its_store_is_back() {
    let place = Place::new();
    std::fs::create_dir(place.at("one")).unwrap();
    std::fs::write(place.at("one/a"), "a").unwrap();
    let config = place.configure(&[("one", "")]);
    let service = place.start(&["daemon", "--config", &config]);
    assert_eq!(service.line(), "ready");
    service.stop();
    std::fs::rename(place.at("store"), place.at("away")).unwrap();
    let service = place.start(&["daemon", "--config", &config]);
    place.when("one", "waiting", |volume| volume["state"] == "waiting");
    std::fs::write(place.at("one/b"), "b").unwrap();
    // A wrong start may have created it.
    let _ = std::fs::remove_dir_all(place.at("store"));
    std::fs::rename(place.at("away"), place.at("store")).unwrap();
    service.signal(Signal::HUP);
    assert_eq!(service.line(), "ready");
    place.done(&["sync", "--wait"]);
    place.restores("store", "one", "one");
    service.stop();
}

/// `docker compose down -v; up`: the directory is removed and created again while the daemon runs.
#[test]
fn a_directory_that_is_made_again_stops_its_volume_until_it_is_adopted() {
    let place = Place::new();
    for name in ["one", "two"] {
        std::fs::create_dir(place.at(name)).unwrap();
        fill(&place.at(name));
    }
    let config = place.configure(&[("one", ""), ("two", "replaced = \"adopt\"")]);
    let service = place.start(&["daemon", "--config", &config]);
    let mut ready = [service.line(), service.line()];
    ready.sort();
    assert_eq!(ready, ["ready one", "ready two"]);
    let before = place.volume("two");
    for name in ["one", "two"] {
        std::fs::remove_dir_all(place.at(name)).unwrap();
    }
    for name in ["one", "two"] {
        place.when(name, "waiting", |volume| volume["state"] == "waiting");
    }
    for name in ["one", "two"] {
        std::fs::create_dir(place.at("made")).unwrap();
        fill(&place.at("made"));
        std::fs::write(place.at("made/again"), "again").unwrap();
        std::fs::rename(place.at("made"), place.at(name)).unwrap();
    }
    // The first stops, and says how to continue; the other has continued by itself.
    let one = place.when("one", "the end", |volume| volume["state"] == "stopped");
    assert_eq!(one["failure"]["code"], 22, "{one}");
    let (code, text) = place.ask(&["status"]);
    assert!(code == 20 && text.contains("tracker adopt one"), "{text}");
    let two = place.when("two", "protected", |volume| volume["state"] == "protected");
    assert_eq!(two["volume_id"], before["volume_id"]);
    place.done(&["sync", "two", "--wait"]);
    let two = place.volume("two");
    assert_eq!(number(&two, "bytes_literal") - number(&before, "bytes_literal"), 5, "`again` alone: {two}");
    place.restores("store", "two", "two");

    place.done(&["adopt", "one"]);
    place.when("one", "protected", |volume| volume["state"] == "protected");
    place.done(&["sync", "--wait"]);
    place.restores("store", "one", "one");
    assert!(place.done(&["adopt", "one"]).contains("nothing to adopt"), "it runs");
    assert_eq!(place.ask(&["adopt", "none"]).0, 10);
    service.stop();
}

/// Somebody watches a plain `protect`: it is refused at once.
#[test]
fn protect_does_not_wait_for_its_source() {
    let place = Place::new();
    let begun = Instant::now();
    let (code, text) = place.ask(&args(&place.protect("store", &[])));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does not exist") && begun.elapsed() < Duration::from_secs(10), "{text}");
}

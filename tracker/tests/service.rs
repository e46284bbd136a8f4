//! The program as a service: ready, status, sync, endpoints, locks, signals. With the scan back end, so that it
//! passes without privilege.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

struct Service {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Service {
    fn start(args: &[&str]) -> Service {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tracker"));
        command.args(args).env_remove("NOTIFY_SOCKET").env("RUST_LOG", "warn").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Service { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ends_with(mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not end");
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

fn ask(args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tracker")).args(args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + std::str::from_utf8(&output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

fn json(args: &[&str]) -> (i32, serde_json::Value) {
    let (code, text) = ask(args);
    (code, serde_json::from_str(&text).unwrap())
}

fn at(dir: &Path, path: &str) -> String {
    dir.join(path).to_str().unwrap().to_string()
}

#[test]
fn protect_lives_and_ends_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let (source, store, state) = (at(dir.path(), "src"), at(dir.path(), "backup"), at(dir.path(), "state"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(dir.path().join("src/a"), "one").unwrap();
    let args = ["protect", &source, "--store", &store, "--state-dir", &state, "--capture", "scan", "--json"];
    let mut service = Service::start(&args);
    let ready: serde_json::Value = serde_json::from_str(&service.line()).unwrap();
    assert_eq!((&ready["type"], &ready["volume"]), (&"ready".into(), &"src".into()));

    let (code, status) = json(&["status", "--state-dir", &state, "--json"]);
    let volume = &status["volumes"][0];
    assert_eq!((code, &volume["backend"], &volume["fenced_store"]), (0, &"scan".into(), &true.into()));
    assert!(!volume["reasons"].as_array().unwrap().is_empty(), "it says why it scans: {volume}");

    std::fs::write(dir.path().join("src/a"), "three").unwrap();
    let (code, sync) = json(&["sync", "src", "--wait", "--timeout", "30s", "--state-dir", &state, "--json"]);
    assert_eq!((code, &sync["code"], &sync["waited"]), (0, &0.into(), &true.into()), "{sync}");
    assert!(sync["seq"].as_u64() > ready["seq"].as_u64(), "{sync} {ready}");
    assert_eq!(ask(&["sync", "none", "--wait", "--state-dir", &state]).0, 10);
    assert_eq!(ask(&["status", "none", "--state-dir", &state]).0, 10);

    let (code, text) = ask(&args[..args.len() - 1]);
    assert_eq!(code, 11, "the state directory is locked: {text}");
    assert!(text.contains("another tracker uses the state directory") && text.contains("hint:"), "{text}");

    service.signal(Signal::INT);
    assert_eq!(service.ends_with(), 130);
    assert_eq!(ask(&["status", "--state-dir", &state]).0, 1);

    // The same writer continues, and a service manager's SIGTERM is not an error.
    let mut again = Service::start(&args);
    assert!(again.line().contains("\"ready\""));
    again.signal(Signal::TERM);
    assert_eq!(again.ends_with(), 0);
}

/// As a service manager gets them.
#[test]
fn messages_reach_a_socket_in_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let (source, store, state) = (at(dir.path(), "src"), at(dir.path(), "backup"), at(dir.path(), "state"));
    std::fs::create_dir(&source).unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let hears = |wanted: &str| loop {
        let mut buffer = [0; 256];
        let len = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted}: {error}"));
        if std::str::from_utf8(&buffer[..len]).unwrap().starts_with(wanted) {
            return;
        }
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracker"));
    command.args(["protect", &source, "--store", &store, "--state-dir", &state, "--capture", "scan"]);
    command.env("NOTIFY_SOCKET", dir.path().join("notify")).env("WATCHDOG_USEC", "1000000").env("RUST_LOG", "warn");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    let service = Service { child, lines };
    for wanted in ["READY=1\n", "STATUS=1 volumes\n", "WATCHDOG=1\n"] {
        hears(wanted);
    }
    service.signal(Signal::HUP);
    hears("RELOADING=1\nMONOTONIC_USEC=");
    hears("READY=1\n");
    service.signal(Signal::TERM);
    hears("STOPPING=1\n");
    assert_eq!(service.ends_with(), 0);
}

#[test]
fn the_same_writer_goes_on_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let (source, store, state) = (at(dir.path(), "src"), at(dir.path(), "backup"), at(dir.path(), "state"));
    std::fs::create_dir(&source).unwrap();
    let args = ["protect", &source, "--store", &store, "--state-dir", &state, "--capture", "scan"];
    for round in 0..3 {
        std::fs::write(dir.path().join("src/a"), format!("round {round}")).unwrap();
        let mut service = Service::start(&args);
        assert_eq!(service.line(), "ready\n", "round {round}");
        service.signal(Signal::KILL);
        service.child.wait().unwrap();
    }
}

/// A daemon with the volumes `db` and `www`, ready.
struct Two {
    /// Removed when dropped.
    _dir: tempfile::TempDir,
    root: std::path::PathBuf,
    free: std::net::SocketAddr,
    config: String,
    file: String,
    service: Service,
}

fn two() -> Two {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = format!(
        "state_dir = \"{0}/state\"\n[metrics]\nlisten = \"{free}\"\n[defaults]\nstore = \"{0}/backup\"\ncapture = \"scan\"\n",
        root.display()
    );
    for name in ["db", "www"] {
        std::fs::create_dir(root.join(name)).unwrap();
        config += &format!("[[volume]]\nsource = \"{}/{name}\"\n", root.display());
    }
    let file = at(&root, "tracker.toml");
    std::fs::write(&file, &config).unwrap();
    let mut service = Service::start(&["daemon", "--config", &file]);
    let mut ready = [service.line(), service.line()];
    ready.sort();
    assert_eq!(ready, ["ready db\n", "ready www\n"]);
    Two { _dir: dir, root, free, config, file, service }
}

fn get(at: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

#[test]
fn a_daemon_serves_many_volumes_and_its_endpoints() {
    let Two { root, free, file, service, _dir, .. } = two();
    let get = |path: &str| get(free, path);
    assert!(get("/readyz").starts_with("HTTP/1.1 200"), "{}", get("/readyz"));
    let metrics = get("/metrics");
    for name in ["db", "www"] {
        assert!(metrics.contains(&format!("tracker_volume_loss_window_seconds{{volume=\"{name}\"}}")), "{metrics}");
    }
    assert!(!metrics.contains(root.to_str().unwrap()), "no path is exposed");

    let state = at(&root, "state");
    let (code, status) = json(&["status", "--state-dir", &state, "--json"]);
    assert_eq!((code, status["volumes"].as_array().unwrap().len()), (0, 2));
    let (code, text) = ask(&["sync", "--wait", "--state-dir", &state]);
    assert_eq!(code, 0, "{text}");

    // A wrong file keeps the old configuration in force, and is reported.
    std::fs::write(&file, "nonsense = 1\n").unwrap();
    service.signal(Signal::HUP);
    let begun = Instant::now();
    while !get("/metrics").contains("\ntracker_config_last_reload_successful 0\n") {
        assert!(begun.elapsed() < Duration::from_secs(10), "the refused reload does not show");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(get("/readyz").starts_with("HTTP/1.1 200"));
    service.signal(Signal::TERM);
    assert_eq!(service.ends_with(), 0);
}

/// Changes that can be applied are applied; the others are refused by name, without affecting the rest.
#[test]
fn a_reload_applies_what_it_can_and_refuses_the_rest() {
    let Two { root, free, config, file, service, _dir } = two();
    let state = at(&root, "state");
    let result =
        |wanted: u32| get(free, "/metrics").contains(&format!("\ntracker_config_last_reload_successful {wanted}\n"));
    let interval = || json(&["status", "--state-dir", &state, "--json"]).1["volumes"][0]["interval_ms"].clone();
    let begun = Instant::now();
    let elsewhere = config.replacen("/state\"", "/elsewhere\"", 1);
    for (text, ms, success) in [(&elsewhere, 77, 0), (&config, 88, 1)] {
        std::fs::write(&file, text.replace("[[volume]]", &format!("[[volume]]\ninterval = \"{ms}ms\""))).unwrap();
        service.signal(Signal::HUP);
        while interval() != ms || !result(success) {
            assert!(begun.elapsed() < Duration::from_secs(20), "not applied: {}, {success}", interval());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // The endpoint moves, and frees its old address.
    let other = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::fs::write(&file, config.replace(&free.to_string(), &other.to_string())).unwrap();
    let (code, text) = ask(&["config", "reload", "--state-dir", &state]);
    assert!(text.contains(&format!("the process: metrics.listen = {other} applied")), "{text}");
    assert_eq!(code, 0, "{text}");
    assert!(get(other, "/healthz").starts_with("HTTP/1.1 200"));
    drop(TcpListener::bind(free).unwrap());
    // Each volume has its line, and its object.
    let (code, text) = ask(&["sync", "--wait", "--state-dir", &state]);
    let mut lines: Vec<&str> = text.lines().filter(|line| line.contains(": synced: commit ")).collect();
    lines.sort_unstable();
    assert_eq!((code, lines.len()), (0, 2), "{text}");
    assert!(lines[0].starts_with("db: ") && lines[1].starts_with("www: "), "{text}");
    let (_, objects) = ask(&["sync", "--wait", "--json", "--state-dir", &state]);
    assert_eq!(objects.lines().filter(|line| line.contains("\"type\":\"sync\"")).count(), 2, "{objects}");
    service.signal(Signal::TERM);
    assert_eq!(service.ends_with(), 0);
}

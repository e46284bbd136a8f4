//! The service loop over a fake set of volumes. Signals are tested with the real program.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use sd_notify::NotifyState;

use crate::daemon::control::Client;
use crate::daemon::control::fake::{Fake, protected};
use crate::daemon::service::*;

/// What was written; readable while the loop still holds the writer.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Run {
    dir: tempfile::TempDir,
    fake: Arc<Fake>,
    shared: Shared,
    thread: std::thread::JoinHandle<Result<ExitCode, AppError>>,
    /// Messages to the service manager.
    manager: Receiver<String>,
}

fn start(volumes: Vec<VolumeStatus>, json: bool) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::new(volumes));
    let shared = Shared::default();
    let (sender, manager) = channel();
    let (state, control, writer) = (dir.path().join("state"), Arc::clone(&fake), shared.clone());
    let thread = std::thread::spawn(move || {
        let kernel_maps = crate::config::default_maps();
        let process = crate::config::ProcessConfig::default();
        let (file, state_dir, metrics_listen, listen_by_command) = (None, None, None, true);
        let config =
            Config { file, state_dir, metrics_listen, listen_by_command, kernel_maps, process, volumes: vec![] };
        let state = StateDir::lock(&state).unwrap();
        // If the test has ended, nobody receives.
        let send = Box::new(move |state: &[NotifyState<'_>]| {
            let words: Vec<String> = state.iter().map(ToString::to_string).collect();
            sender.send(words.join("\n")).map_err(io::Error::other)
        });
        let notify = Notify::new(send, Some(Duration::from_millis(300)));
        let control: Arc<dyn Control> = control;
        let mut out = Out::new(json, Box::new(writer));
        let process = Arc::new(Process::new());
        serve(Early::new(&config, &process).unwrap(), &state, &control, &process, &notify, &mut out)
    });
    Run { dir, fake, shared, thread, manager }
}

impl Run {
    fn wait_for(&self, what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{what}; output: {}", self.shared.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Receives until this message comes.
    fn hears(&self, message: &str) {
        while self.manager.recv_timeout(Duration::from_secs(10)).unwrap() != message {}
    }

    fn stop(self) -> (Result<ExitCode, AppError>, Arc<Fake>, String) {
        Client::new(&self.dir.path().join("state")).stop().unwrap();
        let ended = self.thread.join().unwrap();
        (ended, self.fake, self.shared.text())
    }
}

#[test]
fn ready_is_said_once_when_the_baseline_is_committed() {
    let starting = VolumeStatus { state: State::Baseline, baseline_seq: None, ..protected("db") };
    let run = start(vec![starting], true);
    run.hears("READY=1");
    run.hears("WATCHDOG=1");
    assert_eq!(run.shared.text(), "", "a baseline in progress is not ready");
    *run.fake.volumes.lock().unwrap() = vec![protected("db")];
    run.wait_for("ready", || !run.shared.text().is_empty());
    std::thread::sleep(TICK * 3);
    let (ended, fake, text) = run.stop();
    assert_eq!(text, "{\"seq\":1,\"type\":\"ready\",\"volume\":\"db\"}\n");
    assert_eq!(ended.unwrap(), ExitCode::Ok);
    assert_eq!(fake.calls(), ["stop"], "the last flush is made");
}

/// A failed last flush has its own exit code, whatever requested the end.
#[test]
fn what_could_not_be_committed_ends_the_process_as_partial() {
    let run = start(vec![protected("db")], false);
    run.wait_for("ready", || run.shared.text() == "ready\n");
    let left = crate::volume::last_flush::Uncommitted { volume: "db".into(), inodes: 3, ..Default::default() };
    run.fake.uncommitted.lock().unwrap().push(left);
    let error = run.stop().0.unwrap_err();
    assert_eq!(error.code, ExitCode::Partial);
    assert!(error.message.contains("volume db: changes of at least 3 files"), "{}", error.message);
}

#[test]
fn the_first_line_is_for_a_person() {
    let v = VolumeStatus { source: "/srv/my data".into(), store: "s3://b/p".into(), ..protected("db") };
    assert_eq!(beginning(&v), "protecting '/srv/my data' -> s3://b/p/db by scanning (`tracker doctor` says why)");
    let v = VolumeStatus { source: "/srv/db".into(), backend: BackEnd::Kprobe, ..v };
    assert_eq!(beginning(&v), "protecting /srv/db -> s3://b/p/db by eBPF (kprobe)");
}

#[test]
fn one_volume_says_just_ready() {
    let run = start(vec![protected("db")], false);
    run.wait_for("ready", || run.shared.text() == "ready\n");
    run.hears("READY=1");
    run.stop().0.unwrap();
}

#[test]
fn the_end_of_all_volumes_ends_the_process_with_their_code() {
    let fenced = |name: &str| VolumeStatus {
        state: State::Fenced,
        failure: Some(AppError::new(ExitCode::Locked, format_args!("{name}: another writer"))),
        ..protected(name)
    };
    let run = start(vec![protected("a"), fenced("b")], false);
    run.wait_for("ready", || run.shared.text() == "ready a\n");
    std::thread::sleep(TICK * 3);
    assert!(!run.thread.is_finished(), "one volume goes on");
    *run.fake.volumes.lock().unwrap() = vec![fenced("a"), fenced("b")];
    run.hears("STOPPING=1");
    let error = run.thread.join().unwrap().unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (ExitCode::Locked, "a: another writer"));
    assert_eq!(run.fake.calls(), ["stop"]);
}

#[test]
fn a_volume_that_stands_still_starves_the_watchdog() {
    let stuck = VolumeStatus { loss_window_seconds: Some(1.0), ..protected("db") };
    let run = start(vec![stuck], false);
    run.hears("WATCHDOG=1");
    std::thread::sleep(Duration::from_millis(700));
    // Discard what was sent before the standstill was noticed.
    while run.manager.try_recv().is_ok() {}
    std::thread::sleep(Duration::from_millis(400));
    assert!(run.manager.try_recv().is_err(), "the watchdog is still fed");
    run.stop().0.unwrap();
}

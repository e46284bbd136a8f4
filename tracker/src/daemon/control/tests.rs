//! The socket, both ends in one process.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::{Allow, VolumeConfig, VolumeOptions};
use crate::daemon::change::{Change, Outcome};
use crate::daemon::control::fake::{Fake, protected};
use crate::daemon::control::*;
use crate::error::{AppError, ExitCode};
use crate::store::StoreUrl;
use crate::volume::status::{SyncReply, VolumeStatus, VolumeSync};

struct Open {
    dir: tempfile::TempDir,
    fake: Arc<Fake>,
    stops: Arc<AtomicUsize>,
    _server: Server,
}

fn open(volumes: Vec<VolumeStatus>) -> Open {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::new(volumes));
    let stops = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&stops);
    let control: Arc<dyn Control> = Arc::<Fake>::clone(&fake);
    let on_stop = Box::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let server = Server::start(&socket_path(dir.path()), control, on_stop).unwrap();
    Open { dir, fake, stops, _server: server }
}

fn raw(open: &Open, bytes: &[u8]) -> serde_json::Value {
    let mut stream = UnixStream::connect(socket_path(open.dir.path())).unwrap();
    stream.write_all(bytes).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{text:?}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn status_and_sync_make_the_round_trip() {
    let open = open(vec![protected("db"), protected("www")]);
    let client = Client::new(open.dir.path());
    assert_eq!(client.status().unwrap(), [protected("db"), protected("www")]);
    let volume = VolumeSync { volume: "db".into(), seq: 9, partial: vec!["a: EIO".into()], ..VolumeSync::default() };
    let reply = SyncReply { volumes: vec![volume] };
    *open.fake.reply.lock().unwrap() = reply.clone();
    assert_eq!(client.sync(Some("db"), Duration::from_millis(1500), true).unwrap(), reply);
    assert_eq!(open.fake.calls(), [r#"sync Some("db") 1.5s instant"#]);
    let unknown = client.sync(Some("none"), Duration::ZERO, false).unwrap_err();
    assert_eq!(unknown.code, ExitCode::Absent);
    assert_eq!(client.reload().unwrap(), []);
    *open.fake.refuse_reload.lock().unwrap() = Some("line 3".into());
    assert!(client.reload().unwrap_err().message.contains("line 3"));
}

#[test]
fn what_was_changed_is_answered_one_by_one() {
    let open = open(vec![protected("db")]);
    let client = Client::new(open.dir.path());
    let options = VolumeOptions { interval: "1s".parse().unwrap(), ..VolumeOptions::default() };
    let store = "s3://bucket/prefix".parse().unwrap();
    let volume = |name: &str, store: &StoreUrl| VolumeConfig {
        name: name.into(),
        source: "/src".into(),
        store: store.clone(),
        options: options.clone(),
        allow: Allow { source: true, store: false },
    };
    let added = client.add(&volume("www", &store)).unwrap();
    assert_eq!(added, [Change::of_volume("www", Outcome::Added)]);
    assert_eq!(client.add(&volume("db", &store)).unwrap_err().code, ExitCode::Guard);
    let settings = serde_json::json!({ "interval": "2s", "create": true });
    let changed = client.change("db", settings.as_object().unwrap()).unwrap();
    assert_eq!(changed.len(), 2);
    assert!(changed.iter().all(Change::is_refused), "{changed:?}");
    assert_eq!(client.remove("db").unwrap(), [Change::of_volume("db", Outcome::Removed { left: None })]);
    let asked = open.fake.calls();
    assert_eq!(asked[0], "add www s3://bucket/prefix Interval(1s)", "{asked:?}");
    assert_eq!(asked[3], "remove db");
}

#[test]
fn stop_is_answered_and_then_passed_on() {
    let open = open(vec![]);
    Client::new(open.dir.path()).stop().unwrap();
    let waited = std::time::Instant::now();
    while open.stops.load(Ordering::SeqCst) == 0 && waited.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(open.stops.load(Ordering::SeqCst), 1);
}

#[test]
fn the_socket_is_private_and_a_stale_one_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path());
    drop(UnixListener::bind(&path).unwrap());
    std::fs::create_dir(dir.path().join(".control")).unwrap();
    assert!(Client::new(dir.path()).status().unwrap_err().message.contains("no tracker is running"));
    let server = Server::start(&path, Arc::new(Fake::default()), Box::new(|| {})).unwrap();
    assert_eq!(std::fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing but the socket is left");
    assert_eq!(Client::new(dir.path()).status().unwrap(), []);
    drop(server);
    assert!(!path.exists());
}

#[test]
fn without_a_daemon_the_client_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::new(dir.path()).status().unwrap_err();
    assert_eq!(error.code, ExitCode::Error);
    assert!(error.hint.unwrap().contains("--state-dir"));
}

#[test]
fn hostile_requests_get_an_error_and_harm_nothing() {
    let open = open(vec![protected("db")]);
    for bad in ["{}\n", "status\n", "{\"request\":7}\n", "{\"request\":\"sync\"}\n", "\n"] {
        let reply = raw(&open, bad.as_bytes());
        assert_eq!((&reply["reply"], &reply["cause"]["error"]), (&"error".into(), &"bad_request".into()), "{bad}");
    }
    let mut long = vec![b'x'; REQUEST_MAX];
    long.push(b'\n');
    assert_eq!(raw(&open, &long)["cause"]["error"], "too_long");
    // A client that sends nothing and one that disconnects must not hold up the next one.
    let silent = UnixStream::connect(socket_path(open.dir.path())).unwrap();
    drop(UnixStream::connect(socket_path(open.dir.path())).unwrap());
    assert_eq!(Client::new(open.dir.path()).status().unwrap().len(), 1);
    drop(silent);
}

#[test]
fn a_daemon_that_dies_or_babbles_is_an_error() {
    for answer in ["", "{\"reply\":\"done\"", "what?\n", "{\"reply\":\"done\"}\n"] {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_path(dir.path())).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            let read = stream.read(&mut request).unwrap();
            assert!(read > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        assert_eq!(Client::new(dir.path()).status().unwrap_err().code, ExitCode::Error, "{answer:?}");
        thread.join().unwrap();
    }
}

#[test]
fn an_ended_volume_gives_its_own_exit_code() {
    let failure = AppError::new(ExitCode::Locked, "another writer committed 7").hint("take over");
    let error: AppError = ControlError::Ended { volume: "db".into(), failure }.into();
    assert_eq!(error.code, ExitCode::Locked);
    assert_eq!(error.hint.as_deref(), Some("take over"));
    assert!(error.message.contains("another writer committed 7"));
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(20_000))]

    /// Mutated requests over the socket: each is accepted or refused, and none does harm.
    #[test]
    fn mutated_requests_are_taken_or_refused(
        which in 0usize..8,
        edits in proptest::collection::vec((proptest::arbitrary::any::<u16>(), proptest::arbitrary::any::<u8>(), 0..4u8), 0..6),
    ) {
        let requests = [
            Request::Status,
            Request::Sync { volume: Some("db".into()), timeout_ms: 5000, instant: false },
            Request::Acknowledge { volume: "db".into() },
            Request::Confirm { volume: "db".into() },
            Request::Change { volume: "db".into(), settings: [("interval".to_owned(), "1s".into())].into_iter().collect() },
            Request::Remove { volume: "db".into() },
            Request::Reload,
            Request::Stop,
        ];
        let mut line = serde_json::to_vec(&requests[which]).unwrap();
        for (at, byte, how) in &edits {
            let at = usize::from(*at) % line.len();
            match how {
                0 => line[at] = *byte,
                1 => line.insert(at, *byte),
                2 => line.splice(at..at, std::iter::repeat_n(b"[{\"9"[usize::from(*byte) % 4], 900)).for_each(drop),
                _ => line.truncate(at.max(1)),
            }
        }
        let unchanged = edits.is_empty();
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(&line).unwrap();
        near.shutdown(std::net::Shutdown::Write).unwrap();
        let read = crate::daemon::control::server::read_request(&far).unwrap();
        proptest::prop_assert!(!unchanged || matches!(read, Some(Ok(_))), "{read:?}");
    }
}

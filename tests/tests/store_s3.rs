//! The S3 store against a real server: the conformance suite, the probe, and each way in which a server or a network
//! fails. The cases run as threads of one test
//! program and share a server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tests::s3_server::{S3Server, options};
use tests::store_conformance;
use tests::tcp_proxy::TcpProxy;
use tracker::store::meter::{Meter, Metered};
use tracker::store::{
    CreateOutcome, Created, ErrorKind, Op, Store, StoreError, StoreOptions, StoreUrl, create_exact, list_all, open,
    open_for_writing,
};

const BUCKET: &str = "tracker-test";

fn url(prefix: &str) -> StoreUrl {
    StoreUrl::S3 { bucket: BUCKET.to_owned(), prefix: prefix.to_owned() }
}

fn server(name: &str) -> Option<Arc<S3Server>> {
    S3Server::shared_or_skip(name, BUCKET)
}

/// The error of each kind of call, if all must fail.
fn failures(store: &dyn Store) -> [StoreError; 5] {
    [
        store.create("k", Bytes::from_static(b"x")).unwrap_err(),
        store.get("k").unwrap_err(),
        store.exists("k").unwrap_err(),
        store.delete("k").unwrap_err(),
        store.list("", None).unwrap_err(),
    ]
}

#[test]
fn s3_conforms() {
    let Some(server) = server("s3_conforms") else { return };
    store_conformance::run(open(&url("some/prefix"), &server.options()).unwrap());
    // Two pages and more, and nothing outside the prefix.
    let bucket = open(&url(""), &server.options()).unwrap();
    let outside: Vec<_> = list_all(&bucket, "some/")
        .unwrap()
        .into_iter()
        .filter(|e| !e.key.starts_with("some/prefix/conformance/"))
        .collect();
    assert_eq!(outside, []);
}

#[test]
fn a_real_server_passes_the_probe() {
    let Some(server) = server("a_real_server_passes_the_probe") else { return };
    let store = open_for_writing(&url("probed"), &server.options()).unwrap();
    assert!(store.properties().fenced && store.properties().remote);
    assert_eq!(list_all(&store, "").unwrap(), [], "the probe leaves nothing");
    assert!(store.describe().contains(&server.endpoint()), "{}", store.describe());
}

#[test]
fn wrong_credentials_are_denied_with_a_hint() {
    let Some(server) = server("wrong_credentials_are_denied_with_a_hint") else { return };
    for (access, secret, word) in [(true, false, "secret key"), (false, true, "access key")] {
        let mut options = server.options();
        let keys = options.credentials.as_mut().unwrap();
        if !secret {
            keys.secret_key = "WRONG".to_owned();
        }
        if !access {
            keys.access_key = "NOBODY".to_owned();
        }
        let store = open(&url("denied"), &options).unwrap();
        for error in failures(&*store) {
            assert_eq!(error.kind, ErrorKind::Denied, "{error}");
            assert!(error.hint().contains(word), "{error}: {}", error.hint());
            assert!(!error.to_string().contains("WRONG"), "{error}");
        }
    }
}

/// An absent bucket must not look like an absent object: the search for the head relies on absence.
#[test]
fn an_absent_bucket_is_not_an_absent_object() {
    let Some(server) = server("an_absent_bucket_is_not_an_absent_object") else { return };
    let store = open(&"s3://no-such-bucket/p".parse().unwrap(), &server.options()).unwrap();
    for error in [
        store.get("k").unwrap_err(),
        store.get_range("k", 0, 1).unwrap_err(),
        store.exists("k").unwrap_err(),
        store.list("", None).unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::StoreAbsent, "{error}");
        assert!(error.hint().contains("bucket"));
    }
    let error = open_for_writing(&"s3://no-such-bucket/p".parse().unwrap(), &server.options()).err().unwrap();
    assert_eq!(error.kind, ErrorKind::StoreAbsent, "{error}");
}

/// Needs no server, so it never skips.
#[test]
fn a_dead_endpoint_is_transient_for_all_calls() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let store = open(&url("p"), &StoreOptions { attempts: 2, ..options(free) }).unwrap();
    for error in failures(&*store) {
        assert_eq!(error.kind, ErrorKind::Transient, "never connected, so nothing was done: {error}");
        assert!(!error.hint().is_empty());
    }
}

/// The reply to a create is lost after it took effect: the outcome is unknown, and is settled as this writer's own.
#[test]
fn a_lost_reply_is_unknown_and_settled_by_reading_back() {
    let Some(server) = server("a_lost_reply_is_unknown_and_settled_by_reading_back") else { return };
    let proxy = TcpProxy::before(server.port());
    let store = open(&url("lost"), &StoreOptions { attempts: 3, ..options(proxy.port()) }).unwrap();
    let direct = open(&url("lost"), &server.options()).unwrap();
    let mine = Bytes::from(vec![7; 300_000]);

    proxy.lose_replies(true);
    let error = store.create("k", mine.clone()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unknown, "{error}");
    assert_eq!(
        proxy.lost(),
        1,
        "a create of unknown outcome is not repeated: its own 412 would look like a foreign writer's"
    );
    assert_eq!(direct.get("k").unwrap(), mine, "it took effect");
    assert_eq!(store.get("k").unwrap_err().kind, ErrorKind::Transient);
    assert_eq!(store.delete("other").unwrap_err().kind, ErrorKind::Unknown);
    assert_eq!(create_exact(&store, "k", &mine, 2).unwrap_err().kind, ErrorKind::Unknown);

    proxy.lose_replies(false);
    assert_eq!(store.create("k", mine.clone()).unwrap(), Created::Exists);
    assert_eq!(create_exact(&store, "k", &mine, 2).unwrap(), CreateOutcome::Own);
    let theirs = create_exact(&store, "k", &Bytes::from_static(b"other"), 2).unwrap();
    assert_eq!(theirs, CreateOutcome::Other(mine.to_vec()));
}

#[test]
fn a_server_that_stalls_is_given_up() {
    let Some(server) = server("a_server_that_stalls_is_given_up") else { return };
    let proxy = TcpProxy::before(server.port());
    let options = StoreOptions { attempts: 1, timeout: Duration::from_millis(500), ..options(proxy.port()) };
    let store = open(&url("stall"), &options).unwrap();
    store.create("k", Bytes::from_static(b"x")).unwrap();
    proxy.stall(true);
    let begun = Instant::now();
    assert_eq!(store.create("k2", Bytes::from_static(b"x")).unwrap_err().kind, ErrorKind::Unknown);
    assert_eq!(store.exists("k").unwrap_err().kind, ErrorKind::Transient);
    assert!(begun.elapsed() < Duration::from_secs(10));
    proxy.stall(false);
    assert!(store.exists("k").unwrap());
}

#[test]
fn many_threads_share_one_store() {
    let Some(server) = server("many_threads_share_one_store") else { return };
    let store = open(&url("threads"), &server.options()).unwrap();
    std::thread::scope(|scope| {
        for t in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for i in 0..20 {
                    let (key, bytes) = (format!("{t}/{i}"), Bytes::from(vec![t; 100 + i]));
                    assert_eq!(store.create(&key, bytes.clone()).unwrap(), Created::Yes);
                    assert_eq!(store.get(&key).unwrap(), bytes);
                }
            });
        }
    });
    assert_eq!(list_all(&store, "").unwrap().len(), 160);
}

/// Runs this program's case `name` in a child whose environment has only `env`, as an operator would set it.
fn in_environment(name: &str, env: &[(&str, String)]) {
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env_clear()
        .envs(env.iter().map(|(k, v)| (k, v)))
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&out.stderr));
}

const INSIDE: &str = "TRACKER_TEST_INSIDE";

#[test]
fn the_standard_variables_are_honoured() {
    if std::env::var_os(INSIDE).is_some() {
        let store = open(&url("env"), &StoreOptions::default()).unwrap();
        let key = std::env::var("TRACKER_TEST_KEY").unwrap();
        assert_eq!(store.create(&key, Bytes::from_static(b"x")).unwrap(), Created::Yes);
        return;
    }
    let Some(server) = server("the_standard_variables_are_honoured") else { return };
    let mut env = server.env();
    env.push(("TRACKER_TEST_KEY", "by-general-variable".to_owned()));
    in_environment("the_standard_variables_are_honoured", &env);
    // The variable for S3 alone overrides the general one; checksums are sent only where S3 requires them.
    env.retain(|(name, _)| !matches!(*name, "AWS_ENDPOINT_URL" | "TRACKER_TEST_KEY"));
    env.push(("AWS_ENDPOINT_URL", "http://127.0.0.1:1".to_owned()));
    env.push(("AWS_ENDPOINT_URL_S3", server.endpoint()));
    env.push(("AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_REQUIRED".to_owned()));
    env.push(("TRACKER_TEST_KEY", "by-own-variable".to_owned()));
    in_environment("the_standard_variables_are_honoured", &env);
    // An empty variable counts as unset.
    let mut env = server.env();
    env.push(("AWS_ENDPOINT_URL_S3", String::new()));
    env.push(("TRACKER_TEST_KEY", "beside-an-empty-variable".to_owned()));
    in_environment("the_standard_variables_are_honoured", &env);
    let keys: Vec<String> =
        list_all(&open(&url("env"), &server.options()).unwrap(), "").unwrap().into_iter().map(|e| e.key).collect();
    assert_eq!(keys, ["beside-an-empty-variable", "by-general-variable", "by-own-variable"]);
}

/// Needs no server, so it never skips.
#[test]
fn a_host_without_credentials_or_region_is_told_at_open() {
    if std::env::var_os(INSIDE).is_some() {
        let error = open(&url("p"), &StoreOptions::default()).err().unwrap();
        match std::env::var("AWS_REGION") {
            Ok(_) => assert_eq!((error.kind, error.code.as_deref()), (ErrorKind::Denied, Some("NoCredentials"))),
            Err(_) => assert_eq!(error.kind, ErrorKind::Misconfigured, "{error}"),
        }
        assert!(error.to_string().contains("region") || error.hint().contains("AWS_ACCESS_KEY_ID"), "{error}");
        return;
    }
    let no_metadata = ("AWS_EC2_METADATA_DISABLED", "true".to_owned());
    let home = ("HOME", "/nonexistent".to_owned());
    let name = "a_host_without_credentials_or_region_is_told_at_open";
    in_environment(name, &[no_metadata.clone(), home.clone(), ("AWS_REGION", "eu-west-1".to_owned())]);
    in_environment(name, &[no_metadata, home]);
}

/// Prints rates; fails only if the store is unusably slow.
#[test]
fn rates() {
    let Some(server) = server("rates") else { return };
    let meter = Arc::new(Meter::default());
    let store = Metered::new(open(&url("rates"), &server.options()).unwrap(), meter.clone());
    let (count, small) = (200, Bytes::from(vec![1; 4096]));
    let begun = Instant::now();
    for i in 0..count {
        store.create(&format!("small/{i}"), small.clone()).unwrap();
    }
    let put = begun.elapsed();
    let begun = Instant::now();
    for i in 0..count {
        store.get(&format!("small/{i}")).unwrap();
    }
    let get = begun.elapsed();
    let large = Bytes::from(vec![2; 32 << 20]);
    let begun = Instant::now();
    store.create("large", large.clone()).unwrap();
    let up = begun.elapsed();
    let begun = Instant::now();
    assert!(store.get("large").unwrap() == large);
    let down = begun.elapsed();
    let per = |d: Duration| f64::from(count) / d.as_secs_f64();
    println!("4 KiB, one thread: {:.0} PUT/s, {:.0} GET/s", per(put), per(get));
    println!("32 MiB: up {:.0} MiB/s, down {:.0} MiB/s", 32.0 / up.as_secs_f64(), 32.0 / down.as_secs_f64());
    assert_eq!(meter.counts(Op::Create).requests, u64::from(count as u32) + 1);
    assert!(per(put) > 2.0 && per(get) > 2.0);
}

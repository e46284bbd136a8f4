//! The endpoints over a socket, as a scraper uses them.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::daemon::control::fake::{Fake, protected};
use crate::daemon::http::*;
use crate::volume::status::{State as VolumeState, VolumeStatus};

/// Status code and the whole reply.
fn get(server: &HttpServer, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let code = reply.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
    (code, reply)
}

fn start(volumes: Vec<VolumeStatus>) -> (HttpServer, Arc<Fake>) {
    let fake = Arc::new(Fake::new(volumes));
    let control: Arc<dyn Control> = Arc::<Fake>::clone(&fake);
    let server = HttpServer::start("127.0.0.1:0".parse().unwrap(), control, Arc::new(Process::new())).unwrap();
    (server, fake)
}

#[test]
fn metrics_and_health_are_served() {
    let (server, _) = start(vec![VolumeStatus { loss_window_seconds: Some(0.0), ..protected("db") }]);
    let (code, reply) = get(&server, "/metrics");
    assert_eq!(code, 200);
    assert!(reply.contains(metrics::CONTENT_TYPE), "{reply}");
    assert!(reply.contains("tracker_volume_loss_window_seconds{volume=\"db\"} 0"), "{reply}");
    assert_eq!(get(&server, "/healthz").0, 200);
    assert_eq!(get(&server, "/").0, 404);
}

#[test]
fn counters_of_the_kernel_programs_are_for_debugging() {
    let kernel_counters = [("dio_begin".to_owned(), 5)].into();
    let (server, _) = start(vec![VolumeStatus { kernel_counters, ..protected("db") }]);
    let (code, reply) = get(&server, "/debug/kernel-counters");
    assert_eq!(code, 200);
    assert!(reply.ends_with(r#"{"db":{"dio_begin":5}}"#), "{reply}");
    assert!(!get(&server, "/metrics").1.contains("dio_begin"), "no time series for each");
}

#[test]
fn ready_only_while_every_volume_is() {
    let (server, fake) = start(vec![]);
    assert_eq!(get(&server, "/readyz").0, 503, "no volume yet");
    let cases = [
        (protected("db"), 200, "ok"),
        (VolumeStatus { armed: false, ..protected("db") }, 503, "db: capture is not armed"),
        (VolumeStatus { baseline_seq: None, ..protected("db") }, 503, "db: the baseline is not committed"),
        (VolumeStatus { loss_window_seconds: Some(0.9), ..protected("db") }, 200, "ok"),
        (
            VolumeStatus { loss_window_seconds: Some(9.0), ..protected("db") },
            503,
            "db: the oldest change has waited 9.0 s",
        ),
        (VolumeStatus { state: VolumeState::Verifying, ..protected("db") }, 200, "ok"),
        (VolumeStatus { state: VolumeState::Fenced, ..protected("db") }, 503, "db: fenced"),
        (VolumeStatus { state: VolumeState::Stopped, ..protected("db") }, 503, "db: stopped"),
    ];
    for (status, code, words) in cases {
        *fake.volumes.lock().unwrap() = vec![protected("www"), status.clone()];
        let (got, reply) = get(&server, "/readyz");
        assert_eq!(got, code, "{status:?}\n{reply}");
        assert!(reply.contains(words), "{reply}");
        assert!(!reply.contains("www"), "only what is wrong is named: {reply}");
        assert_eq!(get(&server, "/healthz").0, 200, "the process is alive all the same");
    }
}

#[test]
fn an_address_in_use_is_named_and_a_dropped_server_frees_it() {
    let (server, fake) = start(vec![]);
    let address = server.address();
    let control: Arc<dyn Control> = fake;
    let error = HttpServer::start(address, Arc::clone(&control), Arc::new(Process::new())).unwrap_err();
    assert!(error.message.contains(&address.to_string()) && error.hint.is_some(), "{error:?}");
    drop(server);
    HttpServer::start(address, control, Arc::new(Process::new())).unwrap();
}

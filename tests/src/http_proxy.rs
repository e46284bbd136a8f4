//! A forward proxy for HTTP: `CONNECT` opens a tunnel, any other request is forwarded to the host in its URL. It can
//! require a user and a password, and counts connections.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

/// Bytes of a request's head at most.
const HEAD: usize = 16 << 10;

#[derive(Default, Debug)]
struct State {
    /// The required value of `Proxy-Authorization`.
    authorization: Option<String>,
    tunnels: AtomicU64,
    forwarded: AtomicU64,
    refused: AtomicU64,
}

pub struct HttpProxy {
    port: u16,
    state: Arc<State>,
}

impl HttpProxy {
    /// A proxy on a free port. With `authorization`, such as `Basic dXNlcjpwdw==`, it refuses requests without it. Its
    /// threads end with the process.
    ///
    /// # Panics
    /// When no port is free.
    pub fn start(authorization: Option<&str>) -> HttpProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        let state = Arc::new(State { authorization: authorization.map(str::to_owned), ..State::default() });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || connection(client, &state));
            }
        });
        HttpProxy { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Numbers so far: tunnels, forwarded connections, refused connections.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.state.tunnels.load(SeqCst), self.state.forwarded.load(SeqCst), self.state.refused.load(SeqCst))
    }
}

fn connection(mut client: TcpStream, state: &State) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD || client.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let (line, headers) = text.split_once("\r\n")?;
    let given = headers.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim().to_owned())
    });
    if state.authorization.is_some() && given != state.authorization {
        state.refused.fetch_add(1, SeqCst);
        return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n").ok();
    }
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let mut upstream;
    if method == "CONNECT" {
        upstream = TcpStream::connect(target).ok()?;
        state.tunnels.fetch_add(1, SeqCst);
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    } else {
        // Only a request to a proxy names the whole URL.
        let (host, path) = target.strip_prefix("http://")?.split_once('/')?;
        upstream = TcpStream::connect(host).ok()?;
        state.forwarded.fetch_add(1, SeqCst);
        upstream.write_all(format!("{method} /{path} {version}\r\n{headers}").as_bytes()).ok()?;
    }
    let (mut from, mut to) = (upstream.try_clone().ok()?, client.try_clone().ok()?);
    let answers = thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut client, &mut upstream);
    let _ = upstream.shutdown(Shutdown::Both);
    answers.join().ok()
}

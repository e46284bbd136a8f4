//! A TCP proxy that loses replies: it forwards a request, waits until the server has answered, and closes the client's
//! connection without forwarding the answer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// What the proxy does with new connections, and with answers on existing ones.
#[derive(Default, Debug)]
struct State {
    /// Close the connection instead of forwarding an answer.
    lose_replies: AtomicBool,
    /// Forward nothing in either direction, but keep the connection.
    stall: AtomicBool,
    lost: AtomicU64,
}

pub struct TcpProxy {
    port: u16,
    state: Arc<State>,
}

impl TcpProxy {
    /// A proxy in front of a local port. Its threads end with the process.
    pub fn before(server: u16) -> TcpProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        let state = Arc::new(State::default());
        let shared = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = shared.clone();
                thread::spawn(move || connection(client, server, &state));
            }
        });
        TcpProxy { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn lose_replies(&self, on: bool) {
        self.state.lose_replies.store(on, SeqCst);
    }

    pub fn stall(&self, on: bool) {
        self.state.stall.store(on, SeqCst);
    }

    /// How many replies were lost so far.
    pub fn lost(&self) -> u64 {
        self.state.lost.load(SeqCst)
    }
}

fn connection(client: TcpStream, server: u16, state: &Arc<State>) {
    let Ok(upstream) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { return };
    let (Ok(client2), Ok(upstream2)) = (client.try_clone(), upstream.try_clone()) else { return };
    let requests = {
        let state = state.clone();
        thread::spawn(move || pass(client2, upstream2, &state, false))
    };
    pass(upstream, client, state, true);
    // Ends with the connections, which the other direction has shut down.
    let _ = requests.join();
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: &State, answers: bool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        while state.stall.load(SeqCst) {
            thread::sleep(Duration::from_millis(10));
        }
        if answers && state.lose_replies.load(SeqCst) {
            state.lost.fetch_add(1, SeqCst);
            break;
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

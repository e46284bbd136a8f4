//! The service manager's side: systemd's notification protocol over a Unix datagram, and when the watchdog is fed.
//!
//! Without NOTIFY_SOCKET in the environment everything here does nothing. It never blocks and never fails a service:
//! a message that cannot be sent is lost, which the service manager sees as silence.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::volume::status::{State, VolumeStatus};

/// A connection to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
    pub fn from_env() -> Self {
        Notify::new(&|name| std::env::var_os(name))
    }

    /// The same with the variables from elsewhere.
    pub fn new(var: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let Some(name) = var("NOTIFY_SOCKET") else { return Notify::default() };
        let to = match open(name.as_bytes()) {
            Ok(to) => Some(to),
            Err(error) => {
                tracing::warn!(%error, "cannot use NOTIFY_SOCKET");
                None
            }
        };
        Notify { to, watchdog: watchdog_interval(var) }
    }

    /// How long the service manager waits for a sign of life; `None` when it does not.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// A reload begins; `ready` ends it.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let usec = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::debug!(%error, message, "the service manager does not take a message");
        }
    }
}

/// A name with `@` in front is in the abstract name space.
fn open(name: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

fn watchdog_interval(var: &dyn Fn(&str) -> Option<OsString>) -> Option<Duration> {
    let number = |name: &str| var(name)?.to_str()?.parse::<u64>().ok();
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|usec| *usec > 0).map(Duration::from_micros)
}

/// Watches that the volumes get on. Only then is the watchdog fed: a wedged flush must lead to a restart.
#[derive(Debug)]
pub struct Liveness {
    limit: Duration,
    volumes: Vec<(String, Mark, Instant)>,
}

/// Counters of which at least one moves while a volume with work to do is alive; store requests move also while the
/// store refuses them, since a restart would not help there.
type Mark = [u64; 5];

impl Liveness {
    /// `limit`: how long a volume that has something to do may show no movement.
    pub fn new(limit: Duration) -> Self {
        Liveness { limit, volumes: Vec::new() }
    }

    /// True while every volume gets on, has nothing to do, or has ended with a reason of its own.
    pub fn observe(&mut self, volumes: &[VolumeStatus], now: Instant) -> bool {
        let mut alive = true;
        let before = std::mem::take(&mut self.volumes);
        for v in volumes {
            let mark = [v.flushes, v.files_read, v.bytes_read, v.bytes_uploaded, v.store_requests];
            let old = before.iter().find(|(name, ..)| *name == v.volume);
            let since = match old {
                Some((_, old, since)) if *old == mark && has_work(v) => *since,
                _ => now,
            };
            alive &= now.duration_since(since) < self.limit;
            self.volumes.push((v.volume.clone(), mark, since));
        }
        alive
    }
}

fn has_work(v: &VolumeStatus) -> bool {
    match v.state {
        // A restart brings back neither a source nor a store.
        State::Waiting | State::Fenced | State::Stopped => false,
        State::Starting | State::Baseline => true,
        State::Verifying | State::Protected | State::Degraded => v.loss_window_seconds.is_some_and(|age| age > 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        let pairs: Vec<(String, OsString)> = pairs.iter().map(|(k, v)| (k.to_string(), v.into())).collect();
        move |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn messages_reach_a_socket_in_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::new(&env(&[("NOTIFY_SOCKET", path.to_str().unwrap())]));
        notify.ready();
        assert_eq!(received(&manager), "READY=1");
        notify.reloading();
        assert!(received(&manager).starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notify.stopping();
        assert_eq!(received(&manager), "STOPPING=1");
        notify.alive();
        assert_eq!(received(&manager), "WATCHDOG=1");
        notify.status("a\nb");
        assert_eq!(received(&manager), "STATUS=a b");
    }

    #[test]
    fn messages_reach_an_abstract_socket() {
        let name = format!("tracker-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Notify::new(&env(&[("NOTIFY_SOCKET", &format!("@{name}"))])).ready();
        assert_eq!(received(&manager), "READY=1");
    }

    #[test]
    fn a_manager_that_is_absent_or_gone_harms_nothing() {
        Notify::new(&env(&[])).ready();
        Notify::new(&env(&[("NOTIFY_SOCKET", "/no/such/socket")])).ready();
        Notify::new(&env(&[("NOTIFY_SOCKET", "")])).ready();
    }

    #[test]
    fn the_watchdog_is_ours_only_with_our_pid() {
        let own = std::process::id().to_string();
        let interval = |pairs: &[(&str, &str)]| watchdog_interval(&env(pairs));
        assert_eq!(interval(&[("WATCHDOG_USEC", "30000000")]), Some(Duration::from_secs(30)));
        assert_eq!(interval(&[("WATCHDOG_USEC", "5"), ("WATCHDOG_PID", &own)]), Some(Duration::from_micros(5)));
        assert_eq!(interval(&[("WATCHDOG_USEC", "5"), ("WATCHDOG_PID", "1")]), None);
        assert_eq!(interval(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(interval(&[("WATCHDOG_USEC", "x")]), None);
    }

    #[test]
    fn the_watchdog_starves_only_when_a_volume_with_work_stands_still() {
        let status = |flushes, age, state| VolumeStatus {
            volume: "v".into(),
            flushes,
            loss_window_seconds: Some(age),
            state,
            ..VolumeStatus::default()
        };
        let limit = Duration::from_secs(10);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Liveness::new(limit);
        assert!(progress.observe(&[status(1, 1.0, State::Protected)], at(0)));
        assert!(progress.observe(&[status(1, 10.0, State::Protected)], at(9)));
        assert!(!progress.observe(&[status(1, 11.0, State::Protected)], at(10)), "wedged");
        assert!(progress.observe(&[status(2, 12.0, State::Protected)], at(11)), "moving again");
        assert!(progress.observe(&[status(2, 0.0, State::Protected)], at(99)), "idle");
        assert!(progress.observe(&[status(2, 0.0, State::Fenced)], at(199)), "ended, with a reason");
        assert!(progress.observe(&[status(2, 0.0, State::Baseline)], at(200)));
        assert!(!progress.observe(&[status(2, 0.0, State::Baseline)], at(210)), "a baseline that stands still");
    }
}

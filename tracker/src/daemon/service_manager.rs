//! The service manager's side: messages by systemd's notification protocol, and when the watchdog is fed.
//!
//! Without NOTIFY_SOCKET in the environment nothing is sent. A message that cannot be sent is lost, which looks like
//! silence to the service manager; the service continues.

use std::io;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::volume::status::{State, VolumeStatus};

type Send = dyn Fn(&[NotifyState<'_>]) -> io::Result<()> + std::marker::Send + Sync;

/// Tells the service manager what the process is doing.
pub struct Notify {
    send: Box<Send>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// The service manager named by the environment, if any.
    pub fn from_env() -> Self {
        Notify::new(Box::new(sd_notify::notify), sd_notify::watchdog_enabled())
    }

    /// A service manager that `send` reaches, and that requires a sign of life at least every `watchdog`.
    pub fn new(send: Box<Send>, watchdog: Option<Duration>) -> Self {
        Notify { send, watchdog: watchdog.filter(|limit| !limit.is_zero()) }
    }

    /// How long the service manager waits for a sign of life; `None` if it does not.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    pub fn ready(&self) {
        self.say(&[NotifyState::Ready]);
    }

    /// A reload begins; `ready` ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.say(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "the clock cannot be read"),
        }
    }

    pub fn stopping(&self) {
        self.say(&[NotifyState::Stopping]);
    }

    pub fn alive(&self) {
        self.say(&[NotifyState::Watchdog]);
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.say(&[NotifyState::Status(&text.replace('\n', " "))]);
    }

    fn say(&self, state: &[NotifyState<'_>]) {
        if let Err(error) = (self.send)(state) {
            tracing::debug!(%error, ?state, "the service manager does not take a message");
        }
    }
}

/// Checks that the volumes make progress. Only then is the watchdog fed: a stuck flush must lead to a restart.
#[derive(Debug)]
pub struct Liveness {
    limit: Duration,
    volumes: Vec<(String, Mark, Instant)>,
}

/// Counters of which at least one increases while a volume with work makes progress. Store requests also increase while the
/// store refuses them, since a restart would not help then.
type Mark = [u64; 5];

impl Liveness {
    /// `limit`: how long a volume with work may make no progress.
    pub fn new(limit: Duration) -> Self {
        Liveness { limit, volumes: Vec::new() }
    }

    /// True while every volume makes progress, has no work, or has ended for a reason of its own.
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

//! Why a volume cannot start or go on, and what follows: it ends, waits and tries again, or takes what is there now.
//!
//! The table in `docs/operation.md` describes `way_on`, which decides all of it.

use std::time::{Duration, Instant};

use crate::config::{Replaced, VolumeConfig};
use crate::error::{AppError, ExitCode};
use crate::repository::WriteError;
use crate::store::{ErrorKind, StoreError};
use crate::volume::world::WorldError;

/// An obstacle to a volume, as far as the decision depends on it.
#[derive(Clone, Debug, PartialEq)]
pub enum Obstacle {
    /// Nothing that can be protected is at the source's path.
    SourceAway(AppError),
    /// A running volume found another directory at its source's path. Opening it again decides whether it may continue with
    /// that.
    SourceChanged(AppError),
    /// The store did not answer, or refused.
    Store(ErrorKind, AppError),
    /// Waiting does not help: another writer, another volume, lost commits, a path that feeds back into itself.
    Final(AppError),
}

impl From<AppError> for Obstacle {
    fn from(error: AppError) -> Obstacle {
        Obstacle::Final(error)
    }
}

impl From<StoreError> for Obstacle {
    fn from(error: StoreError) -> Obstacle {
        Obstacle::Store(error.kind, AppError::from_store(&error))
    }
}

impl From<WorldError> for Obstacle {
    fn from(error: WorldError) -> Obstacle {
        match error {
            WorldError::Write(WriteError::Store(error)) => error.into(),
            error => Obstacle::Final(crate::volume::errors::world_error(error)),
        }
    }
}

impl Obstacle {
    pub fn error(&self) -> &AppError {
        match self {
            Obstacle::SourceAway(error)
            | Obstacle::SourceChanged(error)
            | Obstacle::Store(_, error)
            | Obstacle::Final(error) => error,
        }
    }

    /// Whether it is the same obstacle to an operator: texts of a store differ from try to try, by key and by cause.
    pub fn is_like(&self, other: &Obstacle) -> bool {
        match (self, other) {
            (Obstacle::Store(one, _), Obstacle::Store(two, _)) => one.trouble() == two.trouble(),
            _ => self == other,
        }
    }

    pub fn into_error(self) -> AppError {
        match self {
            Obstacle::SourceAway(error)
            | Obstacle::SourceChanged(error)
            | Obstacle::Store(_, error)
            | Obstacle::Final(error) => error,
        }
    }
}

/// What else the decision depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// The volume belongs to a daemon: nobody watches its start, and other volumes may run.
    pub daemon: bool,
    pub replaced: Replaced,
    /// The volume has commits, so the store was reached with these settings before.
    pub committed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayOn {
    End,
    /// Try again after a while.
    Wait,
    /// Open it again at once.
    Again,
}

/// Decides what follows from an obstacle.
pub fn way_on(obstacle: &Obstacle, circumstances: Circumstances) -> WayOn {
    let Circumstances { daemon, replaced, committed } = circumstances;
    let adopts = replaced == Replaced::Adopt;
    match obstacle {
        Obstacle::Final(_) => WayOn::End,
        Obstacle::SourceAway(_) if daemon || adopts => WayOn::Wait,
        Obstacle::SourceChanged(_) if daemon || adopts => WayOn::Again,
        Obstacle::SourceAway(_) | Obstacle::SourceChanged(_) => WayOn::End,
        Obstacle::Store(..) if !daemon => WayOn::End,
        Obstacle::Store(kind, _) => match kind {
            ErrorKind::Transient | ErrorKind::Unknown | ErrorKind::NoSpace | ErrorKind::ReadOnly => WayOn::Wait,
            // Two writers could both believe that they had committed.
            ErrorKind::Unfenced => WayOn::End,
            // At the first start a wrong key or name is a mistake, and somebody is there to see it. Later it means an
            // expired token, a missing mount, or a proxy without its server.
            ErrorKind::Denied
            | ErrorKind::StoreAbsent
            | ErrorKind::NotFound
            | ErrorKind::Corrupt
            | ErrorKind::Misconfigured => {
                if committed {
                    WayOn::Wait
                } else {
                    WayOn::End
                }
            }
        },
    }
}

/// Pauses between tries, doubled from the shortest to the longest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    next: Option<Duration>,
    /// When the first pause began.
    began: Option<Instant>,
}

impl Backoff {
    /// How long to wait now. Checking a path costs nothing; a request may be charged for.
    pub fn pause(&mut self, obstacle: &Obstacle) -> Duration {
        let (first, longest) = match obstacle {
            Obstacle::Store(..) => (Duration::from_secs(1), Duration::from_secs(30)),
            _ => (Duration::from_millis(250), Duration::from_secs(5)),
        };
        let pause = self.next.unwrap_or(first).clamp(first, longest);
        self.next = Some(pause * 2);
        self.began.get_or_insert_with(Instant::now);
        pause
    }

    /// Called when the obstacle is gone. Returns how long it lasted, if there was one.
    pub fn reset(&mut self) -> Option<Duration> {
        self.next = None;
        self.began.take().map(|began| began.elapsed())
    }
}

/// The error that the source `is not`, or `may not be`, the directory that the volume was made of, and why.
pub fn other_source(config: &VolumeConfig, is_not: &str, why: &str) -> AppError {
    let (source, volume) = (config.source.display(), &config.name);
    AppError::new(
        ExitCode::Guard,
        format_args!("{source} {is_not} the directory that volume {volume} was made of: {why}"),
    )
    .hint(go_on(volume))
}

/// Tells an operator how a volume can continue with another directory.
pub fn go_on(volume: &str) -> String {
    format!(
        "nothing was removed from the store. If it was restored, moved or made again on purpose, `tracker adopt {volume}` (or \
         `protect --adopt`) compares it with the newest commit and goes on in the same history, and `replaced = \"adopt\"` does \
         so each time. If its file system is not mounted, mount it; another directory is protected under another --name"
    )
}

/// The error that the state directory names another store.
pub fn other_store(there: &str, url: &str, volume: &str) -> AppError {
    AppError::new(
        ExitCode::Guard,
        format_args!("the state directory says that this volume is kept in {there}, not in {url}"),
    )
    .hint(format_args!(
        "if the store was moved or renamed, `tracker adopt {volume} --store-moved` (or `protect --store-moved`) goes on after \
         volume id and newest commit were compared; a second copy has another --name or another --state-dir"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> AppError {
        AppError::new(ExitCode::Error, "x")
    }

    const PROTECT: Circumstances = Circumstances { daemon: false, replaced: Replaced::Stop, committed: true };
    const DAEMON: Circumstances = Circumstances { daemon: true, ..PROTECT };

    #[test]
    fn what_follows_from_an_obstacle_is_as_the_page_says() {
        use WayOn::{Again, End, Wait};
        let (away, changed) = (Obstacle::SourceAway(error()), Obstacle::SourceChanged(error()));
        let store = |kind| Obstacle::Store(kind, error());
        let adopts = |circumstances| Circumstances { replaced: Replaced::Adopt, ..circumstances };
        let first = Circumstances { committed: false, ..DAEMON };
        for (obstacle, circumstances, way) in [
            (away.clone(), PROTECT, End),
            (away.clone(), adopts(PROTECT), Wait),
            (away, DAEMON, Wait),
            (changed.clone(), PROTECT, End),
            (changed.clone(), adopts(PROTECT), Again),
            (changed, DAEMON, Again),
            (Obstacle::Final(error()), adopts(DAEMON), End),
            (store(ErrorKind::Transient), PROTECT, End),
            (store(ErrorKind::Transient), first, Wait),
            (store(ErrorKind::Unknown), first, Wait),
            (store(ErrorKind::NoSpace), first, Wait),
            (store(ErrorKind::ReadOnly), first, Wait),
            (store(ErrorKind::Denied), first, End),
            (store(ErrorKind::Denied), DAEMON, Wait),
            (store(ErrorKind::StoreAbsent), first, End),
            (store(ErrorKind::StoreAbsent), DAEMON, Wait),
            (store(ErrorKind::Misconfigured), first, End),
            (store(ErrorKind::Misconfigured), DAEMON, Wait),
            (store(ErrorKind::Corrupt), DAEMON, Wait),
            (store(ErrorKind::NotFound), DAEMON, Wait),
            (store(ErrorKind::Unfenced), DAEMON, End),
        ] {
            assert_eq!(way_on(&obstacle, circumstances), way, "{obstacle:?} {circumstances:?}");
        }
    }

    /// Nobody may be watching a daemon: what ends its volumes must end `protect` too.
    #[test]
    fn a_daemon_never_ends_where_protect_goes_on() {
        for kind in ErrorKind::ALL {
            for obstacle in [Obstacle::Store(kind, error()), Obstacle::SourceAway(error())] {
                let ends = |circumstances| way_on(&obstacle, circumstances) == WayOn::End;
                assert!(!ends(DAEMON) || ends(PROTECT), "{obstacle:?}");
            }
        }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let store = Obstacle::Store(ErrorKind::Transient, error());
        let text = |text| Obstacle::Store(ErrorKind::Unknown, AppError::new(ExitCode::Error, text));
        assert!(store.is_like(&text("another key")) && text("1").is_like(&text("2")));
        assert!(!store.is_like(&Obstacle::Store(ErrorKind::Denied, error())), "it is there, and refuses");
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..7).map(|_| backoff.pause(&store).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        let source = Obstacle::SourceAway(error());
        assert_eq!(backoff.pause(&source), Duration::from_secs(5), "it is looked for more often");
        assert!(backoff.reset().is_some());
        assert!(backoff.reset().is_none(), "nothing was waited for since");
        assert_eq!(backoff.pause(&source), Duration::from_millis(250));
    }
}

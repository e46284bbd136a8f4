//! Proves one volume's capture while it runs: the self-test after the start and every so often, and what follows when a
//! change was missed. Its marks come with the ordinary drains; it makes none of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::selftest::changes::{Canary, Home, Proof};
use crate::selftest::failover::Failure;
use crate::source::SourceRoot;
use crate::volume::marks::dispatcher::{Hub, HubError};

/// Gap between two self-tests of a volume. What they write is about 320 KiB, to files that nobody else has.
const GAP: Duration = Duration::from_secs(60);

/// Environment variable with another gap in milliseconds, for tests.
const GAP_VARIABLE: &str = "TRACKER_SELF_TEST_GAP";

/// Word for a failed self-test where causes are counted.
pub const SELF_TEST: &str = "self-test failed";

/// What is known of the capture of one volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proven {
    /// The last self-test saw every change it made.
    pub proven: bool,
    /// The kinds of change it saw.
    pub kinds: Vec<&'static str>,
    /// Why it was not made, or not with every kind.
    pub untried: Vec<String>,
    pub tests: u64,
}

pub struct Prover {
    volume: String,
    state: PathBuf,
    gap: Duration,
    /// The hub's when this volume last looked at its back end.
    pub epoch: u64,
    canary: Option<Canary>,
    due: Option<Instant>,
    /// A drain has taken away the marks of making the files ready.
    ready: bool,
    /// The changes are made, and not judged or made ready again yet.
    made: bool,
    /// Lapses of the capture's lease before the changes were made.
    lapses: u64,
    pub known: Proven,
}

impl Prover {
    pub fn new(volume: &str, state: &Path, epoch: u64) -> Prover {
        let gap = std::env::var(GAP_VARIABLE).ok().and_then(|text| text.parse().ok());
        Prover {
            volume: volume.to_owned(),
            state: state.to_path_buf(),
            gap: gap.map_or(GAP, Duration::from_millis),
            epoch,
            canary: None,
            due: None,
            ready: false,
            made: false,
            lapses: 0,
            known: Proven::default(),
        }
    }

    /// Between two rounds: makes files ready for the next test.
    pub fn prepare(&mut self, hub: &Arc<Hub>, root: &SourceRoot) {
        if self.canary.is_none() {
            if self.due.is_some_and(|due| due > Instant::now()) {
                return;
            }
            self.due = Some(Instant::now());
            let home = Home { state: &self.state, volume: &self.volume };
            let opened = Canary::open(root, Some(home), false).and_then(|canary| {
                let (dev, inodes) = canary.inodes();
                hub.add_probes(dev, &inodes).map_err(|error| error.to_string()).map(|()| canary)
            });
            match opened {
                Ok(canary) => self.canary = Some(canary),
                Err(why) => self.impossible(hub, why),
            }
        } else if self.made
            && let Some(Err(why)) = self.canary.as_mut().map(Canary::prepare)
        {
            self.impossible(hub, why);
        } else if self.made {
            (self.ready, self.made) = (false, false);
        }
    }

    /// Before a drain: makes the changes, if a test is due.
    pub fn change(&mut self, hub: &Arc<Hub>) {
        let Some(canary) = self.canary.as_mut().filter(|_| self.ready && !self.made) else { return };
        if self.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        let (dev, inodes) = canary.inodes();
        hub.forget_probes(dev, &inodes);
        self.lapses = hub.lapses();
        match canary.change() {
            Ok(()) => self.made = true,
            Err(why) => self.impossible(hub, why),
        }
        self.due = Some(Instant::now() + self.gap);
    }

    /// After that drain: whether it has shown all of them.
    pub fn judge(&mut self, hub: &Arc<Hub>) -> Option<Failure> {
        let canary = self.canary.as_ref()?;
        if !self.made {
            self.ready = true;
            return None;
        }
        let dev = canary.inodes().0;
        self.known.tests += 1;
        match canary.judge(|ino| hub.probe(dev, ino)) {
            Proof::Passed { kinds, untried } => {
                self.known = Proven { proven: true, kinds, untried, tests: self.known.tests };
                None
            }
            Proof::NotPossible { why } => {
                self.impossible(hub, why);
                None
            }
            // The programs were told not to mark: nothing is known, and the test is made again.
            Proof::Failed { .. } if hub.lapses() != self.lapses => {
                self.due = Some(Instant::now());
                None
            }
            Proof::Failed { kind } => {
                self.known = Proven { tests: self.known.tests, ..Proven::default() };
                let what = format!("the self-test: {kind} was not seen by {}", hub.back_end().name());
                Some(Failure { cause: SELF_TEST, what })
            }
        }
    }

    /// Tried again after the usual gap: a full or read-only file system may be mended by then.
    fn impossible(&mut self, hub: &Arc<Hub>, why: String) {
        tracing::debug!(volume = self.volume, why, "the self-test could not be made");
        self.forget(hub);
        self.known = Proven { untried: vec![why], tests: self.known.tests, ..Proven::default() };
        self.due = Some(Instant::now() + self.gap);
    }

    /// Lets go of the files. Their watch ends first: a number that another file has by then must not lose its own.
    fn forget(&mut self, hub: &Arc<Hub>) {
        if let Some(canary) = self.canary.take() {
            let (dev, inodes) = canary.inodes();
            if let Err(error) = hub.remove_probes(dev, &inodes) {
                tracing::warn!(volume = self.volume, %error, "files of the self-test stay watched");
            }
        }
        (self.ready, self.made) = (false, false);
    }

    /// Another back end is in operation: everything begins anew. Also at the end of the volume.
    pub fn reset(&mut self, hub: &Arc<Hub>) {
        self.forget(hub);
        self.due = None;
        self.known = Proven { tests: self.known.tests, ..Proven::default() };
        self.epoch = hub.epoch();
    }

    /// Has the failed back end replaced.
    ///
    /// # Errors
    /// When a catalog cannot be written.
    pub fn fail(&self, hub: &Arc<Hub>, failure: &Failure) -> Result<(), HubError> {
        hub.fail(self.epoch, failure)
    }
}

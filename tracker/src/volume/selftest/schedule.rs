//! Runs the self-tests of one volume's capture: after the start and at intervals, and starts the failover when a change was
//! missed. Its marks come with the ordinary drains; it makes none of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::source::SourceRoot;
use crate::test_switches;
use crate::volume::marks::dispatcher::{Dispatcher, DispatcherError};
use crate::volume::marks::restart::Failure;
use crate::volume::selftest::changes::{Home, SelfTest, SelfTestOutcome};

/// Time between two self-tests of a volume. Each writes about 320 KiB, to files that nobody else has.
const GAP: Duration = Duration::from_secs(60);

/// The cause for a failed self-test, in counters.
pub const SELF_TEST: &str = "self-test failed";

/// What is known of the capture of one volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SelfTestState {
    /// The last self-test saw every change it made.
    pub passed: bool,
    /// The kinds of change it saw.
    pub kinds: Vec<&'static str>,
    /// Why no self-test was made, or not with every kind of change.
    pub untried: Vec<String>,
    pub tests: u64,
}

pub struct SelfTestSchedule {
    volume: String,
    state: PathBuf,
    gap: Duration,
    /// The dispatcher's number of failovers when this volume last checked its back end.
    pub failovers: u64,
    self_test: Option<SelfTest>,
    due: Option<Instant>,
    /// A drain has removed the marks from preparing the files.
    ready: bool,
    /// The changes are made, and not judged yet.
    made: bool,
    /// Lapses of the capture's lease before the changes were made.
    lapses: u64,
    pub known: SelfTestState,
}

impl SelfTestSchedule {
    pub fn new(volume: &str, state: &Path, failovers: u64) -> SelfTestSchedule {
        let gap = test_switches::value("TRACKER_SELF_TEST_GAP");
        SelfTestSchedule {
            volume: volume.to_owned(),
            state: state.to_path_buf(),
            gap: gap.map_or(GAP, Duration::from_millis),
            failovers,
            self_test: None,
            due: None,
            ready: false,
            made: false,
            lapses: 0,
            known: SelfTestState::default(),
        }
    }

    /// Called between two rounds: prepares files for the next test.
    pub fn prepare(&mut self, dispatcher: &Arc<Dispatcher>, root: &SourceRoot) {
        if self.self_test.is_none() {
            if self.due.is_some_and(|due| due > Instant::now()) {
                return;
            }
            self.due = Some(Instant::now());
            let home = Home { state: &self.state, volume: &self.volume };
            let opened = SelfTest::open(root, Some(home), false).and_then(|self_test| {
                let (dev, inodes) = self_test.inodes();
                dispatcher.add_probes(dev, &inodes).map_err(|error| error.to_string()).map(|()| self_test)
            });
            match opened {
                Ok(self_test) => self.self_test = Some(self_test),
                Err(why) => self.impossible(dispatcher, why),
            }
        } else if self.made
            && let Some(Err(why)) = self.self_test.as_mut().map(SelfTest::prepare)
        {
            self.impossible(dispatcher, why);
        } else if self.made {
            (self.ready, self.made) = (false, false);
        }
    }

    /// Called before a drain: makes the changes if a test is due.
    pub fn change(&mut self, dispatcher: &Arc<Dispatcher>) {
        let Some(self_test) = self.self_test.as_mut().filter(|_| self.ready && !self.made) else { return };
        if self.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        let (dev, inodes) = self_test.inodes();
        dispatcher.forget_probes(dev, &inodes);
        self.lapses = dispatcher.lapses();
        match self_test.change() {
            Ok(()) => self.made = true,
            Err(why) => self.impossible(dispatcher, why),
        }
        self.due = Some(Instant::now() + self.gap);
    }

    /// Whether changes are made that the next drain must show: it has to begin now.
    pub fn waits(&self) -> bool {
        self.made
    }

    /// Called after that drain: judges whether it showed all changes.
    pub fn judge(&mut self, dispatcher: &Arc<Dispatcher>) -> Option<Failure> {
        let self_test = self.self_test.as_ref()?;
        if !self.made {
            self.ready = true;
            return None;
        }
        let dev = self_test.inodes().0;
        self.known.tests += 1;
        match self_test.judge(|ino| dispatcher.probe(dev, ino)) {
            SelfTestOutcome::Passed { kinds, untried } => {
                self.known = SelfTestState { passed: true, kinds, untried, tests: self.known.tests };
                None
            }
            SelfTestOutcome::NotPossible { why } => {
                self.impossible(dispatcher, why);
                None
            }
            // The programs did not mark because the lease was over. That proves nothing: repeat the test.
            SelfTestOutcome::Failed { .. } if dispatcher.lapses() != self.lapses => {
                self.due = Some(Instant::now());
                None
            }
            SelfTestOutcome::Failed { kind } => {
                self.known = SelfTestState { tests: self.known.tests, ..SelfTestState::default() };
                let what = format!("the self-test: {kind} was not seen by {}", dispatcher.back_end().name());
                Some(Failure { cause: SELF_TEST, what })
            }
        }
    }

    /// Tries again after the usual time: a full or read-only file system may be repaired by then.
    fn impossible(&mut self, dispatcher: &Arc<Dispatcher>, why: String) {
        tracing::debug!(volume = self.volume, why, "the self-test could not be made");
        self.forget(dispatcher);
        self.known = SelfTestState { untried: vec![why], tests: self.known.tests, ..SelfTestState::default() };
        self.due = Some(Instant::now() + self.gap);
    }

    /// Closes the files. Stops watching them first: a file that reuses a number must not lose its own watch.
    fn forget(&mut self, dispatcher: &Arc<Dispatcher>) {
        if let Some(self_test) = self.self_test.take() {
            let (dev, inodes) = self_test.inodes();
            if let Err(error) = dispatcher.remove_probes(dev, &inodes) {
                tracing::warn!(volume = self.volume, %error, "files of the self-test stay watched");
            }
        }
        (self.ready, self.made) = (false, false);
    }

    /// Starts over because another back end is in operation, or because the volume ends.
    pub fn reset(&mut self, dispatcher: &Arc<Dispatcher>) {
        self.forget(dispatcher);
        self.due = None;
        self.known = SelfTestState { tests: self.known.tests, ..SelfTestState::default() };
        self.failovers = dispatcher.failovers();
    }

    /// Starts the failover from the failed back end.
    ///
    /// # Errors
    /// When a catalog cannot be written.
    pub fn fail(&self, dispatcher: &Arc<Dispatcher>, failure: &Failure) -> Result<(), DispatcherError> {
        dispatcher.fail(self.failovers, failure)
    }
}

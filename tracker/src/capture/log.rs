//! Log lines of the programs, if switched on: a thread passes them to the `log` crate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::Ebpf;
use aya_log::EbpfLogger;

/// How long a line may wait in the ring buffer.
const PERIOD: Duration = Duration::from_millis(100);

/// Reads log lines until dropped.
#[derive(Debug)]
pub(super) struct Pump {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// `None` if the object logs nothing or the thread cannot be started: capture works without logging.
    pub(super) fn start(ebpf: &mut Ebpf) -> Option<Self> {
        let mut logger = EbpfLogger::init(ebpf).ok()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("ebpf-log".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                logger.flush();
                thread::sleep(PERIOD);
            }
        });
        Some(Self { stop, thread: Some(thread.ok()?) })
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already, and no mark depends on it.
            let _ = thread.join();
        }
    }
}

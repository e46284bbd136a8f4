//! One capture for all volumes of a daemon: drains the kernel maps and hands each volume its marks.
//!
//! A drain retires the generation of every volume at once. So the marks of all volumes are made pending together, each in
//! its own catalog, before the maps are cleared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::limits::{SLOT_OF_ALL, SLOT_OF_NONE};
use engine::dirty::Marks;
use engine::flush::{self, DrainWorld, Steps};
use engine::model::{Dev, Ino};
use parking_lot::{Mutex, MutexGuard};

use crate::capture::quiet::QuietProbe;
use crate::capture::{BackEnd, Capture, CaptureError, InflightWrite, Problem, Retired, WatchOutcome};
use crate::catalog::CatalogError;
use crate::test_switches::{self, DropMarks};
use crate::volume::clock::now_ns;
use crate::volume::marks::inflight;
use crate::volume::marks::problems::{reread_causes, widened_by};
use crate::volume::marks::restart::Restart;
use crate::volume::marks::retired::{is_mapped, marks_by_superblock};
use crate::volume::marks::subscriber::Subscriber;
use crate::volume::marks::waiting::Pending;

#[derive(Debug, thiserror::Error)]
pub enum DispatcherError {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("capture has failed and no other back end was left")]
    Ended,
}

/// How long to wait for direct writes that were under way when their file system was first tracked. The block layer gives
/// up a request after 30 s by default, some drivers after several tries.
const EARLIER_DIO: Duration = Duration::from_secs(600);

/// Inodes unwatched under one lock: every volume of the file system is asked about each.
const UNWATCHED_AT_ONCE: usize = 256;

/// How long a measurement of kernel memory is reused.
const MEASURED_FOR: Duration = Duration::from_secs(10);

/// What the drains have shown so far.
#[derive(Clone, Debug, Default)]
pub struct DispatcherState {
    pub drains: u64,
    pub kernel_bytes: u64,
    pub counters: BTreeMap<String, u64>,
}

pub struct Dispatcher {
    inner: Mutex<Inner>,
    /// How many failovers this process has had. Written under the lock, and read without: every round asks, and would wait for drains.
    pub(crate) failovers: AtomicU64,
    /// Starts another back end.
    pub(crate) restart: Restart,
}

pub(crate) struct Inner {
    /// `None`: capture failed, and no back end was left.
    pub(crate) capture: Option<Capture>,
    pub(crate) subscribers: Vec<Arc<Subscriber>>,
    /// Tells what the capture in operation has counted.
    pub(crate) quiet: Option<Arc<QuietProbe>>,
    last_swap_ns: u64,
    this_swap_ns: u64,
    /// When the last drain that succeeded began.
    drained: Option<Instant>,
    /// How many drains found that changes were not marked because the lease was over.
    lapses: u64,
    facts: DispatcherState,
    /// The back end (by `failovers`) whose kernel memory is in `facts`, and when it was measured. It grows with what the
    /// maps hold, and measuring it costs a dozen reads in `/proc`.
    measured: Option<(u64, Instant)>,
    /// `CLOCK_MONOTONIC` of the last check of changes in flight, ns.
    inflight_before: u64,
    pub(crate) left_over: bool,
    /// Since when completions of direct writes without a known begin are marked.
    pub(crate) earlier_dio: Option<Instant>,
    /// Marks of the self-tests' files since `forget_probes`.
    probes: BTreeMap<(Dev, Ino), Marks>,
    /// Why back ends were rejected since this process started.
    pub(crate) against: Vec<(BackEnd, String)>,
    /// Why all volumes need a full re-read before the next drain.
    pub(crate) reread_all: Option<&'static str>,
    drop: DropMarks,
    /// Why the last drain widened marks.
    widened: Vec<&'static str>,
    /// Causes of a full re-read of everything that are not yet saved in every catalog.
    unsaved: BTreeSet<&'static str>,
}

impl Dispatcher {
    pub fn new(capture: Capture, restart: Restart) -> Dispatcher {
        let now = now_ns();
        Dispatcher {
            inner: Mutex::new(Inner {
                capture: Some(capture),
                subscribers: Vec::new(),
                quiet: None,
                last_swap_ns: now,
                this_swap_ns: now,
                drained: None,
                lapses: 0,
                facts: DispatcherState::default(),
                measured: None,
                left_over: false,
                earlier_dio: Some(Instant::now()),
                inflight_before: 0,
                probes: BTreeMap::new(),
                against: Vec::new(),
                reread_all: None,
                drop: DropMarks::from_environment(),
                widened: Vec::new(),
                unsaved: BTreeSet::new(),
            }),
            failovers: AtomicU64::new(0),
            restart,
        }
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    pub fn add(&self, subscriber: Arc<Subscriber>) -> Result<(), DispatcherError> {
        let mut inner = self.inner();
        inner.capture()?.track(subscriber.dev, false)?;
        inner.earlier_dio = Some(Instant::now());
        inner.subscribers.push(subscriber);
        Ok(())
    }

    /// Ends what `add` began: nothing receives this volume's marks any more. The file system stays tracked.
    pub fn remove(&self, subscriber: &Arc<Subscriber>) {
        self.inner().subscribers.retain(|there| !Arc::ptr_eq(there, subscriber));
    }

    /// How many failovers this process has had. A volume that sees a new number checks again which back end it may use.
    pub fn failovers(&self) -> u64 {
        self.failovers.load(Ordering::Acquire)
    }

    /// How many drains found that changes were not marked because the lease was over. A change missed then proves nothing
    /// against the capture.
    pub fn lapses(&self) -> u64 {
        self.inner().lapses
    }

    /// Why back ends of this process were rejected, in order.
    pub fn failures(&self) -> Vec<(BackEnd, String)> {
        self.inner().against.clone()
    }

    /// Watches the files of a self-test, and keeps their marks for it.
    pub fn add_probes(&self, dev: Dev, inodes: &[Ino]) -> Result<(), DispatcherError> {
        let mut inner = self.inner();
        let keys: Vec<(Dev, Ino)> = inodes.iter().map(|ino| (dev, *ino)).collect();
        inner.watch(SLOT_OF_NONE, dev, &keys)?;
        inner.probes.extend(keys.into_iter().map(|key| (key, Marks::default())));
        Ok(())
    }

    /// Ends what `add_probes` began. The files must still be open.
    pub fn remove_probes(&self, dev: Dev, inodes: &[Ino]) -> Result<(), DispatcherError> {
        let mut inner = self.inner();
        let keys: Vec<(Dev, Ino)> = inodes.iter().map(|ino| (dev, *ino)).collect();
        inner.probes.retain(|key, _| !keys.contains(key));
        if inner.capture.is_none() {
            return Ok(());
        }
        // On btrfs a volume of another subvolume may have the same inode number under the same device.
        inner.unwatch(keys, None)
    }

    /// Forgets the marks of these files that were drained so far.
    pub fn forget_probes(&self, dev: Dev, inodes: &[Ino]) {
        let mut inner = self.inner();
        for ino in inodes {
            if let Some(marks) = inner.probes.get_mut(&(dev, *ino)) {
                *marks = Marks::default();
            }
        }
    }

    /// Marks of a self-test's file in all drains since `forget_probes`, whichever volume drained.
    pub fn probe(&self, dev: Dev, ino: Ino) -> Marks {
        self.inner().probes.get(&(dev, ino)).cloned().unwrap_or_default()
    }

    /// Called after a restart with pins, before the first swap: the generation that was retired when the previous process
    /// died still holds its marks. They are saved once every volume of this process is registered to receive its own.
    pub fn resume(&self) {
        self.inner().left_over = true;
    }

    /// The back end in operation.
    pub fn back_end(&self) -> BackEnd {
        self.inner().capture.as_ref().map_or(BackEnd::Scan, Capture::back_end)
    }

    /// Why volumes on this file system cannot use the capture.
    pub fn supported(&self, fs: &str) -> Result<(), Vec<&'static str>> {
        match &self.inner().capture {
            Some(capture) => capture.supported(fs),
            None => Err(vec!["capture has failed"]),
        }
    }

    /// One drain: SWAP, GRACE, save pending, clear. Returns its number.
    pub fn drain(&self) -> Result<u64, DispatcherError> {
        self.inner().drain()
    }

    /// As [`Dispatcher::drain`], unless another volume has had one that began at `since` or later: a drain is for all volumes. Returns
    /// its number, and when it began.
    pub fn drain_unless_since(&self, since: Instant) -> Result<(u64, Instant), DispatcherError> {
        let mut inner = self.inner();
        match inner.drained.filter(|drained| *drained >= since && !inner.left_over) {
            Some(drained) => Ok((inner.facts.drains, drained)),
            None => {
                let begins = Instant::now();
                inner.drain().map(|number| (number, begins))
            }
        }
    }

    /// Whether the watch set was once full, so that all inodes of the superblock are marked.
    pub fn is_widened(&self, dev: Dev) -> Result<bool, DispatcherError> {
        Ok(self.inner().capture()?.is_widened(dev)?)
    }

    /// For the volume of `pending`: changes of these inodes are marked from now on, and counted for it.
    pub fn watch(&self, pending: &Arc<Pending>, dev: Dev, inodes: &[Ino]) -> Result<WatchOutcome, DispatcherError> {
        let keys: Vec<(Dev, Ino)> = inodes.iter().map(|ino| (dev, *ino)).collect();
        let mut inner = self.inner();
        let slot = inner.slot_of(pending);
        inner.watch(slot, dev, &keys)
    }

    /// Stops watching inodes that the volume of `pending` no longer needs. An inode that another volume or a self-test uses
    /// stays watched.
    pub fn unwatch(&self, pending: &Arc<Pending>, dev: Dev, inodes: &[Ino]) -> Result<(), DispatcherError> {
        // In pieces, since drains of all volumes wait meanwhile.
        for some in inodes.chunks(UNWATCHED_AT_ONCE) {
            let mut inner = self.inner();
            let keys = some.iter().map(|ino| (dev, *ino)).filter(|key| !inner.probes.contains_key(key)).collect();
            inner.unwatch(keys, Some(pending))?;
        }
        Ok(())
    }

    pub fn facts(&self) -> DispatcherState {
        let mut inner = self.inner();
        let now = self.failovers();
        if inner.measured.is_none_or(|(failovers, at)| failovers != now || at.elapsed() > MEASURED_FOR) {
            inner.facts.kernel_bytes = inner.capture.as_ref().map_or(0, Capture::kernel_memory_bytes);
            inner.measured = Some((now, Instant::now()));
        }
        inner.facts.clone()
    }
}

impl Inner {
    /// Removes in-flight writes that need no mark now (`inflight`). Returns those to forget after this drain.
    fn age_inflight(&mut self, retired: &mut Retired) -> Vec<InflightWrite> {
        let now = crate::capture::monotonic_ns();
        let before = std::mem::replace(&mut self.inflight_before, now);
        let ended: Vec<InflightWrite> = retired.inflight.iter().filter(|io| inflight::is_over(io)).copied().collect();
        retired.inflight.retain(|io| inflight::is_due(io, before, now));
        ended
    }

    /// The slot of a volume; one that is not known here is counted for all.
    pub(crate) fn slot_of(&self, pending: &Arc<Pending>) -> u32 {
        let own = self.subscribers.iter().find(|subscriber| Arc::ptr_eq(&subscriber.pending, pending));
        own.map_or(SLOT_OF_ALL, |subscriber| subscriber.slot)
    }

    fn watch(&mut self, slot: u32, dev: Dev, keys: &[(Dev, Ino)]) -> Result<WatchOutcome, DispatcherError> {
        let capture = self.capture()?;
        let before = capture.tracked()?;
        let outcome = capture.watch_in(slot, keys)?;
        if outcome != WatchOutcome::Watching && !before.contains(&(dev, true)) {
            // No mark is known to be lost. But the file system changes from one way of marking to another, so its volumes
            // are not called protected before a complete pass.
            for subscriber in self.subscribers.iter().filter(|subscriber| subscriber.dev == dev) {
                subscriber.widen("watch set full", |_| true)?;
            }
        }
        Ok(outcome)
    }

    /// The watch set is that of all volumes of a superblock: what one but `own` knows stays in it. An inode is added to
    /// `pending` before it is watched, so either order leaves it watched.
    fn unwatch(&mut self, keys: Vec<(Dev, Ino)>, own: Option<&Arc<Pending>>) -> Result<(), DispatcherError> {
        let mut free = Vec::new();
        'keys: for (dev, ino) in keys {
            for subscriber in self.subscribers.iter().filter(|subscriber| subscriber.dev == dev) {
                if own.is_none_or(|own| !Arc::ptr_eq(&subscriber.pending, own)) && subscriber.pending.knows(ino)? {
                    continue 'keys;
                }
            }
            free.push((dev, ino));
        }
        Ok(self.capture()?.unwatch(&free)?)
    }

    fn drain(&mut self) -> Result<u64, DispatcherError> {
        self.reread_everything()?;
        if self.left_over {
            flush::take_up(self)?;
            self.left_over = false;
        }
        let begins = Instant::now();
        let counted = self.counted();
        if let Err(error) = flush::drain(self, Steps::ALL) {
            // The retired generation must be read before the next swap makes it current again.
            self.left_over = true;
            return Err(error);
        }
        self.drained = Some(begins);
        for (subscriber, counted) in self.subscribers.iter().zip(counted) {
            self.quiet.iter().for_each(|probe| subscriber.drained(probe, counted));
        }
        if self.earlier_dio.is_some_and(|since| since.elapsed() > EARLIER_DIO) {
            self.capture()?.forget_earlier_dio()?;
            self.earlier_dio = None;
        }
        self.facts.drains += 1;
        Ok(self.facts.drains)
    }

    /// How many changes of each volume were counted before this call, and so marked. Empty where that cannot be told.
    fn counted(&mut self) -> Vec<u64> {
        if self.quiet.is_none() {
            self.quiet = self.capture.as_ref().and_then(|capture| capture.quiet_probe().ok()).map(Arc::new);
        }
        let of = |subscriber: &Arc<Subscriber>| self.quiet.as_ref().map(|probe| probe.marked(subscriber.slot));
        self.subscribers.iter().filter_map(of).collect()
    }

    pub(crate) fn capture(&mut self) -> Result<&mut Capture, DispatcherError> {
        self.capture.as_mut().ok_or(DispatcherError::Ended)
    }

    /// Why the capture may have missed changes since the last drain, in a closed set of words. Causes already covered by
    /// a mark or overflow bit are left out.
    fn check_health(&mut self) -> Result<(Vec<&'static str>, Vec<&'static str>), DispatcherError> {
        let health = self.capture()?.health()?;
        if health.problems.iter().any(|problem| matches!(problem, Problem::LinkGone { .. }))
            && let Err(error) = self.capture()?.pin_again()
        {
            // The next drain reports it again and everything is compared again: the volume stays degraded.
            tracing::warn!(%error, "a removed pin cannot be made again");
        }
        self.lapses += u64::from(health.problems.contains(&Problem::Lapsed));
        Ok((reread_causes(&health.problems), widened_by(&health.problems)))
    }
}

impl DrainWorld for Inner {
    type Error = DispatcherError;

    fn swap(&mut self) -> Result<(), DispatcherError> {
        self.last_swap_ns = std::mem::replace(&mut self.this_swap_ns, now_ns());
        self.capture()?.swap()?;
        test_switches::hit("swap");
        Ok(())
    }

    fn grace(&mut self) -> Result<(), DispatcherError> {
        self.capture()?.grace()?;
        test_switches::hit("grace");
        Ok(())
    }

    fn save_retired(&mut self) -> Result<(), DispatcherError> {
        let mut retired: Retired = self.capture()?.read_retired()?;
        test_switches::hit("read-retired");
        let (causes, widened) = self.check_health()?;
        // The kernel reports a cause once: keep it until every catalog has it.
        self.unsaved.extend(causes);
        let before = std::mem::replace(&mut self.widened, widened.clone());
        // A mark is no older than the swap before the one that retired it.
        let since = self.last_swap_ns;
        let ended = self.age_inflight(&mut retired);
        let by_dev = marks_by_superblock(&retired);
        for (key, seen) in &mut self.probes {
            for (_, marks) in by_dev.get(&key.0).into_iter().flatten().filter(|(ino, _)| *ino == key.1) {
                seen.merge(marks);
            }
            if retired.overflow.hit(key.0, key.1) {
                seen.merge(&Marks { names: true, ..Marks::rescan() });
            }
        }
        self.facts.counters = retired.counters.named().map(|(name, value)| (name.to_owned(), value)).collect();
        // An unwritable catalog must not keep other volumes' marks from being saved; its own volume reports the error.
        let (mut failed, overflows) = (None, retired.overflow.any());
        for subscriber in &self.subscribers {
            let mut mine = Vec::new();
            for (ino, marks) in by_dev.get(&subscriber.dev).into_iter().flatten() {
                if subscriber.pending.knows(*ino)? {
                    let mut marks = marks.clone();
                    self.drop.some_of(&mut marks);
                    mine.push((*ino, marks));
                }
            }
            if let Err(error) = subscriber.pending.add(&mine, since) {
                failed = Some(error);
                continue;
            }
            subscriber
                .pending
                .note_mapped(mine.iter().map(|(ino, _)| *ino).filter(|ino| is_mapped(&retired, subscriber.dev, *ino)));
            if mine.iter().any(|(_, marks)| marks.rescan) {
                // The counters of two drains: one that rose after the swap belongs to marks of the next drain.
                widened.iter().chain(&before).for_each(|word| subscriber.note_reread(word));
            }
            if overflows {
                subscriber.widen("kernel map full", |ino| retired.overflow.hit(subscriber.dev, ino))?;
            }
            for cause in &self.unsaved {
                subscriber.widen(cause, |_| true)?;
            }
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        self.unsaved.clear();
        Ok(self.capture()?.forget_calls(&ended)?)
    }

    fn clear_retired(&mut self) -> Result<(), DispatcherError> {
        test_switches::hit("pending");
        self.capture()?.clear_retired()?;
        test_switches::hit("clear");
        Ok(())
    }
}

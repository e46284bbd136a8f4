//! Checkpoints, made beside the flushes. A thread of its own replays the commits up to a fixed place in each era and puts pages
//! and root, while commits go on behind that place. The end of an era names the newest checkpoint that is whole by then, and waits
//! for none: while one is missing, a restore replays more commits.
//!
//! The place is the same whoever looks ([`checkpoint_seq`]), and so are the bytes. What a process that was killed has put counts
//! for the next one, and so does what another writer of the same commits has put.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::checkpoint;
use engine::format::Key;
use engine::format::era::{CheckpointRef, checkpoint_seq, era_of};
use engine::manifest::Manifest;
use engine::model::Seq;

use crate::repository::reader::Reader;
use crate::repository::write_error::{ATTEMPTS, WriteError};
use crate::store::{self, CreateOutcome, Store};
use crate::test_switches;

/// How long after a failure the same checkpoint is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// The checkpoints of one volume, as its writer makes them.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// The newest that is whole in the store.
    newest: Option<CheckpointRef>,
    making: Option<Making>,
    /// Up to here none has to be made: it is there, or other bytes lie in its place.
    done: Seq,
    try_again: Option<Instant>,
}

struct Making {
    seq: Seq,
    found: Receiver<CheckpointRef>,
    thread: JoinHandle<Result<(), WriteError>>,
    _stop: StopWhenDropped,
}

/// Ends the thread soon after the volume has. Nobody waits for it: what is put already stays, and is of use to the next process.
struct StopWhenDropped(Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Checkpoints {
    /// The newest checkpoint that is whole in the store, as far as this process knows.
    pub(super) fn newest(&mut self) -> Option<CheckpointRef> {
        self.collect();
        self.newest
    }

    /// Begins the newest checkpoint that is due at `head`, unless one is being made. Never waits. `reader` reads up to `head`.
    pub(super) fn tend(&mut self, head: Seq, era_len: u64, reader: impl FnOnce() -> Reader) {
        self.collect();
        let due = due(head, era_len);
        let waits = self.try_again.is_some_and(|at| Instant::now() < at);
        if self.making.is_some() || due <= self.done || waits {
            return;
        }
        let (sender, found) = channel();
        let stop = StopWhenDropped(Arc::default());
        let (reader, stopped) = (reader(), Arc::clone(&stop.0));
        let work = move || make(&reader, due, &stopped, &sender);
        match std::thread::Builder::new().name("checkpoint".into()).spawn(work) {
            Ok(thread) => self.making = Some(Making { seq: due, found, thread, _stop: stop }),
            Err(error) => self.failed(due, &error),
        }
    }

    /// Takes what the thread has found and made.
    fn collect(&mut self) {
        let Some(making) = &self.making else { return };
        // Asked before the last of what it found is taken.
        let ended = making.thread.is_finished();
        for found in making.found.try_iter() {
            self.newest = Some(found);
        }
        if !ended {
            return;
        }
        let Some(Making { seq, thread, .. }) = self.making.take() else { return };
        match thread.join() {
            Ok(Ok(())) => (self.done, self.try_again) = (seq, None),
            Ok(Err(error)) => self.failed(seq, &error),
            Err(_) => self.failed(seq, &"its thread has panicked"),
        }
    }

    fn failed(&mut self, seq: Seq, error: &dyn std::fmt::Display) {
        tracing::warn!(%seq, %error, "the checkpoint is not made yet, it is tried again");
        self.try_again = Some(Instant::now() + TRY_AGAIN);
    }
}

/// The newest place of a checkpoint up to `head`; `NONE` before the first.
fn due(head: Seq, era_len: u64) -> Seq {
    let era = era_of(head, era_len);
    let place = checkpoint_seq(era, era_len);
    match era.checked_sub(1) {
        Some(before) if place > head => checkpoint_seq(before, era_len),
        None if place > head => Seq::NONE,
        _ => place,
    }
}

/// Makes the checkpoint of `seq`, and tells what is whole in the store: first the newest that the chain names.
fn make(reader: &Reader, seq: Seq, stopped: &AtomicBool, found: &Sender<CheckpointRef>) -> Result<(), WriteError> {
    // Nobody listens any more: then the volume has ended.
    let tell = |checkpoint| found.send(checkpoint).map_err(|_| WriteError::Ended);
    if let Some(named) = reader.newest_named_checkpoint()? {
        tell(named)?;
        if named.seq >= seq {
            return Ok(());
        }
    }
    let began = Instant::now();
    let manifest = reader.manifest(seq)?;
    let Some(made) = put_checkpoint(&*reader.store, &manifest, stopped)? else { return Ok(()) };
    tracing::debug!(%seq, seconds = began.elapsed().as_secs_f64(), "a checkpoint is made");
    tell(made)
}

/// Puts the checkpoint of `manifest`. `None`: one of its keys has other bytes, so no reader could use it.
fn put_checkpoint(
    store: &dyn Store,
    manifest: &Manifest,
    stopped: &AtomicBool,
) -> Result<Option<CheckpointRef>, WriteError> {
    let mut refused = None;
    let put = |key: Key, bytes: Vec<u8>| -> Result<(), WriteError> {
        test_switches::wait_while_held("TRACKER_CHECKPOINT_HELD");
        if stopped.load(Ordering::Relaxed) {
            return Err(WriteError::Ended);
        }
        test_switches::hit(if matches!(key, Key::Page(_)) { "page" } else { "checkpoint" });
        match store::create_exact(store, &key.to_string(), &Bytes::from(bytes), ATTEMPTS)? {
            CreateOutcome::Own => {}
            CreateOutcome::Other(_) => {
                tracing::warn!(%key, "other bytes lie where the checkpoint belongs: it is left out");
                refused = Some(key);
            }
        }
        Ok(())
    };
    let reference = match checkpoint::write(manifest, put) {
        Ok(reference) => Some(reference),
        // The files of one page can have more attributes than a page can hold. The commits lead to the same state.
        Err(WriteError::Encode(error)) => {
            tracing::warn!(%error, "the checkpoint is left out");
            None
        }
        Err(error) => return Err(error),
    };
    Ok(reference.filter(|_| refused.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each seq's newest place, for eras of four: places are 2, 6, 10.
    #[test]
    fn a_checkpoint_is_due_from_its_place_on_until_the_next() {
        let places: Vec<u64> = (0..12).map(|head| due(Seq(head), 4).0).collect();
        assert_eq!(places, [0, 0, 2, 2, 2, 2, 6, 6, 6, 6, 10, 10]);
        assert_eq!((0..4).map(|head| due(Seq(head), 1).0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}

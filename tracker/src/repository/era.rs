//! Ends of eras: the checkpoint, the object that closes an era, and what it says to a late writer.

use engine::checkpoint;
use engine::format::era::{CheckpointRef, Era, era_of, first_seq, last_seq};
use engine::format::{EncodeError, Key};
use engine::manifest::Manifest;
use engine::model::{Hash, Seq, VolumeId};

use bytes::Bytes;

use crate::store::{self, ErrorKind, Store};
use crate::volume::startup::open::Opened;
use crate::volume::world::{VolumeWorld, WorldError};

const ATTEMPTS: u32 = 3;

fn object(key: &Key, cause: impl std::fmt::Display) -> WorldError {
    WorldError::Object { key: key.to_string(), cause: cause.to_string() }
}

/// Whether the era of `seq` is closed by a writer of another epoch: then a commit at `seq` must not count.
pub fn closed_by_other(world: &VolumeWorld, volume: VolumeId, seq: Seq) -> Result<bool, WorldError> {
    let number = era_of(seq, world.era_length);
    let key = Key::Era(number);
    if !world.store.exists(&key.to_string())? {
        return Ok(false);
    }
    let decode = |bytes: &[u8]| Era::decode(bytes, volume, number, world.era_length);
    match store::get_checked(&*world.store, &key.to_string(), decode) {
        Ok(Ok((_, era))) => Ok(era.epoch != world.epoch),
        Ok(Err((_, error))) => Err(object(&key, error)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Errors of writing a checkpoint.
#[derive(Debug)]
struct Writing(WorldError);

impl From<EncodeError> for Writing {
    fn from(error: EncodeError) -> Self {
        Writing(error.into())
    }
}

/// What became of the era that the head fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It is closed as this writer closes it, or was not due.
    Done,
    /// Another writer closed it: with other commits, or in another epoch.
    Fenced,
}

/// Closes the era that has just been filled, before the first commit of the next one is made: checkpoint first, then the
/// object that names it. Does nothing in the middle of an era, or when it is closed already.
pub fn close_if_due(opened: &mut Opened) -> Result<Closing, WorldError> {
    let world = &opened.world;
    let Some(head) = world.catalog.head()? else { return Ok(Closing::Done) };
    let number = era_of(head.seq, world.era_length);
    if last_seq(number, world.era_length) != head.seq || world.catalog.intent()?.is_some() {
        return Ok(Closing::Done);
    }
    if world.era_ended.is_some_and(|(ended, _)| ended == number) {
        // Looked at already: the head may rest here for long, and each look replays the era.
        return Ok(Closing::Done);
    }
    let manifest = opened.reader(head.seq).manifest(head.seq)?;
    let era = Era {
        volume: opened.volume_id,
        era: number,
        last_seq: head.seq,
        chain: head.hash,
        time: head.time,
        standing: head.standing,
        epoch: world.epoch,
        checkpoint: None,
    };
    let key = Key::Era(number);
    // What is there already was put by this writer, or by anybody who may add objects: it counts when it says the same.
    if world.store.exists(&key.to_string())? {
        let decode = |bytes: &[u8]| Era::decode(bytes, opened.volume_id, number, world.era_length);
        let (bytes, found) =
            store::get_checked(&*world.store, &key.to_string(), decode)?.map_err(|(_, error)| object(&key, error))?;
        if !is_same(opened, &era, &found, &manifest)? {
            return Ok(Closing::Fenced);
        }
        opened.world.era_ended = Some((number, blake3::hash(&bytes).into()));
        return Ok(Closing::Done);
    }
    let era = Era { checkpoint: put_checkpoint(&*world.store, &manifest)?, ..era };
    let bytes = Bytes::from(era.encode()?);
    match store::create_exact(&*world.store, &key.to_string(), &bytes, ATTEMPTS)? {
        store::CreateOutcome::Own => {
            opened.world.era_ended = Some((number, blake3::hash(&bytes).into()));
            Ok(Closing::Done)
        }
        // Looked at in the next flush, with what it names.
        store::CreateOutcome::Other(_) => Err(object(&key, "it was put by somebody else, or came back damaged")),
    }
}

/// The hash of the end of the era before, for the commit `seq` to name; `None` where `seq` is not the first of an era.
///
/// # Errors
/// That era is not closed yet: an intent that was settled just now was its last commit. The next flush closes it first.
pub fn before(world: &VolumeWorld, seq: Seq) -> Result<Option<Hash>, WorldError> {
    let number = era_of(seq, world.era_length);
    let Some(last) = number.checked_sub(1).filter(|_| first_seq(number, world.era_length) == seq) else {
        return Ok(None);
    };
    match world.era_ended {
        Some((ended, hash)) if ended == last => Ok(Some(hash)),
        // An era without any seq has no end.
        _ if last_seq(last, world.era_length) == Seq::NONE => Ok(None),
        _ => Err(object(&Key::Era(last), "the era is to be closed before the next begins")),
    }
}

/// Puts the checkpoint of `manifest`. `None`: other bytes lie at a key of it, so that no reader could use it.
fn put_checkpoint(store: &dyn Store, manifest: &Manifest) -> Result<Option<CheckpointRef>, WorldError> {
    let mut refused = None;
    let put = |key: Key, bytes: Vec<u8>| -> Result<(), Writing> {
        match store::create_exact(store, &key.to_string(), &Bytes::from(bytes), ATTEMPTS) {
            Ok(store::CreateOutcome::Own) => Ok(()),
            Ok(store::CreateOutcome::Other(_)) => {
                tracing::warn!(%key, "other bytes lie where the checkpoint belongs: the era is closed without one");
                refused = Some(key);
                Ok(())
            }
            Err(error) => Err(Writing(error.into())),
        }
    };
    let reference = match checkpoint::write(manifest, put) {
        Ok(reference) => Some(reference),
        // Files of one page can have more attributes than a page holds. The commits lead to the same state.
        Err(Writing(WorldError::Encode(error))) => {
            tracing::warn!(%error, "the era is closed without a checkpoint");
            None
        }
        Err(Writing(error)) => return Err(error),
    };
    Ok(reference.filter(|_| refused.is_none()))
}

/// Whether an era that lies in the store is the one this writer would put, and its checkpoint the state of its commits.
fn is_same(opened: &Opened, ours: &Era, found: &Era, manifest: &Manifest) -> Result<bool, WorldError> {
    if *ours != (Era { checkpoint: None, ..found.clone() }) {
        return Ok(false);
    }
    match found.checkpoint {
        None => Ok(true),
        Some(named) => Ok(opened.reader(ours.last_seq).is_checkpoint_of(named, manifest)?),
    }
}

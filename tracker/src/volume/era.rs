//! Ends of eras: the checkpoint, the object that closes an era, and what it says to a late writer.

use engine::format::checkpoint;
use engine::format::era::{Era, era_of, last_seq};
use engine::format::{EncodeError, Key};
use engine::model::{Id, Seq};

use bytes::Bytes;

use super::open::Opened;
use super::world::{VolumeWorld, WorldError};
use crate::store::{self, ErrorKind, Store};

const ATTEMPTS: u32 = 3;

fn object(key: &Key, cause: impl std::fmt::Display) -> WorldError {
    WorldError::Object { key: key.to_string(), cause: cause.to_string() }
}

fn find(store: &dyn Store, key: &Key) -> Result<Option<Vec<u8>>, WorldError> {
    match store.get(&key.to_string()) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the era of `seq` is closed by a writer of another epoch: then a commit at `seq` must not count.
pub fn closed_by_other(world: &VolumeWorld, volume: Id, seq: Seq) -> Result<bool, WorldError> {
    let number = era_of(seq, world.era_length);
    let key = Key::Era(number);
    if !world.store.exists(&key.to_string())? {
        return Ok(false);
    }
    let Some(bytes) = find(&*world.store, &key)? else { return Ok(false) };
    let era = Era::decode(&bytes, volume, number, world.era_length).map_err(|error| object(&key, error))?;
    Ok(era.epoch != world.epoch)
}

/// Errors of writing a checkpoint.
#[derive(Debug)]
struct Writing(WorldError);

impl From<EncodeError> for Writing {
    fn from(error: EncodeError) -> Self {
        Writing(error.into())
    }
}

/// Closes the era that has just been filled, before the first commit of the next one is made: checkpoint first, then the
/// object that names it. Does nothing in the middle of an era, or when it is closed already.
pub fn close_if_due(opened: &mut Opened) -> Result<(), WorldError> {
    let world = &opened.world;
    let Some(head) = world.catalog.head()? else { return Ok(()) };
    let number = era_of(head.seq, world.era_length);
    if last_seq(number, world.era_length) != head.seq || world.catalog.intent()?.is_some() {
        return Ok(());
    }
    let key = Key::Era(number);
    if world.store.exists(&key.to_string())? {
        return Ok(());
    }
    let manifest = opened.reader(head.seq).manifest(head.seq)?;
    let put = |key: Key, bytes: Vec<u8>| -> Result<(), Writing> {
        // Pages are named by their content, so one that exists is the same page.
        match store::create_exact(&*world.store, &key.to_string(), &Bytes::from(bytes), ATTEMPTS) {
            Ok(_) => Ok(()),
            Err(error) => Err(Writing(error.into())),
        }
    };
    let reference = checkpoint::write(&manifest, put).map_err(|Writing(error)| error)?;
    let era = Era {
        volume: opened.volume_id,
        era: number,
        last_seq: head.seq,
        chain: head.hash,
        time: head.time,
        standing: head.standing,
        epoch: world.epoch,
        checkpoint: Some(reference),
    };
    let bytes = Bytes::from(era.encode()?);
    match store::create_exact(&*world.store, &key.to_string(), &bytes, ATTEMPTS)? {
        store::Settled::Own => Ok(()),
        store::Settled::Other(_) => Err(object(&key, "another writer closed this era")),
    }
}

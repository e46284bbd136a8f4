//! Ends of eras: the checkpoint, the object that closes an era, and what it says to a late writer.

use engine::format::checkpoint::{self, CheckpointRoot};
use engine::format::commit::{self, Expect};
use engine::format::era::{CheckpointRef, Era, era_of, first_seq, last_seq};
use engine::format::{EncodeError, Key};
use engine::manifest::Manifest;
use engine::model::{Hash, Id, Seq};

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

/// The state at `seq`, from the newest checkpoint before it and the commits after that.
pub fn manifest_at(store: &dyn Store, volume: Id, era_length: u64, seq: Seq) -> Result<Manifest, WorldError> {
    let mut manifest = Manifest::new(volume);
    let first_era = first_seq(0, era_length);
    for number in (0..era_of(seq, era_length)).rev() {
        let key = Key::Era(number);
        let Some(bytes) = find(store, &key)? else { continue };
        let era = Era::decode(&bytes, volume, number, era_length).map_err(|error| object(&key, error))?;
        let Some(reference) = era.checkpoint.filter(|reference| reference.seq <= seq && reference.seq >= first_era)
        else {
            continue;
        };
        manifest = load(store, volume, reference)?;
        break;
    }
    for next in manifest.seq() + 1..=seq {
        let key = Key::Commit(next);
        let bytes = find(store, &key)?.ok_or_else(|| object(&key, "is absent"))?;
        let found = commit::decode(&bytes, Expect { volume, seq: next }).map_err(|error| object(&key, error))?;
        manifest.apply(&found, commit::hash(&bytes)).map_err(|error| object(&key, error))?;
    }
    Ok(manifest)
}

#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error(transparent)]
    Load(#[from] checkpoint::LoadError),
    #[error(transparent)]
    World(#[from] WorldError),
}

fn load(store: &dyn Store, volume: Id, reference: CheckpointRef) -> Result<Manifest, WorldError> {
    let key = Key::Checkpoint(reference.seq);
    let bytes = find(store, &key)?.ok_or_else(|| object(&key, "is absent"))?;
    if blake3::hash(&bytes) != reference.hash {
        return Err(object(&key, "its hash is not the one its era names"));
    }
    let root = CheckpointRoot::decode(&bytes, volume, reference.seq).map_err(|error| object(&key, error))?;
    let page = |hash: &Hash| -> Result<Vec<u8>, PageError> {
        let key = Key::Page(*hash);
        Ok(find(store, &key)?.ok_or_else(|| object(&key, "is absent"))?)
    };
    match checkpoint::load(&root, page) {
        Ok(manifest) => Ok(manifest),
        Err(PageError::World(error)) => Err(error),
        Err(PageError::Load(error)) => Err(object(&key, error)),
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
    let manifest = manifest_at(&*world.store, opened.volume_id, world.era_length, head.seq)?;
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
        epoch: world.epoch,
        checkpoint: Some(reference),
    };
    let bytes = Bytes::from(era.encode()?);
    match store::create_exact(&*world.store, &key.to_string(), &bytes, ATTEMPTS)? {
        store::Settled::Own => Ok(()),
        store::Settled::Other(_) => Err(object(&key, "another writer closed this era")),
    }
}

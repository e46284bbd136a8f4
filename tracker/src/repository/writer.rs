//! What the one writer of a volume puts into its store: packs, commits, and the ends of eras with their checkpoints.
//!
//! Nothing is overwritten: each object is created, and an existing one counts if it has the bytes that were to be put
//! (invariant I5). Knows neither the kernel nor the catalog: a caller that has a head and the bytes of a commit can write.

use std::sync::Arc;

use bytes::Bytes;
use engine::catalog::Head;
use engine::checkpoint;
use engine::flush::world::Created;
use engine::format::commit::{self, Expect};
use engine::format::era::{CheckpointRef, Era, VolumeFormat, era_of, first_seq, last_seq};
use engine::format::{EncodeError, Key};
use engine::manifest::Manifest;
use engine::model::{Hash, ObjectRef, Seq, WriterId};

use crate::repository::error::ReadError;
use crate::repository::presence;
use crate::repository::reader::{Reader, of_writer};
use crate::store::{self, CreateOutcome, ErrorKind, Store, StoreError};
use crate::test_switches;

/// Tries of an object whose outcome stays unknown.
pub(super) const ATTEMPTS: u32 = 3;

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("pack {key} is in the store with other bytes than were made: they are put under another name")]
    ForeignPack { key: String },
    #[error(
        "the store ({store}) no longer has {key}, though this host has committed to it: nothing is committed until it is back"
    )]
    Lost { key: String, store: String },
    #[error("object {key}: {cause}")]
    Object { key: String, cause: String },
}

impl WriteError {
    pub(super) fn object(key: &Key, cause: impl std::fmt::Display) -> WriteError {
        WriteError::Object { key: key.to_string(), cause: cause.to_string() }
    }
}

/// The result of closing the era whose last commit is the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It is closed with what this writer would put, or was not due.
    Done,
    /// Another writer closed it: with other commits, or in another epoch.
    Fenced,
}

/// The writer of one volume.
pub struct VolumeWriter {
    /// The volume's part of the store.
    store: Arc<dyn Store>,
    /// The volume's name, for messages.
    name: String,
    format: VolumeFormat,
    /// The writer's.
    epoch: u64,
    /// The last era that this process found properly closed, and the hash of its end.
    era_ended: Option<(u64, Hash)>,
}

impl VolumeWriter {
    /// `store` is the volume's own part of a store, `epoch` the writer's.
    pub fn new(store: Arc<dyn Store>, name: &str, format: VolumeFormat, epoch: u64) -> VolumeWriter {
        VolumeWriter { store, name: name.to_owned(), format, epoch, era_ended: None }
    }

    /// The volume's part of the store.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub fn format(&self) -> &VolumeFormat {
        &self.format
    }

    /// Reads this volume's history up to `head`.
    pub fn reader(&self, head: Seq) -> Reader {
        of_writer(Arc::clone(&self.store), &self.name, self.format.clone(), head)
    }

    /// Puts a pack.
    ///
    /// # Errors
    /// `ForeignPack` if that name has other bytes: the next flush uses another name, and the commit's creation shows
    /// whether they are another writer's.
    pub fn put_pack(&self, at: ObjectRef, bytes: Vec<u8>) -> Result<(), WriteError> {
        let key = Key::from(at).to_string();
        match store::create_exact(self.store(), &key, &Bytes::from(bytes), ATTEMPTS)? {
            CreateOutcome::Own => {
                test_switches::hit("pack");
                Ok(())
            }
            CreateOutcome::Other(_) => Err(WriteError::ForeignPack { key }),
        }
    }

    /// Creates commit `seq` unless one is there. A lost reply is `Created::Unknown`, not an error.
    pub fn create_commit(&self, seq: Seq, bytes: &[u8]) -> Result<Created, WriteError> {
        let created = self.store.create(&Key::Commit(seq).to_string(), Bytes::copy_from_slice(bytes));
        test_switches::hit("put");
        match created {
            Ok(store::Created::Yes) => Ok(Created::Yes),
            Ok(store::Created::Exists) => Ok(Created::Exists),
            Err(error) if error.kind == ErrorKind::Unknown => Ok(Created::Unknown),
            Err(error) => Err(error.into()),
        }
    }

    /// The bytes of commit `seq` in the store, unchecked; `None` if it has none.
    pub fn read_commit(&self, seq: Seq) -> Result<Option<Vec<u8>>, WriteError> {
        match self.store.get(&Key::Commit(seq).to_string()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Who has made commit `seq`.
    ///
    /// # Errors
    /// `Object` where what the store gives is no commit of this place.
    pub fn writer_of(&self, seq: Seq) -> Result<WriterId, WriteError> {
        let key = Key::Commit(seq);
        let expect = Expect { volume: self.format.volume, seq };
        let decode = |bytes: &[u8]| commit::decode_header(bytes, expect);
        match store::get_checked(self.store(), &key.to_string(), decode)? {
            Ok((_, header)) => Ok(header.writer),
            Err((_, error)) => Err(WriteError::object(&key, error)),
        }
    }

    /// Fails with `Lost` where the store lacks the volume, or its newest commit `head` (0: nothing was committed yet).
    pub fn must_have(&self, head: Seq) -> Result<(), WriteError> {
        match presence::lost(self.store(), head)? {
            None => Ok(()),
            Some(key) => Err(WriteError::Lost { key: key.to_string(), store: self.store.describe() }),
        }
    }

    /// As [`VolumeWriter::must_have`], only if it costs no request: in a store that is not remote.
    pub fn must_have_where_free(&self, head: Seq) -> Result<(), WriteError> {
        if self.store.properties().remote { Ok(()) } else { self.must_have(head) }
    }

    /// Whether the era of `seq` is closed by a writer of another epoch: then a commit at `seq` must not count.
    pub fn is_closed_by_other(&self, seq: Seq) -> Result<bool, WriteError> {
        let number = era_of(seq, self.format.era_len);
        let key = Key::Era(number);
        if !self.store.exists(&key.to_string())? {
            return Ok(false);
        }
        match store::get_checked(self.store(), &key.to_string(), |bytes| self.decode_era(number, bytes)) {
            Ok(Ok((_, era))) => Ok(era.epoch != self.epoch),
            Ok(Err((_, error))) => Err(WriteError::object(&key, error)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn decode_era(&self, number: u64, bytes: &[u8]) -> Result<Era, engine::format::DecodeError> {
        Era::decode(bytes, self.format.volume, number, self.format.era_len)
    }

    /// Closes the era whose last commit is `head`, before the first commit of the next one: first puts the checkpoint, then
    /// the object that names it. Does nothing in the middle of an era, or if it is closed already.
    pub fn close_era_if_due(&mut self, head: &Head) -> Result<Closing, WriteError> {
        let number = era_of(head.seq, self.format.era_len);
        if head.seq == Seq::NONE || last_seq(number, self.format.era_len) != head.seq {
            return Ok(Closing::Done);
        }
        if self.era_ended.is_some_and(|(ended, _)| ended == number) {
            // Checked already: the head may stay here for long, and each check replays the era.
            return Ok(Closing::Done);
        }
        let manifest = self.reader(head.seq).manifest(head.seq)?;
        let era = Era {
            volume: self.format.volume,
            era: number,
            last_seq: head.seq,
            chain: head.hash,
            time: head.time,
            standing: head.standing,
            epoch: self.epoch,
            checkpoint: None,
        };
        let key = Key::Era(number);
        // An existing object may be from this writer, or from anybody who may add objects. It counts if it says the same.
        if self.store.exists(&key.to_string())? {
            let found = store::get_checked(self.store(), &key.to_string(), |bytes| self.decode_era(number, bytes))?;
            let (bytes, found) = found.map_err(|(_, error)| WriteError::object(&key, error))?;
            if !self.is_same_era(&era, &found, &manifest)? {
                return Ok(Closing::Fenced);
            }
            self.era_ended = Some((number, blake3::hash(&bytes).into()));
            return Ok(Closing::Done);
        }
        let era = Era { checkpoint: put_checkpoint(self.store(), &manifest)?, ..era };
        let bytes = Bytes::from(era.encode()?);
        match store::create_exact(self.store(), &key.to_string(), &bytes, ATTEMPTS)? {
            CreateOutcome::Own => {
                self.era_ended = Some((number, blake3::hash(&bytes).into()));
                Ok(Closing::Done)
            }
            // The next flush checks it again, with what it names.
            CreateOutcome::Other(_) => {
                Err(WriteError::object(&key, "it was put by somebody else, or came back damaged"))
            }
        }
    }

    /// Whether an era in the store is the one that this writer would put, and its checkpoint the state of its commits.
    fn is_same_era(&self, ours: &Era, found: &Era, manifest: &Manifest) -> Result<bool, WriteError> {
        if *ours != (Era { checkpoint: None, ..found.clone() }) {
            return Ok(false);
        }
        match found.checkpoint {
            None => Ok(true),
            Some(named) => Ok(self.reader(ours.last_seq).is_checkpoint_of(named, manifest)?),
        }
    }

    /// The hash of the end of the previous era, for the commit `seq` to name; `None` if `seq` is not the first of an era.
    ///
    /// # Errors
    /// `Object` if that era is not closed yet: an intent that was settled just now was its last commit. The next flush
    /// closes it first.
    pub fn era_before(&self, seq: Seq) -> Result<Option<Hash>, WriteError> {
        let length = self.format.era_len;
        let number = era_of(seq, length);
        let Some(last) = number.checked_sub(1).filter(|_| first_seq(number, length) == seq) else {
            return Ok(None);
        };
        match self.era_ended {
            Some((ended, hash)) if ended == last => Ok(Some(hash)),
            // An era without any seq has no end.
            _ if last_seq(last, length) == Seq::NONE => Ok(None),
            _ => Err(WriteError::object(&Key::Era(last), "the era is to be closed before the next begins")),
        }
    }
}

/// Puts the checkpoint of `manifest`. `None`: one of its keys has other bytes, so no reader could use it.
fn put_checkpoint(store: &dyn Store, manifest: &Manifest) -> Result<Option<CheckpointRef>, WriteError> {
    let mut refused = None;
    let put = |key: Key, bytes: Vec<u8>| -> Result<(), WriteError> {
        match store::create_exact(store, &key.to_string(), &Bytes::from(bytes), ATTEMPTS)? {
            CreateOutcome::Own => {}
            CreateOutcome::Other(_) => {
                tracing::warn!(%key, "other bytes lie where the checkpoint belongs: the era is closed without one");
                refused = Some(key);
            }
        }
        Ok(())
    };
    let reference = match checkpoint::write(manifest, put) {
        Ok(reference) => Some(reference),
        // The files of one page can have more attributes than a page can hold. The commits lead to the same state.
        Err(WriteError::Encode(error)) => {
            tracing::warn!(%error, "the era is closed without a checkpoint");
            None
        }
        Err(error) => return Err(error),
    };
    Ok(reference.filter(|_| refused.is_none()))
}

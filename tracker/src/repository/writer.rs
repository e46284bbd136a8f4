//! What the one writer of a volume puts into its store: packs, commits, and the ends of eras. Checkpoints are made beside it
//! (`ahead`).
//!
//! Nothing is overwritten: each object is created, and an existing one counts if it has the bytes that were to be put
//! (invariant I5). Knows neither the kernel nor the catalog: a caller that has a head and the bytes of a commit can write.

use std::sync::Arc;

use bytes::Bytes;
use engine::catalog::Head;
use engine::flush::world::Created;
use engine::format::Key;
use engine::format::commit::{self, Expect};
use engine::format::era::{Era, VolumeFormat, era_of, first_seq, last_seq};
use engine::model::{Hash, ObjectRef, Seq, WriterId};

use crate::repository::ahead::Checkpoints;
use crate::repository::error::hex;
use crate::repository::presence;
use crate::repository::reader::{Reader, of_writer};
use crate::repository::write_error::{ATTEMPTS, WriteError};
use crate::store::{self, CreateOutcome, ErrorKind, Store};
use crate::test_switches;

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
    checkpoints: Checkpoints,
}

impl VolumeWriter {
    /// `store` is the volume's own part of a store, `epoch` the writer's.
    pub fn new(store: Arc<dyn Store>, name: &str, format: VolumeFormat, epoch: u64) -> VolumeWriter {
        VolumeWriter {
            store,
            name: name.to_owned(),
            format,
            epoch,
            era_ended: None,
            checkpoints: Checkpoints::default(),
        }
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

    /// Sees to it that a checkpoint is made where one is due, beside the flushes. Never waits.
    pub fn tend_checkpoints(&mut self, head: Seq) {
        let (store, name, format) = (&self.store, &self.name, &self.format);
        let reader = || of_writer(Arc::clone(store), name, format.clone(), head);
        self.checkpoints.tend(head, format.era_len, reader);
    }

    /// Whether `head` ends an era that this process did not find closed yet.
    pub fn is_to_close(&self, head: &Head) -> bool {
        let number = era_of(head.seq, self.format.era_len);
        head.seq != Seq::NONE
            && last_seq(number, self.format.era_len) == head.seq
            && self.era_ended.is_none_or(|(ended, _)| ended != number)
    }

    /// Closes the era whose last commit is `head`, before the first commit of the next one. Its end names the newest checkpoint
    /// that is there. Does nothing unless [`VolumeWriter::is_to_close`].
    ///
    /// `noted` is the last text that `note` was given: the bytes of the last end that this host was about to put. Those of this
    /// era are put again as they are (I5), and where they lie in the store already, the state of their checkpoint is not built anew.
    pub fn close_era<E: From<WriteError>>(
        &mut self,
        head: &Head,
        noted: Option<&str>,
        note: impl FnOnce(&str) -> Result<(), E>,
    ) -> Result<Closing, E> {
        if !self.is_to_close(head) {
            return Ok(Closing::Done);
        }
        let number = era_of(head.seq, self.format.era_len);
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
        let noted = noted
            .and_then(unhex)
            .filter(|bytes| self.decode_era(number, bytes).is_ok_and(|noted| era.is_but_for_checkpoint(&noted)));
        // An existing object may be from this writer, or from anybody who may add objects. It counts if it says the same.
        if self.store.exists(&key.to_string()).map_err(WriteError::from)? {
            let Some(hash) = self.closed_already(&key, &era, noted.as_deref())? else { return Ok(Closing::Fenced) };
            self.era_ended = Some((number, hash));
            return Ok(Closing::Done);
        }
        let bytes = match noted {
            Some(bytes) => bytes,
            None => {
                let bytes = Era { checkpoint: self.checkpoints.newest(), ..era }.encode().map_err(WriteError::from)?;
                note(&hex(&bytes))?;
                bytes
            }
        };
        let bytes = Bytes::from(bytes);
        let created =
            store::create_exact(self.store(), &key.to_string(), &bytes, ATTEMPTS).map_err(WriteError::from)?;
        test_switches::hit("era");
        match created {
            CreateOutcome::Own => {
                self.era_ended = Some((number, blake3::hash(&bytes).into()));
                Ok(Closing::Done)
            }
            // The next flush checks it again, with what it names.
            CreateOutcome::Other(_) => {
                Err(WriteError::object(&key, "it was put by somebody else, or came back damaged").into())
            }
        }
    }

    /// The hash of the end of an era that lies in the store; `None` if it is not one that this writer could have put.
    fn closed_already(&self, key: &Key, ours: &Era, noted: Option<&[u8]>) -> Result<Option<Hash>, WriteError> {
        let found = store::get_checked(self.store(), &key.to_string(), |bytes| self.decode_era(ours.era, bytes))?;
        let (bytes, found) = found.map_err(|(_, error)| WriteError::object(key, error))?;
        let same = noted == Some(&bytes[..]) || self.is_same_era(ours, &found)?;
        Ok(same.then(|| blake3::hash(&bytes).into()))
    }

    /// Whether an era in the store is one that this writer could put, and its checkpoint the state of its commits.
    fn is_same_era(&self, ours: &Era, found: &Era) -> Result<bool, WriteError> {
        if !ours.is_but_for_checkpoint(found) {
            return Ok(false);
        }
        match found.checkpoint {
            None => Ok(true),
            Some(named) if named.seq == Seq::NONE => Ok(false),
            Some(named) => {
                let reader = self.reader(ours.last_seq);
                Ok(reader.is_checkpoint_of(named, &reader.manifest(named.seq)?)?)
            }
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

/// The bytes that [`hex`] wrote.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    Some(digits?.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

//! Opens a volume and reads its objects, each checked and decoded.

use std::sync::Arc;

use engine::format::commit::{self, Commit, Expect};
use engine::format::era::{Era, VolumeFormat, era_of};
use engine::format::{Key, keys};
use engine::model::{Hash, Seq, VolumeId};

use crate::repository::error::ReadError;
use crate::repository::head::head_of;
use crate::repository::parallel;
use crate::store::{ErrorKind, Prefixed, Store};

/// Most requests at a time.
pub(super) const THREADS: usize = 8;

/// One volume as it was when it was opened.
pub struct Reader {
    pub(super) store: Arc<dyn Store>,
    pub(super) volume: String,
    pub(super) format: VolumeFormat,
    pub(super) head: Seq,
    /// Number of closed eras: 0 up to here.
    pub(super) closed: u64,
}

/// Opens a volume and finds its head.
///
/// # Errors
/// `VolumeAbsent` if there is no `format` object, `NoCommit` if nothing was committed yet.
pub fn open(store: Arc<dyn Store>, volume: &str) -> Result<Reader, ReadError> {
    let described = store.describe();
    let store: Arc<dyn Store> = Arc::new(Prefixed::new(store, volume).map_err(ReadError::Store)?);
    let key = full(volume, Key::Format);
    let bytes = store.get(&Key::Format.to_string()).map_err(|error| match error.kind {
        ErrorKind::NotFound => ReadError::VolumeAbsent { volume: volume.to_owned(), store: described },
        _ => ReadError::Store(error),
    })?;
    let format = VolumeFormat::decode(&bytes).map_err(|source| ReadError::damaged(key, source))?;
    let mut reader = Reader { store, volume: volume.to_owned(), format, head: Seq::NONE, closed: 0 };
    reader.refresh()?;
    if reader.head == Seq::NONE {
        // A listing proves no absence, but what it shows exists: then the first commit is missing, not just not made yet.
        let later = reader.store.list(engine::format::keys::COMMITS, None).map_err(ReadError::Store)?;
        return Err(match later.entries.is_empty() {
            true => ReadError::NoCommit { volume: reader.volume },
            false => ReadError::Missing { key: full(volume, Key::Commit(Seq::FIRST)) },
        });
    }
    Ok(reader)
}

/// For the volume's writer, which knows format and head. `store` is the volume's own part of the store.
pub fn of_writer(store: Arc<dyn Store>, volume: &str, format: VolumeFormat, head: Seq) -> Reader {
    let closed = era_of(head, format.era_len);
    Reader { store, volume: volume.to_owned(), format, head, closed }
}

pub(super) fn full(volume: &str, key: Key) -> String {
    format!("{volume}/{key}")
}

impl Reader {
    /// Looks for the head again.
    pub fn refresh(&mut self) -> Result<(), ReadError> {
        let (head, closed) = head_of(&*self.store, self.format.era_len).map_err(ReadError::Store)?;
        self.head = head;
        self.closed = closed;
        Ok(())
    }

    /// The highest commit of the unbroken sequence, at least 1.
    pub fn head(&self) -> Seq {
        self.head
    }

    /// The volume's name.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    pub fn format(&self) -> &VolumeFormat {
        &self.format
    }

    pub fn volume_id(&self) -> VolumeId {
        self.format.volume
    }

    /// Refuses a history whose end is cut off, for a caller that remembers a later head.
    pub fn expect_head(&self, expected: Seq) -> Result<(), ReadError> {
        if self.head < expected { Err(ReadError::Cut { head: self.head, expected }) } else { Ok(()) }
    }

    /// A commit, checked and decoded, with its hash and its size in bytes. The caller checks the chain.
    pub fn commit(&self, seq: Seq) -> Result<(Commit, Hash, u64), ReadError> {
        self.decode_commit(seq, &self.get(Key::Commit(seq))?)
    }

    pub(super) fn decode_commit(&self, seq: Seq, bytes: &[u8]) -> Result<(Commit, Hash, u64), ReadError> {
        let commit = commit::decode(bytes, Expect { volume: self.format.volume, seq })
            .map_err(|source| ReadError::damaged(self.key(Key::Commit(seq)), source))?;
        Ok((commit, commit::hash(bytes), bytes.len() as u64))
    }

    pub(super) fn commit_header(&self, seq: Seq) -> Result<commit::Header, ReadError> {
        let bytes = self.get(Key::Commit(seq))?;
        commit::decode_header(&bytes, Expect { volume: self.format.volume, seq })
            .map_err(|source| ReadError::damaged(self.key(Key::Commit(seq)), source))
    }

    pub(super) fn era(&self, era: u64) -> Result<Era, ReadError> {
        self.decode_era(era, &self.get(Key::Era(era))?)
    }

    pub(super) fn decode_era(&self, era: u64, bytes: &[u8]) -> Result<Era, ReadError> {
        Era::decode(bytes, self.format.volume, era, self.format.era_len)
            .map_err(|source| ReadError::damaged(self.key(Key::Era(era)), source))
    }

    /// Whether this commit may have been pruned.
    pub(super) fn may_be_pruned(&self, seq: Seq) -> bool {
        era_of(seq, self.format.era_len) < self.closed
    }

    /// The objects of several commits, in the order requested; requests overlap.
    pub(super) fn commit_bytes(&self, seqs: &[Seq]) -> Vec<Result<Vec<u8>, ReadError>> {
        parallel::map(THREADS, seqs, |seq| self.get(Key::Commit(*seq)))
    }

    pub(super) fn get(&self, key: Key) -> Result<Vec<u8>, ReadError> {
        self.store.get(&key.to_string()).map_err(|error| self.store_error(key, error))
    }

    pub(super) fn exists(&self, key: Key) -> Result<bool, ReadError> {
        self.store.exists(&key.to_string()).map_err(ReadError::Store)
    }

    pub(super) fn get_range(&self, key: Key, offset: u64, len: u64) -> Result<Vec<u8>, ReadError> {
        self.store.get_range(&key.to_string(), offset, len).map_err(|error| self.store_error(key, error))
    }

    /// Names of commits after `key`, which must exist; one page.
    pub(super) fn list_after(&self, key: Key) -> Result<Vec<String>, ReadError> {
        let page = self.store.list(keys::COMMITS, Some(&key.to_string()));
        let page = page.map_err(|error| self.store_error(key, error))?;
        Ok(page.entries.into_iter().map(|entry| entry.key).collect())
    }

    pub(super) fn store_error(&self, key: Key, error: crate::store::StoreError) -> ReadError {
        match error.kind {
            ErrorKind::NotFound => ReadError::Missing { key: self.key(key) },
            _ => ReadError::Store(error),
        }
    }

    /// The whole key, for messages.
    pub(super) fn key(&self, key: Key) -> String {
        full(&self.volume, key)
    }
}

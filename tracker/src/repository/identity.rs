//! Which volume lies in a store, and whether it is the one that somebody remembers: what is asked before there is a writer.

use bytes::Bytes;
use engine::format::era::VolumeFormat;
use engine::format::{Key, commit};
use engine::model::{Hash, Seq};

use crate::repository::write_error::{ATTEMPTS, WriteError};
use crate::store::{self, CreateOutcome, ErrorKind, Store, StoreError};

/// The format of the volume; `None` where there is no volume.
///
/// # Errors
/// `Object` where the object that is there is no format; the store's.
pub fn find_format(store: &dyn Store) -> Result<Option<VolumeFormat>, WriteError> {
    match store::get_checked(store, &Key::Format.to_string(), VolumeFormat::decode) {
        Ok(Ok((_, format))) => Ok(Some(format)),
        Ok(Err((_, error))) => Err(WriteError::object(&Key::Format, error)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes a volume. Gives the format of another one where that has come first.
///
/// # Errors
/// As [`find_format`].
pub fn make_format(store: &dyn Store, format: &VolumeFormat) -> Result<VolumeFormat, WriteError> {
    let bytes = Bytes::from(format.encode()?);
    match store::create_exact(store, &Key::Format.to_string(), &bytes, ATTEMPTS)? {
        CreateOutcome::Own => Ok(format.clone()),
        CreateOutcome::Other(bytes) => {
            VolumeFormat::decode(&bytes).map_err(|error| WriteError::object(&Key::Format, error))
        }
    }
}

/// Whether commit `seq` is the one with this hash; `None` where it is not there.
///
/// # Errors
/// The store's.
pub fn is_commit(store: &dyn Store, seq: Seq, hash: Hash) -> Result<Option<bool>, StoreError> {
    match store.get(&Key::Commit(seq).to_string()) {
        Ok(bytes) => Ok(Some(commit::hash(&bytes) == hash)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

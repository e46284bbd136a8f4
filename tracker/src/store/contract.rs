//! The contract of every store, and the types of its methods.

use std::sync::Arc;

use bytes::Bytes;

use super::error::{ErrorKind, Op, StoreError};

/// Largest object that any store returns from [`Store::get`] or accepts in [`Store::create`]: a limit on memory, far above
/// what the writer makes (a flush takes at most 256 MiB).
pub const MAX_OBJECT_BYTES: u64 = 1 << 30;

/// The result of [`Store::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object was absent and now holds these bytes, durably.
    Yes,
    /// An object exists and was left unchanged. It may be the caller's own, from an earlier call whose reply was lost:
    /// [`super::create_exact`] finds out.
    Exists,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub bytes: u64,
}

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// There may be more after the last entry.
    pub more: bool,
}

/// What callers can rely on beyond the contract of the methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// `create` is exclusive between hosts. False only if the probe failed and the operator set `single_writer`.
    pub fenced: bool,
    /// Requests cross a network and may be paid for.
    pub remote: bool,
}

/// The contract of every store (`tests/src/store_conformance.rs` is its executable form).
///
/// For all methods: an illegal key (see [`super::key::check`]) is `Misconfigured`. A store that is itself missing (bucket
/// deleted, directory unmounted) is `StoreAbsent`, and never taken for an absent object. No object is ever visible under
/// its key before it is complete.
pub trait Store: Send + Sync {
    /// Creates the object, only if the key is absent. Atomic against every other writer of the same store if
    /// [`Properties::fenced`].
    ///
    /// Either `Ok` means that the object now under the key is durable. Implementations retry only if the attempt certainly
    /// had no effect. `Unknown`: it may or may not have taken effect; the caller settles that by calling again *with
    /// exactly the same bytes* ([`super::create_exact`] does). Every other error: certainly no effect.
    fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError>;

    /// The whole object. Retries internally; checks the length against what the store announced. `NotFound` only if the
    /// store itself answered that this key is absent.
    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError>;

    /// Exactly `len` bytes from `offset`. Retries internally. A range that is not wholly inside the object is `Corrupt`
    /// (the caller's index and the object contradict each other). With `len` 0 it makes no request and returns nothing.
    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError>;

    /// Whether the object exists, at some moment during the call. Retries internally.
    fn exists(&self, key: &str) -> Result<bool, StoreError>;

    /// Removes the object. Removing an absent one succeeds, so it also retries internally after a lost reply.
    fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// Objects whose key begins with `prefix` (a plain string prefix; may be empty) and comes after `after`, in the order
    /// of the store: by bytes of the whole key, or (SeaweedFS) folder by folder, which differs only if a name continues
    /// another with a character below the slash. For the next page, pass the last key of this one; `after` must be the key
    /// of an object (SeaweedFS takes a folder's name for the end of the folder). A listing proves presence, never absence:
    /// it proposes candidates, and correctness never depends on it.
    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError>;

    /// For operators: which store this is, without secrets.
    fn describe(&self) -> String;

    fn properties(&self) -> Properties;
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        (**self).create(key, bytes)
    }
    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        (**self).get(key)
    }
    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        (**self).get_range(key, offset, len)
    }
    fn exists(&self, key: &str) -> Result<bool, StoreError> {
        (**self).exists(key)
    }
    fn delete(&self, key: &str) -> Result<(), StoreError> {
        (**self).delete(key)
    }
    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        (**self).list(prefix, after)
    }
    fn describe(&self) -> String {
        (**self).describe()
    }
    fn properties(&self) -> Properties {
        (**self).properties()
    }
}

/// Every object under `prefix`, page by page. For tests, and for tools over small stores.
pub fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<Entry>, StoreError> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let page = store.list(prefix, all.last().map(|e| e.key.as_str()))?;
        let (empty, more) = (page.entries.is_empty(), page.more);
        all.extend(page.entries);
        if empty || !more {
            return Ok(all);
        }
    }
}

/// The end of a range if it is inside an object of `size` bytes, or else the error that every store returns.
pub(super) fn range_end(key: &str, offset: u64, len: u64, size: u64) -> Result<u64, StoreError> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(end),
        _ => Err(StoreError::new(Op::GetRange, key, ErrorKind::Corrupt)
            .code("RangeOutside")
            .detail(format!("{len} bytes at {offset} asked of an object of {size} bytes"))),
    }
}

/// Refuses an object above [`MAX_OBJECT_BYTES`].
pub(super) fn check_size(op: Op, key: &str, size: u64) -> Result<(), StoreError> {
    if size <= MAX_OBJECT_BYTES {
        return Ok(());
    }
    let kind = if op.reads() { ErrorKind::Corrupt } else { ErrorKind::Misconfigured };
    Err(StoreError::new(op, key, kind).code("TooLarge").detail(format!("an object of {size} bytes is above the limit")))
}

//! A store in memory, for tests and simulations. Nothing outlives the process.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::contract::{check_size, range_end};
use super::{Created, Entry, ErrorKind, Op, Page, Properties, Store, StoreError, key};

/// Entries in one page of a listing, as S3 does it.
const PAGE: usize = 1000;

#[derive(Debug, Default)]
pub struct Mem {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl Mem {
    pub fn new() -> Mem {
        Mem::default()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock()
    }

    /// Replaces an object in violation of the contract: for tests that damage a store.
    pub fn overwrite(&self, key: &str, bytes: Bytes) {
        self.objects().insert(key.to_owned(), bytes);
    }

    fn find(&self, op: Op, key: &str) -> Result<Bytes, StoreError> {
        key::check(op, key)?;
        self.objects().get(key).cloned().ok_or_else(|| StoreError::new(op, key, ErrorKind::NotFound))
    }
}

impl Store for Mem {
    fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        key::check(Op::Create, key)?;
        check_size(Op::Create, key, bytes.len() as u64)?;
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Ok(Created::Exists);
        }
        objects.insert(key.to_owned(), bytes);
        Ok(Created::Yes)
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        Ok(self.find(Op::Get, key)?.to_vec())
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        key::check(Op::GetRange, key)?;
        if len == 0 {
            return Ok(Vec::new());
        }
        let object = self.find(Op::GetRange, key)?;
        let end = range_end(key, offset, len, object.len() as u64)?;
        Ok(object[offset as usize..end as usize].to_vec())
    }

    fn exists(&self, key: &str) -> Result<bool, StoreError> {
        key::check(Op::Exists, key)?;
        Ok(self.objects().contains_key(key))
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        key::check(Op::Delete, key)?;
        self.objects().remove(key);
        Ok(())
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        key::check_prefix(Op::List, prefix)?;
        let objects = self.objects();
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut rest = objects.range::<str, _>((from, Bound::Unbounded)).take_while(|(k, _)| k.starts_with(prefix));
        let entries = rest.by_ref().take(PAGE).map(|(k, v)| Entry { key: k.clone(), bytes: v.len() as u64 }).collect();
        Ok(Page { entries, more: rest.next().is_some() })
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn properties(&self) -> Properties {
        Properties { fenced: true, remote: false }
    }
}

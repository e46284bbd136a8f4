//! A part of a store as a store of its own: every key below one prefix. A volume sees its store as `Prefixed::new(store,
//! volume)`, so that no other module joins volume names and keys.

use bytes::Bytes;

use super::{Created, Op, Page, Properties, Store, StoreError, key};

#[derive(Debug)]
pub struct Prefixed<S> {
    inner: S,
    /// Ends with a slash.
    prefix: String,
}

impl<S: Store> Prefixed<S> {
    /// # Errors
    /// `Misconfigured` when `prefix` (a volume's name) is not a legal key.
    pub fn new(inner: S, prefix: &str) -> Result<Prefixed<S>, StoreError> {
        key::check(Op::Open, prefix)?;
        Ok(Prefixed { inner, prefix: format!("{prefix}/") })
    }

    fn full(&self, op: Op, key: &str) -> Result<String, StoreError> {
        // Check before joining: an empty key must not become the prefix.
        key::check(op, key)?;
        Ok(format!("{}{key}", self.prefix))
    }
}

impl<S: Store> Store for Prefixed<S> {
    fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        self.inner.create(&self.full(Op::Create, key)?, bytes)
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        self.inner.get(&self.full(Op::Get, key)?)
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.get_range(&self.full(Op::GetRange, key)?, offset, len)
    }

    fn exists(&self, key: &str) -> Result<bool, StoreError> {
        self.inner.exists(&self.full(Op::Exists, key)?)
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(&self.full(Op::Delete, key)?)
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        key::check_prefix(Op::List, prefix)?;
        let after = after.map(|a| format!("{}{a}", self.prefix));
        let mut page = self.inner.list(&format!("{}{prefix}", self.prefix), after.as_deref())?;
        page.entries.retain_mut(|e| match e.key.strip_prefix(&self.prefix) {
            Some(key) => {
                e.key = key.to_owned();
                true
            }
            None => false,
        });
        Ok(page)
    }

    fn describe(&self) -> String {
        format!("{}, {}", self.inner.describe(), self.prefix.trim_end_matches('/'))
    }

    fn properties(&self) -> Properties {
        self.inner.properties()
    }
}

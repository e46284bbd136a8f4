//! Counts what goes through a store: requests, failures by kind, bytes and times per operation, for metrics and benchmarks.
//! One request is one call; attempts inside a call are not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Created, ErrorKind, Op, Page, Properties, Store, StoreError};

/// Upper bounds of the histogram's buckets, in milliseconds; one more bucket holds the rest.
pub const BUCKETS_MS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/// The counts of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    /// By kind, in the order of [`ErrorKind::ALL`]. Includes `get` of an absent object.
    pub errors: [u64; ErrorKind::ALL.len()],
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub time: Duration,
    /// Requests by duration, not cumulative.
    pub buckets: [u64; BUCKETS_MS.len() + 1],
}

#[derive(Debug, Default)]
struct Cells {
    requests: AtomicU64,
    errors: [AtomicU64; ErrorKind::ALL.len()],
    sent: AtomicU64,
    received: AtomicU64,
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
}

/// The counters; cheap to share, read at any time.
#[derive(Debug, Default)]
pub struct Meter {
    ops: [Cells; Op::ALL.len()],
}

impl Meter {
    /// The counts so far of one operation. Each number is exact; together they may be one request apart.
    pub fn counts(&self, op: Op) -> Counts {
        let cells = &self.ops[op as usize];
        Counts {
            requests: cells.requests.load(Relaxed),
            errors: std::array::from_fn(|i| cells.errors[i].load(Relaxed)),
            bytes_sent: cells.sent.load(Relaxed),
            bytes_received: cells.received.load(Relaxed),
            time: Duration::from_nanos(cells.nanos.load(Relaxed)),
            buckets: std::array::from_fn(|i| cells.buckets[i].load(Relaxed)),
        }
    }

    /// Requests of all operations.
    pub fn requests(&self) -> u64 {
        self.ops.iter().map(|c| c.requests.load(Relaxed)).sum()
    }

    fn run<T>(
        &self,
        op: Op,
        sent: usize,
        call: impl FnOnce() -> Result<T, StoreError>,
        received: impl FnOnce(&T) -> usize,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let outcome = call();
        let time = begun.elapsed();
        let cells = &self.ops[op as usize];
        cells.requests.fetch_add(1, Relaxed);
        cells.sent.fetch_add(sent as u64, Relaxed);
        cells.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        let bucket = BUCKETS_MS.iter().position(|ms| time <= Duration::from_millis(*ms)).unwrap_or(BUCKETS_MS.len());
        cells.buckets[bucket].fetch_add(1, Relaxed);
        match &outcome {
            Ok(value) => cells.received.fetch_add(received(value) as u64, Relaxed),
            Err(e) => cells.errors[e.kind as usize].fetch_add(1, Relaxed),
        };
        outcome
    }
}

/// A store whose calls are counted.
#[derive(Debug)]
pub struct Metered<S> {
    inner: S,
    meter: Arc<Meter>,
}

impl<S: Store> Metered<S> {
    /// Several stores may count into one meter.
    pub fn new(inner: S, meter: Arc<Meter>) -> Metered<S> {
        Metered { inner, meter }
    }
}

impl<S: Store> Store for Metered<S> {
    fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        self.meter.run(Op::Create, bytes.len(), || self.inner.create(key, bytes), |_| 0)
    }
    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        self.meter.run(Op::Get, 0, || self.inner.get(key), Vec::len)
    }
    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        self.meter.run(Op::GetRange, 0, || self.inner.get_range(key, offset, len), Vec::len)
    }
    fn exists(&self, key: &str) -> Result<bool, StoreError> {
        self.meter.run(Op::Exists, 0, || self.inner.exists(key), |_| 0)
    }
    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.meter.run(Op::Delete, 0, || self.inner.delete(key), |_| 0)
    }
    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        self.meter.run(Op::List, 0, || self.inner.list(prefix, after), |_| 0)
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn properties(&self) -> Properties {
        self.inner.properties()
    }
}

#[cfg(test)]
mod tests {
    use super::super::mem::Mem;
    use super::*;

    #[test]
    fn calls_bytes_and_failures_are_counted() {
        let meter = Arc::new(Meter::default());
        let store = Metered::new(Mem::new(), meter.clone());
        store.create("k", Bytes::from_static(b"12345")).unwrap();
        store.create("k", Bytes::from_static(b"123")).unwrap();
        store.get("k").unwrap();
        store.get("none").unwrap_err();
        store.get_range("k", 1, 2).unwrap();
        let created = meter.counts(Op::Create);
        assert_eq!((created.requests, created.bytes_sent, created.errors.iter().sum::<u64>()), (2, 8, 0));
        let got = meter.counts(Op::Get);
        assert_eq!((got.requests, got.bytes_received), (2, 5));
        assert_eq!(got.errors[ErrorKind::NotFound as usize], 1);
        assert_eq!(got.buckets.iter().sum::<u64>(), 2);
        assert_eq!(meter.counts(Op::GetRange).bytes_received, 2);
        assert_eq!(meter.requests(), 5);
    }
}

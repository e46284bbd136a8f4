//! A store in an S3 bucket, or on any server that speaks S3 and honours `If-None-Match: *`.
//!
//! The only place that names the AWS SDK. Requests run on a small runtime of its own, and callers block on it. So a call
//! from inside an async task panics (tokio refuses nested blocking), and callers are ordinary threads.
//!
//! Retries. The SDK's own are off: it would repeat a conditional PUT after a lost reply, and the object that the first
//! attempt created would make the repetition fail with 412. Nobody could then tell that 412 from one caused by another
//! writer. Here a create is repeated only if the answer says that nothing was done (409 ConditionalRequestConflict,
//! SlowDown, never connected); any other uncertainty is `Unknown` at once, and the caller settles it by reading the object
//! back (`create_exact`). Repeating a read or delete changes nothing, so they are repeated after every transient failure.

use std::future::Future;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout, timeout_at};

use super::contract::check_size;
use super::options::StoreOptions;
use super::{Created, Entry, ErrorKind, MAX_OBJECT_BYTES, Op, Page, Properties, Store, StoreError, key};

mod classify;
mod connect;
mod credentials;
mod http;
mod site;
mod trust;

use classify::{classify, incomplete};
use connect::Connected;
use credentials::Keys;
use site::Place;

/// Waits between attempts: doubled from the first to the last, and shortened at random by up to a half.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(2);
/// Least speed of a transfer: a server that sends very slowly must not hold up a flush.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 << 10;

#[derive(Debug)]
pub struct S3 {
    client: Client,
    /// `Some` until dropped.
    runtime: Option<Runtime>,
    bucket: String,
    /// Empty, or without a slash at either end.
    prefix: String,
    place: Place,
    keys: Option<Keys>,
    attempts: u32,
    timeout: Duration,
}

impl S3 {
    /// Creates the client: credentials, region and endpoint come from the standard AWS chain, or from `options`. Sends no
    /// request to the store itself.
    ///
    /// # Errors
    /// `Denied` without credentials, `Misconfigured` without a region.
    pub fn open(bucket: &str, prefix: &str, options: &StoreOptions) -> Result<S3, StoreError> {
        let prefix = prefix.trim_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        let url = format!("s3://{bucket}{slash}{prefix}");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("store-s3")
            .enable_all()
            .build()
            .map_err(|e| StoreError::new(Op::Open, &url, ErrorKind::Transient).with(e))?;
        let Connected { client, place, keys } = runtime.block_on(connect::connect(&url, options))?;
        Ok(S3 {
            client,
            runtime: Some(runtime),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            place,
            keys,
            attempts: options.attempts.max(1),
            timeout: options.timeout,
        })
    }

    fn full(&self, op: Op, key: &str) -> Result<String, StoreError> {
        key::check(op, key)?;
        if self.prefix.is_empty() {
            return Ok(key.to_owned());
        }
        let full = format!("{}/{key}", self.prefix);
        key::check(op, &full)?;
        Ok(full)
    }

    /// How long a transfer of so many bytes may take.
    fn patience(&self, bytes: u64) -> Duration {
        self.timeout + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
    }

    /// Makes attempts until one succeeds, fails permanently, or none is left.
    fn run<T, F>(&self, op: Op, key: &str, bytes: u64, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let Some(runtime) = &self.runtime else {
            return Err(StoreError::new(op, key, ErrorKind::Transient).detail("the client is shut down"));
        };
        let outcome = runtime.block_on(async {
            let mut wait = FIRST_WAIT;
            let mut left = self.attempts;
            let mut renewed = false;
            loop {
                let version = match &self.keys {
                    Some(keys) => keys.version().await,
                    None => 0,
                };
                left -= 1;
                let outcome = match timeout(self.patience(bytes), attempt()).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(StoreError::new(op, key, ErrorKind::Unknown).code("Timeout")),
                };
                match outcome {
                    // Nothing was done. Rotated keys are read from their file, but only once: further ones would be no
                    // better.
                    Err(e) if !renewed && is_refused(&e) && self.renew(version).await => {
                        tracing::debug!(error = %e, "refused, and tried again with other credentials");
                        renewed = true;
                        left += 1;
                    }
                    Err(e) if left > 0 && is_retried(&e) => {
                        tracing::debug!(error = %e, left, "attempt failed");
                        tokio::time::sleep(jittered(wait)).await;
                        wait = (wait * 2).min(LAST_WAIT);
                    }
                    // A read without an answer did nothing.
                    Err(e) if e.kind == ErrorKind::Unknown && op.reads() => {
                        return Err(StoreError { kind: ErrorKind::Transient, ..e });
                    }
                    done => return done,
                }
            }
        });
        outcome.map_err(|e| self.place.tell(e))
    }

    async fn renew(&self, version: u64) -> bool {
        match &self.keys {
            Some(keys) => keys.renew(version).await,
            None => false,
        }
    }

    /// Downloads an object or a range of it; `len` of a range is checked against the answer.
    async fn download(&self, op: Op, key: &str, full: &str, range: Option<(u64, u64)>) -> Result<Vec<u8>, StoreError> {
        let mut request = self.client.get_object().bucket(&self.bucket).key(full);
        if let Some((offset, len)) = range {
            request = request.range(format!("bytes={offset}-{}", offset + (len - 1)));
        }
        let answer = request.send().await.map_err(|e| classify(op, key, e))?;
        let announced = answer.content_length().and_then(|n| u64::try_from(n).ok());
        check_size(op, key, announced.unwrap_or(0))?;
        if let Some((offset, len)) = range {
            let Some(said) = answer.content_range() else {
                return Err(StoreError::new(op, key, ErrorKind::Misconfigured)
                    .detail("the server ignores Range and sends the whole object"));
            };
            // If the object is shorter, the server clips the end: that must not count as the requested range.
            if !said.starts_with(&format!("bytes {offset}-{}/", offset + (len - 1))) {
                return Err(StoreError::new(op, key, ErrorKind::Corrupt)
                    .code("RangeOutside")
                    .detail(format!("{len} bytes at {offset} asked, the server has `{said}`")));
            }
        }
        let want = range.map(|(_, len)| len).or(announced);
        let deadline = Instant::now() + self.patience(want.unwrap_or(MAX_OBJECT_BYTES));
        let mut bytes = Vec::with_capacity(want.unwrap_or(0).min(MAX_OBJECT_BYTES) as usize);
        let mut body = answer.body;
        loop {
            let chunk = match timeout_at(deadline, body.try_next()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(e)) => return Err(incomplete(op, key, e)),
                Err(_) => return Err(StoreError::new(op, key, ErrorKind::Transient).code("Timeout")),
            };
            bytes.extend_from_slice(&chunk);
            check_size(op, key, bytes.len() as u64)?;
        }
        match want {
            Some(want) if want != bytes.len() as u64 => Err(StoreError::new(op, key, ErrorKind::Corrupt)
                .code(classify::BAD_BODY)
                .detail(format!("{} bytes came of {want}", bytes.len()))),
            _ => Ok(bytes),
        }
    }
}

/// Whether another attempt is right (the head of this file says why a create differs).
fn is_retried(e: &StoreError) -> bool {
    match e.kind {
        ErrorKind::Transient => true,
        ErrorKind::Unknown => e.op != Op::Create,
        ErrorKind::Corrupt => e.code.as_deref() == Some(classify::BAD_BODY),
        _ => false,
    }
}

/// The server rejected the credentials. The code for keys that it no longer knows differs from server to server.
fn is_refused(e: &StoreError) -> bool {
    e.kind == ErrorKind::Denied && e.code.as_deref() != Some("NoCredentials")
}

fn jittered(wait: Duration) -> Duration {
    let mut random = [0];
    // Without randomness the wait is just not spread.
    let _ = getrandom::fill(&mut random);
    wait - wait / 2 * u32::from(random[0]) / 256
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A plain drop would wait, and panic inside an async task.
            runtime.shutdown_background();
        }
    }
}

impl Store for S3 {
    fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        let full = self.full(Op::Create, key)?;
        check_size(Op::Create, key, bytes.len() as u64)?;
        self.run(Op::Create, key, bytes.len() as u64, || async {
            let request = self.client.put_object().bucket(&self.bucket).key(&full).if_none_match("*");
            match request.body(ByteStream::from(bytes.clone())).send().await {
                Ok(_) => Ok(Created::Yes),
                Err(e) if classify::status(&e) == Some(412) => Ok(Created::Exists),
                Err(e) => Err(classify(Op::Create, key, e)),
            }
        })
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let full = self.full(Op::Get, key)?;
        self.run(Op::Get, key, MAX_OBJECT_BYTES, || self.download(Op::Get, key, &full, None))
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        let full = self.full(Op::GetRange, key)?;
        if len == 0 {
            return Ok(Vec::new());
        }
        check_size(Op::GetRange, key, len)?;
        if offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
            return Err(StoreError::new(Op::GetRange, key, ErrorKind::Corrupt).code("RangeOutside"));
        }
        self.run(Op::GetRange, key, len, || self.download(Op::GetRange, key, &full, Some((offset, len))))
    }

    /// By a GET of the first byte instead of HEAD: the 404 of HEAD has no body, so an absent bucket would look like an
    /// absent object, and absent commits decide where the head and eras end. It costs the same.
    fn exists(&self, key: &str) -> Result<bool, StoreError> {
        let full = self.full(Op::Exists, key)?;
        self.run(Op::Exists, key, 0, || async {
            match self.client.get_object().bucket(&self.bucket).key(&full).range("bytes=0-0").send().await {
                Ok(answer) => {
                    if answer.content_length() == Some(1) {
                        // Read to the end, so that the connection can be used again.
                        let _ = answer.body.collect().await;
                    }
                    Ok(true)
                }
                // An empty object has no first byte.
                Err(e) if classify::status(&e) == Some(416) => Ok(true),
                Err(e) => match classify(Op::Exists, key, e) {
                    e if e.kind == ErrorKind::NotFound => Ok(false),
                    e => Err(e),
                },
            }
        })
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let full = self.full(Op::Delete, key)?;
        self.run(Op::Delete, key, 0, || async {
            match self.client.delete_object().bucket(&self.bucket).key(&full).send().await {
                Ok(_) => Ok(()),
                Err(e) => match classify(Op::Delete, key, e) {
                    e if e.kind == ErrorKind::NotFound => Ok(()),
                    e => Err(e),
                },
            }
        })
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        key::check_prefix(Op::List, prefix)?;
        let own = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let (full, mut after) = (format!("{own}{prefix}"), after.map(|a| format!("{own}{a}")));
        loop {
            let answer = self.run(Op::List, prefix, 0, || async {
                let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(&full);
                request.set_start_after(after.clone()).send().await.map_err(|e| classify(Op::List, prefix, e))
            })?;
            let more = answer.is_truncated().unwrap_or(false);
            let last = answer.contents().last().and_then(|o| o.key()).map(str::to_owned);
            let entries: Vec<Entry> = answer
                .contents()
                .iter()
                .filter_map(|o| {
                    let key = o.key()?.strip_prefix(&own)?;
                    // Somebody else's objects, under names that are not ours.
                    key::check(Op::List, key).ok()?;
                    Some(Entry { key: key.to_owned(), bytes: u64::try_from(o.size().unwrap_or(0)).unwrap_or(0) })
                })
                .collect();
            if !entries.is_empty() || !more || last.is_none() || last <= after {
                return Ok(Page { entries, more });
            }
            after = last;
        }
    }

    fn describe(&self) -> String {
        self.place.name()
    }

    fn properties(&self) -> Properties {
        Properties { fenced: true, remote: true }
    }
}

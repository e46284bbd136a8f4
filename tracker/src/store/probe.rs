//! Proves, before anything is written, that a store keeps two writers apart.
//!
//! Many servers answer a conditional create with success and overwrite anyway; others check and write in two steps, which
//! only a race reveals. So several racers create one key at the same moment, several times over: exactly one may win, and
//! the object must hold the winner's bytes.

use std::sync::{Arc, Barrier};

use bytes::Bytes;

use super::{Created, ErrorKind, Op, Page, Properties, Store, StoreError};

/// Writers per race, and number of races. A server that checks in two steps had a single winner in some of sixteen races,
/// so one race proves little.
const RACERS: usize = 8;
const RACES: usize = 4;
/// How often in total races without a verdict (lost replies) are repeated.
const REPEATS: usize = 4;
/// Bytes of a racer's object.
const BODY: usize = 512;

/// The result of a race.
enum Verdict {
    Exclusive,
    Broken(String),
    /// A lost reply, or nobody won: proves nothing either way.
    Open(Option<StoreError>),
}

/// Probes the store.
///
/// The races run at the same time, because some servers let the losers of one key wait for seconds.
///
/// # Errors
/// `Unfenced`: create is not exclusive. Other kinds: the probe could not be completed, from the call that failed.
pub fn probe(store: &dyn Store) -> Result<(), StoreError> {
    let mut missing = RACES;
    let mut cause = None;
    for _ in 0..REPEATS {
        let verdicts: Vec<Result<Verdict, StoreError>> = std::thread::scope(|scope| {
            let races: Vec<_> = (0..missing).map(|_| scope.spawn(|| clean_race(store))).collect();
            races.into_iter().map(|r| r.join().unwrap_or_else(|_| Err(died(store)))).collect()
        });
        // A proof that the store is broken outweighs any other failure.
        let mut error = None;
        missing = 0;
        for verdict in verdicts {
            match verdict {
                Ok(Verdict::Broken(why)) => return Err(failed(store, ErrorKind::Unfenced).detail(why)),
                Ok(Verdict::Exclusive) => {}
                Ok(Verdict::Open(why)) => {
                    missing += 1;
                    cause = why.or(cause);
                }
                Err(e) => error = Some(e),
            }
        }
        match error {
            Some(e) => return Err(e),
            None if missing == 0 => return Ok(()),
            None => {}
        }
    }
    let e = failed(store, ErrorKind::Transient);
    Err(match cause {
        Some(cause) => e.with(cause),
        None => e.detail("no race had a clear winner"),
    })
}

/// A race on a new key, which is removed afterwards.
fn clean_race(store: &dyn Store) -> Result<Verdict, StoreError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| failed(store, ErrorKind::Transient).detail(e.to_string()))?;
    let id = u64::from_le_bytes(random);
    let key = format!("probe/{id:016x}");
    // Read first: some servers create a missing bucket on a write, and a misspelt name must not become a new store.
    if store.exists(&key)? {
        return Ok(Verdict::Broken("the store has an object that was never made".to_owned()));
    }
    let verdict = race(store, &key, id);
    // Writers need no right to delete; a small object that stays is harmless.
    if let Err(e) = store.delete(&key) {
        tracing::info!(%key, error = %e, "probe object stays");
    }
    verdict
}

fn died(store: &dyn Store) -> StoreError {
    failed(store, ErrorKind::Transient).detail("a racer died")
}

fn failed(store: &dyn Store, kind: ErrorKind) -> StoreError {
    StoreError::new(Op::Probe, &store.describe(), kind)
}

fn body(id: u64, racer: u8) -> Bytes {
    let mut bytes = vec![racer; BODY];
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    Bytes::from(bytes)
}

fn race(store: &dyn Store, key: &str, id: u64) -> Result<Verdict, StoreError> {
    let barrier = Barrier::new(RACERS);
    let outcomes: Vec<Result<Created, StoreError>> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS as u8)
            .map(|racer| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    store.create(key, body(id, racer))
                })
            })
            .collect();
        racers.into_iter().map(|r| r.join().unwrap_or_else(|_| Err(died(store)))).collect()
    });
    let winners: Vec<u8> =
        (0..RACERS as u8).filter(|r| matches!(outcomes[usize::from(*r)], Ok(Created::Yes))).collect();
    if winners.len() > 1 {
        return Ok(Verdict::Broken(format!("{} of {RACERS} creates of one key succeeded", winners.len())));
    }
    let mut unknown = None;
    for outcome in outcomes {
        match outcome {
            Ok(_) => {}
            Err(e) if matches!(e.kind, ErrorKind::Unknown | ErrorKind::Transient) => unknown = Some(e),
            Err(e) => return Err(e),
        }
    }
    let Some(&winner) = winners.first() else { return Ok(Verdict::Open(unknown)) };
    // From here on the object must stay the winner's, whatever became of the others.
    let intact = || Ok::<bool, StoreError>(store.get(key)? == body(id, winner)[..]);
    if !intact()? {
        return Ok(Verdict::Broken("the object does not hold the bytes of the create that succeeded".to_owned()));
    }
    match store.create(key, body(id, u8::MAX)) {
        Ok(Created::Yes) => return Ok(Verdict::Broken("a second create of one key succeeded".to_owned())),
        Ok(Created::Exists) => {}
        Err(e) if matches!(e.kind, ErrorKind::Unknown | ErrorKind::Transient) => unknown = Some(e),
        Err(e) => return Err(e),
    }
    if !intact()? {
        return Ok(Verdict::Broken("a refused create changed the object".to_owned()));
    }
    Ok(if unknown.is_some() { Verdict::Open(unknown) } else { Verdict::Exclusive })
}

/// Accepts the store for writing if it passed the probe, or if it is not fenced and the operator set `single_writer`. In
/// the latter case its properties say so.
pub fn admit(store: Arc<dyn Store>, single_writer: bool) -> Result<Arc<dyn Store>, StoreError> {
    match probe(&*store) {
        Ok(()) => Ok(store),
        Err(e) if e.kind == ErrorKind::Unfenced && single_writer => {
            tracing::warn!(error = %e, "store is not fenced; single_writer is set, going on");
            Ok(Arc::new(Unfenced(store)))
        }
        Err(e) => Err(e),
    }
}

/// A store that is used although it cannot keep two writers apart.
struct Unfenced(Arc<dyn Store>);

impl Store for Unfenced {
    fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        self.0.create(key, bytes)
    }
    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        self.0.get(key)
    }
    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        self.0.get_range(key, offset, len)
    }
    fn exists(&self, key: &str) -> Result<bool, StoreError> {
        self.0.exists(key)
    }
    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.0.delete(key)
    }
    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        self.0.list(prefix, after)
    }
    fn describe(&self) -> String {
        format!("{} (unfenced)", self.0.describe())
    }
    fn properties(&self) -> Properties {
        Properties { fenced: false, ..self.0.properties() }
    }
}

#[cfg(test)]
mod tests;

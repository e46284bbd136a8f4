//! A store that fails on purpose: by script (the nth call of a kind) or by seed. For tests and simulations.
//!
//! Fault model. A call may be slow. It may fail before it has any effect. It may take effect and lose its reply. A body may
//! be returned truncated, or with one bit changed, in an otherwise good answer (a server that serves damaged data; the real
//! stores detect damage in transfer). The store never invents or loses an object.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Created, ErrorKind, Op, Page, Properties, Store, StoreError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fails with this kind; nothing is done.
    Before(ErrorKind),
    /// Takes effect, then fails with `Unknown` (a change) or `Transient` (a read).
    LostReply,
    /// `get` returns only so many bytes; `get_range` fails with `Corrupt`, as its contract requires.
    ShortBody(usize),
    /// One bit of the body read is flipped; the number is taken modulo its bits.
    FlipBit(usize),
    /// The call takes so much longer.
    Slow(Duration),
}

/// When a scripted fault strikes.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `None`: any operation.
    pub op: Option<Op>,
    /// Part of the key; empty for any.
    pub key: String,
    /// The first matching call that is struck, counted from 1.
    pub nth: u64,
    /// How many calls in a row.
    pub times: u64,
    pub fault: Fault,
}

impl Rule {
    /// Strikes the nth call of `op` whose key contains `key`, once.
    pub fn nth(op: Op, key: &str, nth: u64, fault: Fault) -> Rule {
        Rule { op: Some(op), key: key.to_owned(), nth, times: 1, fault }
    }
}

/// Chances out of 1000 per call, for seeded faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chances {
    pub transient: u16,
    /// `Unknown` although nothing was done: the request was lost, not the reply. Changes only.
    pub lost_request: u16,
    pub lost_reply: u16,
    pub short_body: u16,
    pub flip_bit: u16,
}

#[derive(Debug)]
enum Plan {
    Script(Vec<(Rule, u64)>),
    Seeded { state: u64, chances: Chances },
}

/// One fault that struck, for the log of a failed test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struck {
    pub op: Op,
    pub key: String,
    pub fault: Fault,
}

#[derive(Debug)]
pub struct Faulty<S> {
    inner: S,
    state: Mutex<(Plan, Vec<Struck>)>,
}

impl<S: Store> Faulty<S> {
    pub fn scripted(inner: S, rules: Vec<Rule>) -> Faulty<S> {
        let rules = rules.into_iter().map(|rule| (rule, 0)).collect();
        Faulty { inner, state: Mutex::new((Plan::Script(rules), Vec::new())) }
    }

    /// The same seed and the same order of calls give the same faults.
    pub fn seeded(inner: S, seed: u64, chances: Chances) -> Faulty<S> {
        Faulty { inner, state: Mutex::new((Plan::Seeded { state: seed, chances }, Vec::new())) }
    }

    /// Adds a rule while running; in seeded mode it replaces the seed.
    pub fn add(&self, rule: Rule) {
        let mut state = self.state.lock();
        match &mut state.0 {
            Plan::Script(rules) => rules.push((rule, 0)),
            plan => *plan = Plan::Script(vec![(rule, 0)]),
        }
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.state.lock().0 = Plan::Script(Vec::new());
    }

    /// What struck so far.
    pub fn struck(&self) -> Vec<Struck> {
        self.state.lock().1.clone()
    }

    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn draw(&self, op: Op, key: &str) -> Option<Fault> {
        let mut state = self.state.lock();
        let fault = match &mut state.0 {
            Plan::Script(rules) => {
                let mut hit = None;
                for (rule, seen) in rules {
                    if rule.op.is_none_or(|o| o == op) && key.contains(&rule.key) {
                        *seen += 1;
                        if *seen >= rule.nth && *seen < rule.nth + rule.times {
                            hit = hit.or(Some(rule.fault));
                        }
                    }
                }
                hit
            }
            Plan::Seeded { state, chances } => seeded(state, chances, op),
        }?;
        state.1.push(Struck { op, key: key.to_owned(), fault });
        Some(fault)
    }

    fn call<T>(&self, op: Op, key: &str, call: impl FnOnce() -> Result<T, StoreError>) -> Struckable<T> {
        let fault = self.draw(op, key);
        let outcome = match fault {
            Some(Fault::Before(kind)) => Err(StoreError::new(op, key, kind).code("Injected")),
            Some(Fault::LostReply) => {
                let kind = if op.reads() { ErrorKind::Transient } else { ErrorKind::Unknown };
                // An error of the call itself is lost like its success.
                drop(call());
                Err(StoreError::new(op, key, kind).code("InjectedLostReply"))
            }
            Some(Fault::Slow(time)) => {
                std::thread::sleep(time);
                call()
            }
            _ => call(),
        };
        (outcome, fault)
    }
}

/// A result, and the fault that is still to be applied to its body.
type Struckable<T> = (Result<T, StoreError>, Option<Fault>);

fn seeded(state: &mut u64, chances: &Chances, op: Op) -> Option<Fault> {
    let mut draw = || {
        // splitmix64
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    // Always two draws, so that one call's outcome does not shift the fate of the next.
    let (dice, number) = ((draw() % 1000) as u16, draw() as usize);
    let lost_request = if op.reads() { 0 } else { chances.lost_request };
    let body = matches!(op, Op::Get | Op::GetRange);
    let table = [
        (chances.transient, Fault::Before(ErrorKind::Transient)),
        (lost_request, Fault::Before(ErrorKind::Unknown)),
        (chances.lost_reply, Fault::LostReply),
        (if body { chances.short_body } else { 0 }, Fault::ShortBody(number % 64)),
        (if body { chances.flip_bit } else { 0 }, Fault::FlipBit(number)),
    ];
    let mut upto = 0;
    table.into_iter().find_map(|(chance, fault)| {
        upto += chance;
        (dice < upto).then_some(fault)
    })
}

fn damage(body: &mut Vec<u8>, fault: Option<Fault>) {
    match fault {
        Some(Fault::ShortBody(len)) => body.truncate(len),
        Some(Fault::FlipBit(bit)) if !body.is_empty() => {
            let bit = bit % (body.len() * 8);
            body[bit / 8] ^= 1 << (bit % 8);
        }
        _ => {}
    }
}

impl<S: Store> Store for Faulty<S> {
    fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        self.call(Op::Create, key, || self.inner.create(key, bytes)).0
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        let (outcome, fault) = self.call(Op::Get, key, || self.inner.get(key));
        let mut body = outcome?;
        damage(&mut body, fault);
        Ok(body)
    }

    fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        let (outcome, fault) = self.call(Op::GetRange, key, || self.inner.get_range(key, offset, len));
        let mut body = outcome?;
        damage(&mut body, fault);
        if body.len() as u64 != len {
            return Err(StoreError::new(Op::GetRange, key, ErrorKind::Corrupt).code("Injected"));
        }
        Ok(body)
    }

    fn exists(&self, key: &str) -> Result<bool, StoreError> {
        self.call(Op::Exists, key, || self.inner.exists(key)).0
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.call(Op::Delete, key, || self.inner.delete(key)).0
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        self.call(Op::List, prefix, || self.inner.list(prefix, after)).0
    }

    fn describe(&self) -> String {
        format!("{} (with faults)", self.inner.describe())
    }

    fn properties(&self) -> Properties {
        self.inner.properties()
    }
}

#[cfg(test)]
mod tests;

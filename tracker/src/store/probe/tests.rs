//! Stores that only appear to keep writers apart must be refused.

use std::time::Duration;

use super::super::fault::{Fault, Faulty, Rule};
use super::super::mem::Mem;
use super::*;

/// How a server gets conditional creates wrong.
#[derive(Clone, Copy)]
enum Flaw {
    /// Reports success and overwrites.
    Ignores,
    /// Checks first, writes a moment later.
    TwoSteps,
    /// Reports a refusal, but has overwritten.
    RefusesLate,
    /// Reports success and keeps the old object.
    LiesYes,
}

struct Flawed(Mem, Flaw);

impl Store for Flawed {
    fn create(&self, key: &str, bytes: Bytes) -> Result<Created, StoreError> {
        let there = self.0.exists(key)?;
        match self.1 {
            Flaw::Ignores => self.0.overwrite(key, bytes),
            Flaw::TwoSteps if there => return Ok(Created::Exists),
            Flaw::TwoSteps => {
                std::thread::sleep(Duration::from_millis(2));
                self.0.overwrite(key, bytes);
            }
            Flaw::RefusesLate => {
                let outcome = self.0.create(key, bytes.clone())?;
                self.0.overwrite(key, bytes);
                return Ok(outcome);
            }
            Flaw::LiesYes => {
                self.0.create(key, bytes)?;
            }
        }
        Ok(Created::Yes)
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
        "flawed".to_owned()
    }
    fn properties(&self) -> Properties {
        self.0.properties()
    }
}

#[test]
fn a_good_store_passes_and_nothing_stays() {
    let store = Mem::new();
    probe(&store).unwrap();
    assert_eq!(store.list("", None).unwrap().entries, []);
    assert!(admit(Arc::new(Mem::new()), true).unwrap().properties().fenced, "single_writer does not hide a fence");
}

#[test]
fn flawed_stores_are_refused_with_a_way_out() {
    for flaw in [Flaw::Ignores, Flaw::TwoSteps, Flaw::RefusesLate, Flaw::LiesYes] {
        let error = probe(&Flawed(Mem::new(), flaw)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unfenced, "{error}");
        assert!(error.hint().contains("single_writer"), "{}", error.hint());
        assert!(admit(Arc::new(Flawed(Mem::new(), flaw)), false).is_err());
    }
}

#[test]
fn the_operators_word_admits_a_flawed_store_visibly() {
    let store = admit(Arc::new(Flawed(Mem::new(), Flaw::Ignores)), true).unwrap();
    assert!(!store.properties().fenced);
    assert!(store.describe().contains("unfenced"));
}

#[test]
fn a_single_lost_reply_is_no_verdict() {
    let store = Faulty::scripted(Mem::new(), vec![Rule::nth(Op::Create, "", 1, Fault::LostReply)]);
    probe(&store).unwrap();
}

#[test]
fn a_store_that_cannot_be_written_is_not_called_unfenced() {
    let all = |fault| vec![Rule { op: Some(Op::Create), key: String::new(), nth: 1, times: 1000, fault }];
    for (fault, kind) in [
        (Fault::Before(ErrorKind::Denied), ErrorKind::Denied),
        (Fault::Before(ErrorKind::ReadOnly), ErrorKind::ReadOnly),
        (Fault::LostReply, ErrorKind::Transient),
    ] {
        let store = Arc::new(Faulty::scripted(Mem::new(), all(fault)));
        assert_eq!(admit(store, true).err().map(|e| e.kind), Some(kind));
    }
}

#[test]
fn a_writer_without_the_right_to_delete_passes() {
    let rule =
        Rule { op: Some(Op::Delete), key: String::new(), nth: 1, times: 9, fault: Fault::Before(ErrorKind::Denied) };
    probe(&Faulty::scripted(Mem::new(), vec![rule])).unwrap();
}

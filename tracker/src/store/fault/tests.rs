//! The faulty store does what its fault model says, and `create_exact` settles what it leaves open.

use super::super::mem::Mem;
use super::super::{CreateOutcome, create_exact};
use super::*;

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn lost_reply_takes_effect_and_failure_before_does_not() {
    let store = Faulty::scripted(
        Mem::new(),
        vec![
            Rule::nth(Op::Create, "a", 1, Fault::LostReply),
            Rule::nth(Op::Create, "b", 1, Fault::Before(ErrorKind::Transient)),
            Rule::nth(Op::Delete, "a", 1, Fault::LostReply),
        ],
    );
    assert_eq!(store.create("a", bytes("1")).unwrap_err().kind, ErrorKind::Unknown);
    assert_eq!(store.get("a").unwrap(), b"1");
    assert_eq!(store.create("b", bytes("1")).unwrap_err().kind, ErrorKind::Transient);
    assert!(!store.exists("b").unwrap());
    assert_eq!(store.delete("a").unwrap_err().kind, ErrorKind::Unknown);
    assert!(!store.exists("a").unwrap());
    assert_eq!(store.struck().len(), 3);
}

#[test]
fn the_nth_call_and_so_many_after_it() {
    let store = Faulty::scripted(
        Mem::new(),
        vec![Rule { op: None, key: String::new(), nth: 3, times: 2, fault: Fault::Before(ErrorKind::NoSpace) }],
    );
    let outcomes: Vec<bool> = (0..6).map(|i| store.create(&format!("k{i}"), bytes("")).is_ok()).collect();
    assert_eq!(outcomes, [true, true, false, false, true, true]);
}

#[test]
fn bodies_are_damaged() {
    let store = Faulty::scripted(
        Mem::new(),
        vec![
            Rule::nth(Op::Get, "", 1, Fault::ShortBody(2)),
            Rule::nth(Op::Get, "", 2, Fault::FlipBit(8)),
            Rule::nth(Op::GetRange, "", 1, Fault::ShortBody(1)),
            Rule::nth(Op::GetRange, "", 2, Fault::FlipBit(0)),
        ],
    );
    store.create("k", bytes("abcd")).unwrap();
    assert_eq!(store.get("k").unwrap(), b"ab");
    assert_eq!(store.get("k").unwrap(), b"accd");
    assert_eq!(store.get("k").unwrap(), b"abcd");
    assert_eq!(store.get_range("k", 0, 2).unwrap_err().kind, ErrorKind::Corrupt);
    assert_eq!(store.get_range("k", 0, 2).unwrap(), b"`b");
}

#[test]
fn create_exact_tells_own_from_foreign_after_a_lost_reply() {
    let store = Faulty::scripted(Mem::new(), vec![Rule::nth(Op::Create, "", 1, Fault::LostReply)]);
    assert_eq!(create_exact(&store, "own", &bytes("mine"), 2).unwrap(), CreateOutcome::Own);
    store.add(Rule::nth(Op::Create, "", 1, Fault::Before(ErrorKind::Unknown)));
    store.inner().create("lost", bytes("theirs")).unwrap();
    assert_eq!(create_exact(&store, "lost", &bytes("mine"), 2).unwrap(), CreateOutcome::Other(b"theirs".to_vec()));
    store.add(Rule { op: Some(Op::Create), key: "open".into(), nth: 1, times: 9, fault: Fault::LostReply });
    assert_eq!(create_exact(&store, "open", &bytes("mine"), 3).unwrap_err().kind, ErrorKind::Unknown);
    store.add(Rule::nth(Op::Get, "own", 1, Fault::Before(ErrorKind::NotFound)));
    assert_eq!(create_exact(&store, "own", &bytes("mine"), 1).unwrap_err().kind, ErrorKind::Unknown);
}

/// Whatever the faults, `create_exact` never returns `Own` for foreign bytes, nor `Other` for its own, nor "nothing was
/// done" if an earlier attempt of it took effect.
#[test]
fn create_exact_is_right_under_seeded_faults() {
    let chances = Chances { transient: 100, lost_request: 150, lost_reply: 200, ..Chances::default() };
    for seed in 0..300 {
        let store = Faulty::seeded(Mem::new(), seed, chances);
        for i in 0..20 {
            let key = format!("k{i}");
            let foreign = (seed + i) % 3 == 0;
            if foreign {
                store.inner().create(&key, bytes("theirs")).unwrap();
            }
            match create_exact(&store, &key, &bytes("mine"), 3) {
                Ok(CreateOutcome::Own) => assert_eq!(store.inner().get(&key).unwrap(), b"mine", "seed {seed}"),
                Ok(CreateOutcome::Other(found)) => assert!(foreign && found == b"theirs", "seed {seed}"),
                Err(e) if e.kind == ErrorKind::Transient => {
                    assert!(store.inner().get(&key).ok().as_deref() != Some(b"mine"), "seed {seed}: {e}");
                }
                Err(e) => assert_eq!(e.kind, ErrorKind::Unknown, "seed {seed}: {e}"),
            }
        }
    }
}

#[test]
fn one_seed_gives_one_course() {
    let chances = Chances { transient: 200, lost_reply: 200, flip_bit: 100, short_body: 100, lost_request: 100 };
    let course = |seed| {
        let store = Faulty::seeded(Mem::new(), seed, chances);
        for i in 0..100 {
            let _ = store.create(&format!("k{i}"), bytes("body"));
            let _ = store.get(&format!("k{i}"));
        }
        store.struck()
    };
    assert_eq!(course(7), course(7));
    assert_ne!(course(7), course(8));
    assert!(course(7).len() > 50);
}

/// The caller's own object, damaged in transfer, is read again; if it stays wrong, the caller judges it.
#[test]
fn own_bytes_that_come_back_damaged_are_asked_for_again() {
    for fault in [Fault::FlipBit(9), Fault::ShortBody(1)] {
        let lost = Rule::nth(Op::Create, "", 1, Fault::LostReply);
        let damage = |times| Rule { op: Some(Op::Get), key: String::new(), nth: 1, times, fault };
        let store = Faulty::scripted(Mem::new(), vec![lost.clone(), damage(2)]);
        assert_eq!(create_exact(&store, "k", &bytes("mine"), 2).unwrap(), CreateOutcome::Own, "{fault:?}");
        assert_eq!(store.struck().len(), 3, "{fault:?}");
        let store = Faulty::scripted(Mem::new(), vec![lost, damage(100)]);
        let CreateOutcome::Other(found) = create_exact(&store, "k", &bytes("mine"), 2).unwrap() else {
            panic!("{fault:?}")
        };
        assert_ne!(found, b"mine");
        assert!(store.struck().len() < 10, "it is asked for again without end: {fault:?}");
    }
}

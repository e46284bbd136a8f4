//! What every store must do, as code: each case gets a fresh part of the store and panics if the contract of
//! `tracker::store::Store` is violated. A new case applies to every store at once.
//!
//! Included by path in `tracker`'s own tests, so it uses nothing but `tracker::store` and std.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};

use bytes::Bytes;
use tracker::store::{CreateOutcome, Created, Entry, ErrorKind, Store, create_exact, list_all};

type Case = fn(&Arc<dyn Store>, &str);

const CASES: &[(&str, Case)] = &[
    ("create_get", create_get),
    ("absent", absent),
    ("overwrite_impossible", overwrite_impossible),
    ("race_one_winner", race_one_winner),
    ("range_edges", range_edges),
    ("empty_object", empty_object),
    ("delete_idempotent", delete_idempotent),
    ("odd_keys", odd_keys),
    ("illegal_keys", illegal_keys),
    ("large_object", large_object),
    ("listing", listing),
    ("listing_goes_on", listing_goes_on),
    ("listing_pages", listing_pages),
    ("exact", exact),
];

/// Runs all cases against one store, each under its own prefix. Prints each case's name and time.
pub fn run(store: Arc<dyn Store>) {
    for (name, case) in CASES {
        let begun = std::time::Instant::now();
        case(&store, &format!("conformance/{name}"));
        println!("{}: {name} {:.3} s", store.describe(), begun.elapsed().as_secs_f64());
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, tracker::store::StoreError>) -> ErrorKind {
    result.expect_err("must fail").kind
}

fn put(store: &Arc<dyn Store>, key: &str, bytes: impl Into<Bytes>) {
    assert_eq!(store.create(key, bytes.into()).unwrap(), Created::Yes, "{key}");
}

fn create_get(store: &Arc<dyn Store>, at: &str) {
    let key = format!("{at}/some/deep/er/key");
    put(store, &key, &b"content"[..]);
    assert_eq!(store.get(&key).unwrap(), b"content");
    assert!(store.exists(&key).unwrap());
}

/// Absence is `NotFound` for each way of reading, also without a folder, and a prefix of a key is not an object.
fn absent(store: &Arc<dyn Store>, at: &str) {
    put(store, &format!("{at}/folder/object"), &b"x"[..]);
    for key in
        [format!("{at}/none"), format!("{at}/no/folder/either"), format!("{at}/folder"), format!("{at}/folder/objec")]
    {
        assert_eq!(kind(store.get(&key)), ErrorKind::NotFound, "{key}");
        assert_eq!(kind(store.get_range(&key, 0, 1)), ErrorKind::NotFound, "{key}");
        assert!(!store.exists(&key).unwrap(), "{key}");
    }
}

fn overwrite_impossible(store: &Arc<dyn Store>, at: &str) {
    let key = format!("{at}/k");
    put(store, &key, &b"first"[..]);
    for bytes in [&b"second"[..], b"first", b""] {
        assert_eq!(store.create(&key, Bytes::from_static(bytes)).unwrap(), Created::Exists);
        assert_eq!(store.get(&key).unwrap(), b"first");
    }
}

/// Sixteen writers, one key, five times: one `Yes`, and the winner's complete bytes.
fn race_one_winner(store: &Arc<dyn Store>, at: &str) {
    for round in 0..5 {
        let key = format!("{at}/{round}/contended");
        let barrier = Barrier::new(16);
        let body = |racer: u8| vec![racer; 50_000 + usize::from(racer)];
        let outcomes: Vec<Created> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..16u8)
                .map(|racer| {
                    let (key, barrier) = (&key, &barrier);
                    scope.spawn(move || {
                        let bytes = Bytes::from(body(racer));
                        barrier.wait();
                        store.create(key, bytes).unwrap()
                    })
                })
                .collect();
            racers.into_iter().map(|r| r.join().unwrap()).collect()
        });
        let winners: Vec<usize> = (0..16).filter(|i| outcomes[*i] == Created::Yes).collect();
        assert_eq!(winners.len(), 1, "winners {winners:?}");
        assert!(store.get(&key).unwrap() == body(winners[0] as u8), "not the winner's bytes");
    }
}

fn range_edges(store: &Arc<dyn Store>, at: &str) {
    let key = format!("{at}/k");
    let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    put(store, &key, bytes.clone());
    for (offset, len) in [(0, 1), (0, 10_000), (1, 9_999), (9_999, 1), (4_096, 4_096), (0, 0), (10_000, 0), (5, 0)] {
        let want = &bytes[offset as usize..(offset + len) as usize];
        assert!(store.get_range(&key, offset, len).unwrap() == want, "{offset}+{len}");
    }
    // A truncated answer must never count as the range.
    for (offset, len) in [(0, 10_001), (9_999, 2), (10_000, 1), (20_000, 5), (u64::MAX, 2), (1, u64::MAX)] {
        assert_eq!(kind(store.get_range(&key, offset, len)), ErrorKind::Corrupt, "{offset}+{len}");
    }
}

fn empty_object(store: &Arc<dyn Store>, at: &str) {
    let key = format!("{at}/k");
    put(store, &key, Bytes::new());
    assert!(store.exists(&key).unwrap());
    assert_eq!(store.get(&key).unwrap(), b"");
    assert_eq!(store.create(&key, Bytes::from_static(b"x")).unwrap(), Created::Exists);
    assert_eq!(kind(store.get_range(&key, 0, 1)), ErrorKind::Corrupt);
    assert_eq!(list_all(store, at).unwrap(), [Entry { key, bytes: 0 }]);
}

fn delete_idempotent(store: &Arc<dyn Store>, at: &str) {
    let key = format!("{at}/folder/k");
    store.delete(&key).unwrap();
    put(store, &key, &b"1"[..]);
    put(store, &format!("{key}2"), &b"2"[..]);
    for _ in 0..2 {
        store.delete(&key).unwrap();
        assert!(!store.exists(&key).unwrap());
    }
    assert!(store.exists(&format!("{key}2")).unwrap(), "only the named object goes");
    store.delete(&format!("{at}/folder")).unwrap();
    assert!(store.exists(&format!("{key}2")).unwrap(), "a folder is no object");
    put(store, &key, &b"again"[..]);
    assert_eq!(store.get(&key).unwrap(), b"again");
}

/// Volume names come from directory names, so anything printable occurs.
fn odd_keys(store: &Arc<dyn Store>, at: &str) {
    let long = "n".repeat(200);
    let names = [
        "a b",
        "a+b",
        "a%20b",
        "%",
        "a&b=c",
        "q?x#y",
        "it's",
        "\"",
        "<>",
        "~!@$^*()",
        "gr\u{f6}\u{df}e",
        "\u{30c7}\u{30fc}\u{30bf}",
        "\u{1f980}",
        "...",
        ".hidden",
        "-rf",
        "a:b",
        "[x]{y}|z",
        "A",
        "a",
        "a b ",
        &long,
    ];
    for name in names {
        let key = format!("{at}/{name}/{name}");
        put(store, &key, name.as_bytes().to_vec());
        assert!(store.exists(&key).unwrap(), "{name}");
        assert_eq!(store.get(&key).unwrap(), name.as_bytes(), "{name}");
        assert_eq!(store.get_range(&key, 0, 1).unwrap(), &name.as_bytes()[..1], "{name}");
    }
    let listed: BTreeSet<String> = list_all(store, at).unwrap().into_iter().map(|e| e.key).collect();
    assert_eq!(listed, names.iter().map(|name| format!("{at}/{name}/{name}")).collect());
    for name in names {
        let key = format!("{at}/{name}/{name}");
        store.delete(&key).unwrap();
        assert!(!store.exists(&key).unwrap(), "{name}");
    }
}

fn illegal_keys(store: &Arc<dyn Store>, at: &str) {
    for bad in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./x", "a\nb", "a\\b", "x/.tmp-1"] {
        for key in [bad.to_owned(), format!("{at}/{bad}")] {
            assert_eq!(kind(store.create(&key, Bytes::new())), ErrorKind::Misconfigured, "{key:?}");
            assert_eq!(kind(store.get(&key)), ErrorKind::Misconfigured, "{key:?}");
            assert_eq!(kind(store.get_range(&key, 0, 1)), ErrorKind::Misconfigured, "{key:?}");
            assert_eq!(kind(store.exists(&key)), ErrorKind::Misconfigured, "{key:?}");
            assert_eq!(kind(store.delete(&key)), ErrorKind::Misconfigured, "{key:?}");
        }
    }
    assert_eq!(kind(store.list("../", None)), ErrorKind::Misconfigured);
}

fn large_object(store: &Arc<dyn Store>, at: &str) {
    let key = format!("{at}/k");
    // Neither compressible nor periodic, so that swapped parts are noticed.
    let mut x = 1u64;
    let bytes: Vec<u8> = (0..20 << 20)
        .map(|_| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 56) as u8
        })
        .collect();
    put(store, &key, bytes.clone());
    assert!(store.get(&key).unwrap() == bytes);
    let (from, len) = ((10 << 20) - 3, 5_000_000);
    assert!(store.get_range(&key, from as u64, len as u64).unwrap() == bytes[from..from + len]);
}

/// Sorted although written in another order; a plain string prefix; `after` is exclusive.
fn listing(store: &Arc<dyn Store>, at: &str) {
    for (i, name) in ["b", "a/z", "a/y", "a/b/c", "a/b/d", "c/1", "c/10", "c/2", "aa"].iter().enumerate() {
        put(store, &format!("{at}/{name}"), vec![0; i]);
    }
    let names = |prefix: &str, after: Option<&str>| -> Vec<String> {
        let after = after.map(|a| format!("{at}/{a}"));
        let page = store.list(&format!("{at}/{prefix}"), after.as_deref()).unwrap();
        assert!(!page.more);
        page.entries.into_iter().map(|e| e.key[at.len() + 1..].to_owned()).collect()
    };
    assert_eq!(names("", None), ["a/b/c", "a/b/d", "a/y", "a/z", "aa", "b", "c/1", "c/10", "c/2"]);
    assert_eq!(names("c/1", None), ["c/1", "c/10"]);
    assert_eq!(names("c/", Some("c/1")), ["c/10", "c/2"]);
    assert_eq!(names("", Some("a/b/d")), ["a/y", "a/z", "aa", "b", "c/1", "c/10", "c/2"]);
    assert_eq!(names("c", Some("b")), ["c/1", "c/10", "c/2"]);
    assert_eq!(names("a", Some("c/2")), [""; 0]);
    assert_eq!(names("x", None), [""; 0]);
    let sizes: Vec<u64> = list_all(store, &format!("{at}/c/")).unwrap().iter().map(|e| e.bytes).collect();
    assert_eq!(sizes, [5, 6, 7]);
}

/// Names that sort differently by whole keys and by folders. Any order is allowed, but a listing after an entry must return
/// exactly the entries that follow it, or pages would lose or repeat some.
fn listing_goes_on(store: &Arc<dyn Store>, at: &str) {
    for name in ["a/z", "a.b", "a/b/c", "a-b", "a b/c", "a/b-c", "a!/x", "b"] {
        put(store, &format!("{at}/{name}"), Bytes::new());
    }
    let keys = |after: Option<&str>| -> Vec<String> {
        store.list(&format!("{at}/"), after).unwrap().entries.into_iter().map(|e| e.key).collect()
    };
    let all = keys(None);
    assert_eq!(all.len(), 8);
    for (i, key) in all.iter().enumerate() {
        assert_eq!(keys(Some(key)), all[i + 1..], "after {key}");
    }
}

/// More than one page of S3.
fn listing_pages(store: &Arc<dyn Store>, at: &str) {
    std::thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || {
                for i in (part..1100).step_by(4) {
                    put(store, &format!("{at}/{i:05}"), Bytes::new());
                }
            });
        }
    });
    let keys: Vec<String> = list_all(store, at).unwrap().into_iter().map(|e| e.key).collect();
    assert_eq!(keys, (0..1100).map(|i| format!("{at}/{i:05}")).collect::<Vec<_>>());
}

fn exact(store: &Arc<dyn Store>, at: &str) {
    let (key, bytes) = (format!("{at}/k"), Bytes::from_static(b"mine"));
    for _ in 0..2 {
        assert_eq!(create_exact(store, &key, &bytes, 3).unwrap(), CreateOutcome::Own);
    }
    let other = create_exact(store, &key, &Bytes::from_static(b"theirs"), 3).unwrap();
    assert_eq!(other, CreateOutcome::Other(b"mine".to_vec()));
}

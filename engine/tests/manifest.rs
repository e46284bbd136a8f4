//! The manifest: what commits make of it, and which commits it refuses without changing.

mod common;

use common::*;
use engine::format::commit;
use engine::manifest::{Manifest, ManifestError};
use engine::model::*;

fn paths(manifest: &Manifest) -> Vec<String> {
    manifest.walk().map(|(path, _, _)| String::from_utf8(path).unwrap()).collect()
}

#[test]
fn names_and_paths() {
    let m = small();
    assert_eq!(paths(&m), ["", "b", "d", "d/a", "d/b2", "d/e", "d/e/l"]);
    assert_eq!(m.path_of(FileId(6)).unwrap(), b"d/e/l");
    assert_eq!(m.path_of(FileId::ROOT).unwrap(), b"");
    assert_eq!(m.path_of(FileId(77)), None);
    assert_eq!(m.resolve(b"d/e/l"), Some(FileId(6)));
    assert_eq!(m.resolve(b"d/x"), None);
    assert_eq!(m.get(FileId(4)).unwrap().links().len(), 2);
    assert_eq!(m.get(FileId(4)).unwrap().size(), 14_000);
}

#[test]
fn a_directory_moves_with_all_below_by_one_record() {
    let mut m = small();
    let names = vec![unset(2, "e"), set(1, "moved", 5)];
    apply(&mut m, changes(vec![], names, &[])).unwrap();
    assert_eq!(paths(&m), ["", "b", "d", "d/a", "d/b2", "moved", "moved/l"]);
}

#[test]
fn two_names_are_swapped_in_one_commit() {
    let mut m = small();
    let names = vec![set(2, "a", 4), set(2, "b2", 3)];
    apply(&mut m, changes(vec![], names, &[])).unwrap();
    assert_eq!(m.resolve(b"d/a"), Some(FileId(4)));
    assert_eq!(m.resolve(b"d/b2"), Some(FileId(3)));
    assert_eq!(m.get(FileId(3)).unwrap().links().len(), 1);
}

#[test]
fn content_comes_from_a_base_as_it_was_before() {
    let mut m = small();
    // 3 becomes a part of 4, while 4 becomes 3: both read what was before; a new file reads one that goes.
    let files = vec![
        write(3, Some(4), vec![Op::Copy { from: 8_000, len: 2_000 }]),
        write(4, Some(3), vec![Op::Copy { from: 0, len: 10 }]),
        write(7, Some(3), vec![Op::Copy { from: 5, len: 5 }, Op::Literal(b"x".to_vec())]),
    ];
    let before = m.clone();
    let names = vec![unset(2, "a"), set(2, "n", 3), set(2, "a", 7)];
    apply(&mut m, changes(files, names, &[])).unwrap();
    let rope = |m: &Manifest, id, from, len| m.get(FileId(id)).unwrap().rope.slice(from, len);
    assert_eq!(rope(&m, 3, 0, 2_000), rope(&before, 4, 8_000, 2_000));
    assert_eq!(rope(&m, 4, 0, 10), rope(&before, 3, 0, 10));
    assert_eq!(rope(&m, 7, 0, 5), rope(&before, 3, 5, 5));
}

#[test]
fn gone_files_are_forgotten() {
    let mut m = small();
    let names = vec![unset(2, "e"), unset(5, "l"), unset(1, "b")];
    apply(&mut m, changes(vec![], names, &[5, 6])).unwrap();
    assert_eq!(paths(&m), ["", "d", "d/a", "d/b2"]);
    assert_eq!(m.get(FileId(6)), None);
    assert_eq!(m.file_count(), 4);
}

type Fits = fn(&ManifestError) -> bool;

#[test]
fn what_is_not_a_tree_is_refused_and_nothing_changes() {
    use ManifestError::{Content, Cycle, DirLinks, GoneFull, GoneNamed, NameTwice, Nameless, NoContent, NoSuchName};
    use ManifestError::{NotDir, SourceDir, Twice, Unknown};
    let id = FileId;
    let big = Op::Copy { from: 0, len: 11 };
    let cases: Vec<(ChangeSet<Vec<u8>>, Fits)> = vec![
        (changes(vec![], vec![unset(2, "e"), set(5, "in", 2), unset(1, "d")], &[]), |e| {
            matches!(e, Cycle { .. } | Nameless { .. })
        }),
        (changes(vec![], vec![unset(1, "d"), set(5, "in", 2)], &[]), |e| matches!(e, Cycle { .. })),
        (changes(vec![], vec![set(1, "second", 2)], &[]), |e| matches!(e, DirLinks { links: 2, .. })),
        (changes(vec![], vec![unset(2, "a")], &[]), |e| *e == Nameless { id: FileId(3) }),
        (changes(vec![], vec![], &[3]), |e| *e == GoneNamed { id: FileId(3) }),
        (changes(vec![], vec![unset(2, "e")], &[5]), |e| *e == GoneFull { id: FileId(5) }),
        (changes(vec![], vec![set(1, "x", 99)], &[]), |e| *e == Unknown { id: FileId(99) }),
        (changes(vec![], vec![set(99, "x", 3)], &[]), |e| *e == NotDir { id: FileId(99) }),
        (changes(vec![], vec![set(3, "x", 4)], &[]), |e| *e == NotDir { id: FileId(3) }),
        (changes(vec![], vec![unset(1, "x")], &[]), |e| matches!(e, NoSuchName { .. })),
        (changes(vec![], vec![set(1, "x", 3), set(1, "x", 4)], &[]), |e| matches!(e, NameTwice { .. })),
        (changes(vec![], vec![set(1, "x", 1)], &[]), |e| matches!(e, SourceDir)),
        (changes(vec![], vec![], &[1]), |e| matches!(e, SourceDir)),
        (changes(vec![make(9, Kind::Fifo)], vec![], &[]), |e| *e == Nameless { id: FileId(9) }),
        (changes(vec![make(9, Kind::File)], vec![set(1, "x", 9)], &[]), |e| *e == NoContent { id: FileId(9) }),
        (changes(vec![make(3, Kind::Dir)], vec![], &[]), |e| matches!(e, ManifestError::Kind { .. })),
        (changes(vec![make(2, Kind::Dir), make(2, Kind::Dir)], vec![], &[]), |e| matches!(e, Twice { .. })),
        (changes(vec![write(3, Some(3), vec![big.clone()])], vec![], &[]), |e| matches!(e, Content { .. })),
        (changes(vec![write(4, Some(3), vec![big])], vec![], &[]), |e| matches!(e, Content { .. })),
        (changes(vec![write(3, Some(88), vec![Op::Copy { from: 0, len: 1 }])], vec![], &[]), |e| {
            matches!(e, Unknown { .. })
        }),
    ];
    let m = small();
    for (n, (changes, fits)) in cases.into_iter().enumerate() {
        let mut tried = m.clone();
        let error = apply(&mut tried, changes).expect_err(&format!("case {n}"));
        assert!(fits(&error), "case {n}: {error:?}");
        assert_eq!(tried, m, "case {n} changed the manifest ({})", id(n as u64));
    }
}

#[test]
fn commits_apply_in_their_order_alone() {
    let m = small();
    let (bytes, good) = next(&m, ChangeSet::default());
    let hash = commit::hash(&bytes);
    let mut other = good.clone();
    other.header.seq = 3;
    assert_eq!(m.clone().apply(&other, hash), Err(ManifestError::Seq { found: 3, expected: 2 }));
    let mut other = good.clone();
    other.header.parent[0] ^= 1;
    assert!(matches!(m.clone().apply(&other, hash), Err(ManifestError::Chain { seq: 2, .. })));
    let mut other = good.clone();
    other.header.time = m.position().time;
    assert!(matches!(m.clone().apply(&other, hash), Err(ManifestError::Time { .. })));
    let mut other = good.clone();
    other.header.epoch = 0;
    assert!(matches!(m.clone().apply(&other, hash), Err(ManifestError::Epoch { .. })));
    let mut m2 = m.clone();
    m2.apply(&good, hash).unwrap();
    assert!(m2.apply(&good, hash).is_err(), "twice");
}

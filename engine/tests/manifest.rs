//! The manifest: what it becomes by commits, and which commits it refuses without changing.

mod common;

use common::*;
use engine::checkpoint::{self, CheckpointRoot, LoadError};
use engine::format::commit::{Commit, Header};
use engine::format::{EncodeError, Key, commit};
use engine::manifest::{Manifest, ManifestError};
use engine::model::*;
use proptest::prelude::*;

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
    // 3 becomes a part of 4 while 4 becomes 3: both read the previous content. A new file reads one that is removed.
    let files = vec![
        write(3, Some(4), vec![Op::Copy { from: 8_000, len: 2_000 }]),
        write(4, Some(3), vec![Op::Copy { from: 0, len: 10 }]),
        write(7, Some(3), vec![Op::Copy { from: 5, len: 5 }, Op::Literal(b"x".to_vec())]),
    ];
    let before = m.clone();
    let names = vec![unset(2, "a"), set(2, "n", 3), set(2, "a", 7)];
    apply(&mut m, changes(files, names, &[])).unwrap();
    let extent_map = |m: &Manifest, id, from, len| m.get(FileId(id)).unwrap().extent_map.slice(from, len);
    assert_eq!(extent_map(&m, 3, 0, 2_000), extent_map(&before, 4, 8_000, 2_000));
    assert_eq!(extent_map(&m, 4, 0, 10), extent_map(&before, 3, 0, 10));
    assert_eq!(extent_map(&m, 7, 0, 5), extent_map(&before, 3, 5, 5));
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
    other.header.seq = Seq(3);
    assert_eq!(m.clone().apply(&other, hash), Err(ManifestError::Seq { found: Seq(3), expected: Seq(2) }));
    let mut other = good.clone();
    other.header.parent[0] ^= 1;
    assert!(matches!(m.clone().apply(&other, hash), Err(ManifestError::Chain { seq: Seq(2), .. })));
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

#[test]
fn what_a_commit_says_of_its_clock_is_checked() {
    let m = small();
    let (bytes, good) = next(&m, ChangeSet::default());
    let hash = commit::hash(&bytes);
    let standing = good.header.standing.unwrap();
    let at = |commit: &Commit, standing: Option<Standing>| {
        let header = Header { standing, ..commit.header.clone() };
        Commit { header, ..commit.clone() }
    };
    assert_eq!(m.clone().apply(&at(&good, None), hash), Err(ManifestError::Older { seq: Seq(2) }));
    // The clock went back by an hour: the commit must say so, and later commits must keep saying it.
    let wall = Time { sec: standing.wall.sec - 3600, nsec: 0 };
    let fell = at(&good, Some(Standing { wall, ..standing }));
    assert_eq!(
        m.clone().apply(&fell, hash),
        Err(ManifestError::Steady { seq: Seq(2), found: Seq(0), expected: Seq(2) })
    );
    let fell = at(&good, Some(Standing { wall, steady_since: Seq(2), ..standing }));
    let mut fallen = m.clone();
    fallen.apply(&fell, hash).unwrap();
    assert_eq!(fallen.position().standing, fell.header.standing);
    let (bytes, next) = next(&fallen, ChangeSet::default());
    assert_eq!(next.header.standing.unwrap().steady_since, Seq(2));
    let forgets = at(&next, next.header.standing.map(|s| Standing { steady_since: Seq(0), ..s }));
    assert!(matches!(
        fallen.clone().apply(&forgets, commit::hash(&bytes)),
        Err(ManifestError::Steady { seq: Seq(3), .. })
    ));
    fallen.apply(&next, commit::hash(&bytes)).unwrap();
}

#[test]
fn a_volume_of_version_1_goes_on_in_version_2() {
    let mut m = Manifest::new(VOLUME);
    let (_, first) = next(&m, changes(vec![make(1, Kind::Dir)], vec![], &[]));
    let old = Commit { header: Header { standing: None, ..first.header.clone() }, ..first };
    let bytes = old.encode().unwrap();
    assert_eq!(bytes[3], 1);
    assert_eq!(commit::decode(&bytes, commit::Expect { volume: VOLUME, seq: Seq(1) }), Ok(old.clone()));
    assert_eq!((old.header.baseline(), old.header.wall()), (None, old.header.time));
    m.apply(&old, commit::hash(&bytes)).unwrap();
    // Commits of version 1 count their time as their wall clock.
    let wall = Time { sec: m.position().time.sec - 1, nsec: 0 };
    let (_, mut second) = next(&m, changes(vec![make(2, Kind::Dir)], vec![set(1, "d", 2)], &[]));
    second.header.standing = Some(Standing::after(None, m.position().time, Seq(2), wall, false));
    assert_eq!(second.header.standing.unwrap().steady_since, Seq(2));
    let bytes = second.encode().unwrap();
    assert_eq!(bytes[3], 2);
    m.apply(&second, commit::hash(&bytes)).unwrap();
    assert_eq!(second.header.baseline(), Some(false));
}

#[test]
fn version_1_holds_no_inode_flags_and_no_end_of_an_era() {
    let m = Manifest::new(VOLUME);
    let mut root = make(1, Kind::Dir);
    root.meta.as_mut().unwrap().project = 7;
    let (_, new) = next(&m, changes(vec![root], vec![], &[]));
    let old = |era, changes: &ChangeSet<Stored>| {
        let header = Header { standing: None, era, ..new.header.clone() };
        commit::encode(&header, &[], changes, &[])
    };
    assert!(old(None, &new.changes).is_err());
    assert!(old(Some([1; 32]), &ChangeSet::default()).is_err());
    old(None, &ChangeSet::default()).unwrap();
}

/// One record of a commit, over few ids and names so that many fit and many do not.
#[derive(Clone, Debug)]
enum Record {
    Make(u64, bool),
    Set(u64, u8, u64),
    Unset(u64, u8),
    Gone(u64),
    Write(u64, u64, u64),
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let id = || 1..9u64;
    let record = prop_oneof![
        2 => (id(), any::<bool>()).prop_map(|(id, dir)| Record::Make(id, dir)),
        4 => (id(), 0..4u8, id()).prop_map(|(parent, name, id)| Record::Set(parent, name, id)),
        3 => (id(), 0..4u8).prop_map(|(parent, name)| Record::Unset(parent, name)),
        1 => id().prop_map(Record::Gone),
        2 => (id(), id(), 1..20u64).prop_map(|(id, base, len)| Record::Write(id, base, len)),
    ];
    prop::collection::vec(record, 1..4)
}

fn as_changes(records: &[Record]) -> ChangeSet<Vec<u8>> {
    let mut out = ChangeSet::default();
    let name = |n: &u8| format!("n{n}");
    for record in records {
        match record {
            Record::Make(id, true) => out.files.push(make(*id, Kind::Dir)),
            Record::Make(id, false) => out.files.push(write(*id, None, vec![Op::Literal(vec![*id as u8; 15])])),
            Record::Set(parent, n, id) => out.names.push(set(*parent, &name(n), *id)),
            Record::Unset(parent, n) => out.names.push(unset(*parent, &name(n))),
            Record::Gone(id) => out.gone.push(FileId(*id)),
            Record::Write(id, base, len) => {
                out.files.push(write(*id, Some(*base), vec![Op::Copy { from: 0, len: *len }, Op::Hole { len: 3 }]));
            }
        }
    }
    out
}

/// The tree as a set of paths, from the links of the files (the walk reads the directories).
fn by_links(manifest: &Manifest) -> Vec<Vec<u8>> {
    let mut out = vec![Vec::new()];
    for (_, file) in manifest.files() {
        for link in file.links() {
            let mut path = manifest.path_of(link.parent).unwrap();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&link.name);
            out.push(path);
        }
    }
    out.sort();
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn whatever_is_applied_leaves_a_tree(commits in prop::collection::vec(records(), 1..60)) {
        let mut m = small();
        for records in commits {
            let before = m.clone();
            match apply(&mut m, as_changes(&records)) {
                Err(_) => prop_assert_eq!(&m, &before, "a refused commit changes nothing"),
                Ok(()) => {
                    let mut walked: Vec<Vec<u8>> = m.walk().map(|(path, _, _)| path).collect();
                    walked.sort();
                    prop_assert_eq!(&walked, &by_links(&m), "all names are below the source directory");
                    let known = m.walk().map(|(_, id, _)| id).collect::<std::collections::BTreeSet<_>>();
                    prop_assert_eq!(known.len(), m.file_count(), "no file without a path");
                    let mut objects = std::collections::BTreeMap::new();
                    checkpoint::write(&m, |key, bytes| -> Result<(), EncodeError> {
                        objects.insert(key, bytes);
                        Ok(())
                    }).unwrap();
                    let seq = m.seq();
                    let root = CheckpointRoot::decode(&objects[&Key::Checkpoint(seq)], VOLUME, seq).unwrap();
                    let back = checkpoint::load(&root, |hash| -> Result<_, LoadError> {
                        Ok(objects[&Key::Page(*hash)].clone())
                    });
                    prop_assert_eq!(back.unwrap(), m.clone(), "and comes back from a checkpoint");
                }
            }
        }
    }
}

//! The catalog as its callers see it, through a real file.

use std::path::PathBuf;

use engine::catalog::{CatalogChange, Head, Intent, Missing, Record};
use engine::dirty::{DirtySet, Marks, Waiting};
use engine::format::commit::{self, Header};
use engine::model::{
    ChangeSet, CommitId, Dev, FileId, Ino, InodeFlags, InodeId, Kind, Meta, NameChange, Root, Seq, Standing, Time,
    VolumeId, WriterId,
};
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;

pub(super) fn fresh() -> (TempDir, PathBuf, Catalog) {
    let dir = tempfile::tempdir().unwrap();
    let path = Catalog::location(dir.path(), "vol");
    let catalog = Catalog::create(&path).unwrap();
    (dir, path, catalog)
}

pub(super) fn row(id: u64, kind: Kind) -> Record {
    Record {
        id: FileId(id),
        inode: InodeId { ino: Ino(1000 + id), generation: u64::MAX - id },
        meta: Meta {
            kind,
            mode: 0o4755,
            uid: u32::MAX - 1,
            gid: 7,
            mtime: Time { sec: -5, nsec: 999_999_999 },
            rdev: u64::MAX,
            target: b"\xff/to".to_vec(),
            xattrs: vec![(b"user.k".to_vec(), b"v".to_vec())],
            flags: if id.is_multiple_of(2) { InodeFlags::ALL } else { 0 },
            project: if id.is_multiple_of(3) { u32::MAX } else { 0 },
        },
        size: 1 << 40,
        root: (kind == Kind::File).then_some(Root::Sparse([9; 32])),
        hole_bytes: 4096,
        signed: true,
        ctime: Some(Time { sec: 1, nsec: 2 }),
    }
}

pub(super) fn set(parent: u64, name: &[u8], id: u64) -> NameChange {
    NameChange::Set { parent: FileId(parent), name: name.to_vec(), id: FileId(id) }
}

pub(super) fn unset(parent: u64, name: &[u8]) -> NameChange {
    NameChange::Unset { parent: FileId(parent), name: name.to_vec() }
}

/// root(1) { dir(2) { f(3), hard(3) }, g(4) }
fn tree(catalog: &Catalog) {
    catalog
        .apply(&CatalogChange {
            records: vec![row(1, Kind::Dir), row(2, Kind::Dir), row(3, Kind::File), row(4, Kind::File)],
            names: vec![set(1, b"dir", 2), set(2, b"f", 3), set(2, b"hard", 3), set(1, b"g\xfe", 4)],
            nodes: vec![((FileId(3), 0, 5), Some(vec![1; 16384]))],
            signatures: vec![((FileId(3), 0), Some(vec![2; 20]))],
            ..CatalogChange::default()
        })
        .unwrap();
}

pub(super) fn marks(blocks: &[u32]) -> Waiting {
    let marks = Marks { blocks: blocks.iter().copied().collect(), ..Marks::meta() };
    Waiting { marks, since_ns: 50 }
}

pub(super) fn set_of(marks: impl IntoIterator<Item = (u64, Waiting)>) -> DirtySet {
    let mut set = DirtySet::default();
    marks.into_iter().for_each(|(ino, waiting)| set.add(Ino(ino), &waiting.marks, waiting.since_ns));
    set
}

pub(super) fn head(seq: u64) -> Head {
    Head { seq: Seq(seq), hash: [0; 32], time: Time::default(), standing: None }
}

pub(super) fn intent(seq: Seq) -> Intent {
    let (commit_id, time) = (CommitId([seq.0 as u8; 16]), Time { sec: -1, nsec: 4 });
    let standing = Some(Standing { wall: time, steady_since: Seq(0), baseline: true });
    let header = Header {
        volume: VolumeId([1; 16]),
        seq,
        commit: commit_id,
        writer: WriterId([2; 16]),
        epoch: 1,
        time,
        standing,
        parent: [0; 32],
        era: None,
        consistency: None,
    };
    let bytes = commit::encode(&header, &[], &ChangeSet::default(), &[]).unwrap();
    Intent { seq, commit_id, hash: [8; 32], time, standing, bytes }
}

#[test]
fn rows_come_back_as_they_were_after_reopening() {
    let (_dir, path, catalog) = fresh();
    tree(&catalog);
    let mut bare = row(5, Kind::Symlink);
    bare.ctime = None;
    let mut standard = row(6, Kind::File);
    standard.root = Some(Root::Blake3([4; 32]));
    let names = vec![set(1, b"bare", 5), set(1, b"std", 6)];
    catalog
        .apply(&CatalogChange { records: vec![bare.clone(), standard.clone()], names, ..Default::default() })
        .unwrap();
    drop(catalog);
    let catalog = Catalog::open(&path).unwrap();
    assert_eq!(catalog.file(FileId(3)).unwrap(), Some(row(3, Kind::File)));
    assert_eq!(catalog.file(FileId(5)).unwrap(), Some(bare));
    assert_eq!(catalog.file(FileId(6)).unwrap(), Some(standard));
    assert_eq!(catalog.file(FileId(77)).unwrap(), None);
    assert_eq!(catalog.by_ino(Ino(1004)).unwrap(), vec![row(4, Kind::File)]);
    assert_eq!(catalog.next_id().unwrap(), FileId(7));
    assert_eq!(catalog.node(FileId(3), 0, 5).unwrap(), Some(vec![1; 16384]));
    assert_eq!(catalog.node(FileId(3), 1, 5).unwrap(), None);
    assert_eq!(catalog.sig(FileId(3), 0).unwrap(), Some(vec![2; 20]));
    assert_eq!(catalog.inconsistencies().unwrap(), Vec::<String>::new());
}

#[test]
fn one_inode_number_can_have_two_files() {
    let (_dir, _path, catalog) = fresh();
    let (old, mut new) = (row(2, Kind::File), row(3, Kind::File));
    new.inode = InodeId { ino: old.inode.ino, generation: 12 };
    catalog.apply(&CatalogChange { records: vec![old.clone(), new.clone()], ..Default::default() }).unwrap();
    assert_eq!(catalog.by_ino(old.inode.ino).unwrap(), vec![old, new]);
}

#[test]
fn names_lead_to_files_and_back() {
    let (_dir, _path, catalog) = fresh();
    tree(&catalog);
    assert_eq!(catalog.child(FileId(2), b"f").unwrap(), Some(FileId(3)));
    assert_eq!(catalog.child(FileId(1), b"f").unwrap(), None);
    let children = catalog.children(FileId(1)).unwrap();
    assert_eq!(children, [(b"dir".to_vec(), FileId(2)), (b"g\xfe".to_vec(), FileId(4))]);
    let two = catalog.names_of(FileId(3)).unwrap();
    assert_eq!(two, [(FileId(2), b"f".to_vec()), (FileId(2), b"hard".to_vec())]);
    assert_eq!(catalog.path_of(FileId(3)).unwrap(), Some(PathBuf::from("dir/f")));
    assert_eq!(catalog.path_of(FileId::ROOT).unwrap(), Some(PathBuf::new()));
    assert_eq!(catalog.path_of(FileId(99)).unwrap(), None);
}

#[test]
fn names_apply_as_a_set() {
    let (_dir, _path, catalog) = fresh();
    tree(&catalog);
    // A swap, and a move whose Set comes before the Unset of another file's old place.
    let names = vec![set(2, b"f", 4), set(1, b"g\xfe", 3), unset(2, b"hard"), unset(2, b"f"), unset(1, b"g\xfe")];
    catalog.apply(&CatalogChange { names, ..Default::default() }).unwrap();
    assert_eq!(catalog.child(FileId(2), b"f").unwrap(), Some(FileId(4)));
    assert_eq!(catalog.child(FileId(1), b"g\xfe").unwrap(), Some(FileId(3)));
    assert_eq!(catalog.child(FileId(2), b"hard").unwrap(), None);
}

#[test]
fn a_cycle_of_parents_is_reported_and_not_walked_forever() {
    let (_dir, _path, catalog) = fresh();
    let names = vec![set(3, b"a", 2), set(2, b"b", 3)];
    let files = vec![row(2, Kind::Dir), row(3, Kind::Dir)];
    catalog.apply(&CatalogChange { records: files, names, ..Default::default() }).unwrap();
    assert!(matches!(catalog.path_of(FileId(2)), Err(CatalogError::Damaged { .. })));
}

#[test]
fn scans_see_every_file_once() {
    let (_dir, _path, catalog) = fresh();
    let files: Vec<Record> = (2..102).map(|id| row(id, Kind::File)).collect();
    catalog.apply(&CatalogChange { records: files, ..Default::default() }).unwrap();
    let (mut after, mut seen) = (FileId(0), Vec::new());
    loop {
        let page = catalog.files_after(after, 7).unwrap();
        let Some(last) = page.last() else { break };
        after = last.id;
        seen.extend(page.iter().map(|file| file.id.0));
    }
    assert_eq!(seen, (2..102).collect::<Vec<_>>());
}

#[test]
fn a_gone_file_takes_its_hashes_along() {
    let (_dir, _path, catalog) = fresh();
    tree(&catalog);
    let names = vec![unset(2, b"f"), unset(2, b"hard")];
    catalog.apply(&CatalogChange { names, gone: vec![FileId(3)], ..Default::default() }).unwrap();
    assert_eq!(catalog.file(FileId(3)).unwrap(), None);
    assert_eq!(catalog.node(FileId(3), 0, 5).unwrap(), None);
    assert_eq!(catalog.sig(FileId(3), 0).unwrap(), None);
    assert_eq!(catalog.inconsistencies().unwrap(), Vec::<String>::new());
    assert_eq!(catalog.next_id().unwrap(), FileId(5), "a removed file's id is not given again");
}

#[test]
fn a_node_without_a_blob_is_deleted() {
    let (_dir, _path, catalog) = fresh();
    tree(&catalog);
    let nodes = vec![((FileId(3), 0, 5), None), ((FileId(3), 0, 0), Some(vec![3; 32]))];
    let signatures = vec![((FileId(3), 0), None)];
    catalog.apply(&CatalogChange { nodes, signatures, ..Default::default() }).unwrap();
    assert_eq!(catalog.node(FileId(3), 0, 0).unwrap(), Some(vec![3; 32]));
    assert_eq!(catalog.node(FileId(3), 0, 5).unwrap(), None);
    assert_eq!(catalog.sig(FileId(3), 0).unwrap(), None);
}

#[test]
fn inconsistencies_are_found() {
    let (_dir, _path, catalog) = fresh();
    tree(&catalog);
    catalog.apply(&CatalogChange { gone: vec![FileId(2)], ..Default::default() }).unwrap();
    let found = catalog.inconsistencies().unwrap();
    assert_eq!(found, ["1 names without their file", "2 names below what is no directory"]);
}

#[test]
fn missing_names_keep_their_first_drain() {
    let (_dir, _path, catalog) = fresh();
    let missed = |drain| Missing { parent: FileId(2), name: b"x".to_vec(), drain };
    let other = Missing { parent: FileId(1), name: b"y".to_vec(), drain: 4 };
    let save = |missing: Option<Vec<Missing>>| catalog.apply(&CatalogChange { missing, ..Default::default() }).unwrap();
    save(Some(vec![missed(3), missed(9)]));
    save(None);
    assert_eq!(catalog.load_missing().unwrap(), [missed(3)]);
    save(Some(vec![other.clone()]));
    assert_eq!(catalog.load_missing().unwrap(), [other]);
}

#[test]
fn a_commit_survives_a_death_between_begin_and_settle() {
    let (_dir, path, catalog) = fresh();
    catalog.save_pending(&set_of([(1003, marks(&[1, 2])), (1004, marks(&[7]))])).unwrap();
    let change = CatalogChange {
        records: vec![row(1, Kind::Dir), row(3, Kind::File)],
        names: vec![set(1, b"f", 3)],
        ..Default::default()
    };
    catalog.begin_commit(&intent(Seq(1)), &change, &Handles::new()).unwrap();
    drop(catalog);
    let catalog = Catalog::open(&path).unwrap();
    assert_eq!(catalog.intent().unwrap(), Some(intent(Seq(1))));
    assert_eq!(catalog.head().unwrap(), None);
    assert_eq!(catalog.load_pending().unwrap().len(), 2, "marks leave only when the commit is settled");
    let time = Time { sec: 10, nsec: 11 };
    let standing = Some(Standing { wall: Time { sec: -9, nsec: 11 }, steady_since: Seq(1), baseline: true });
    let head = Head { seq: Seq(1), hash: [8; 32], time, standing };
    catalog.settle_commit(&head, &[Ino(1003)], &set_of([(1004, marks(&[9]))])).unwrap();
    assert_eq!(catalog.intent().unwrap(), None);
    assert_eq!(catalog.head().unwrap(), Some(head));
    assert_eq!(catalog.load_pending().unwrap(), set_of([(1004, marks(&[9]))]), "keep replaces");
}

#[test]
fn a_second_intent_changes_nothing() {
    let (_dir, _path, catalog) = fresh();
    catalog.begin_commit(&intent(Seq(1)), &CatalogChange::default(), &Handles::new()).unwrap();
    let change = CatalogChange { records: vec![row(2, Kind::File)], ..Default::default() };
    let refused = catalog.begin_commit(&intent(Seq(2)), &change, &Handles::new());
    assert!(matches!(refused, Err(CatalogError::Unsettled { seq: Seq(1) })));
    assert_eq!(catalog.file(FileId(2)).unwrap(), None);
    assert_eq!(catalog.intent().unwrap(), Some(intent(Seq(1))));
    let wrong = catalog.settle_commit(&head(2), &[], &DirtySet::default());
    assert!(matches!(wrong, Err(CatalogError::WrongIntent { seq: Seq(2), found: Some(Seq(1)) })));
    assert_eq!(catalog.head().unwrap(), None);
    catalog.settle_commit(&head(1), &[], &DirtySet::default()).unwrap();
    let again = catalog.settle_commit(&head(1), &[], &DirtySet::default());
    assert!(matches!(again, Err(CatalogError::WrongIntent { seq: Seq(1), found: None })));
}

#[test]
fn identity_comes_back_and_damage_is_seen() {
    let (_dir, path, catalog) = fresh();
    assert_eq!(catalog.volume_id().unwrap(), None);
    assert_eq!(catalog.writer().unwrap(), None);
    assert_eq!(catalog.next_id().unwrap(), FileId(2));
    let source = crate::source::SourceFacts {
        device: Dev::of_kernel(1),
        ino: Ino(2),
        generation: u64::MAX,
        fs_type: 0xef53,
        fs_id: Some("ab".into()),
        ..Default::default()
    };
    let head = Head { seq: Seq(u64::MAX), hash: [3; 32], time: Time { sec: -1, nsec: 5 }, standing: None };
    catalog.set_volume_id(&VolumeId([1; 16])).unwrap();
    catalog.set_writer(&Writer { id: WriterId([2; 16]), epoch: 3 }).unwrap();
    catalog.set_source_facts(&source).unwrap();
    catalog.set_head(&head).unwrap();
    catalog.set_boot_id("b").unwrap();
    catalog.set_store("s3://x/y").unwrap();
    drop(catalog);
    let catalog = Catalog::open(&path).unwrap();
    assert_eq!(catalog.volume_id().unwrap(), Some(VolumeId([1; 16])));
    assert_eq!(catalog.writer().unwrap(), Some(Writer { id: WriterId([2; 16]), epoch: 3 }));
    assert_eq!(catalog.source_facts().unwrap(), Some(source));
    assert_eq!(catalog.head().unwrap(), Some(head));
    assert_eq!(catalog.boot_id().unwrap().as_deref(), Some("b"));
    assert_eq!(catalog.store().unwrap().as_deref(), Some("s3://x/y"));
    catalog.lock().execute("UPDATE meta SET value = x'01' WHERE key IN ('head', 'writer_epoch')", []).unwrap();
    assert!(matches!(catalog.head(), Err(CatalogError::Damaged { table: "meta", .. })));
    assert!(matches!(catalog.writer(), Err(CatalogError::Damaged { table: "meta", .. })));
}

#[test]
fn a_wipe_keeps_marks_and_identity_and_never_lowers_the_next_id() {
    let (_dir, _path, catalog) = fresh();
    tree(&catalog);
    catalog.set_writer(&Writer { id: WriterId([2; 16]), epoch: 3 }).unwrap();
    catalog.save_pending(&set_of([(9, marks(&[1]))])).unwrap();
    catalog.begin_commit(&intent(Seq(1)), &CatalogChange::default(), &Handles::new()).unwrap();
    catalog.wipe_for_rebuild().unwrap();
    let counts = catalog.counts().unwrap();
    assert_eq!(counts, Counts { pending: 1, ..Counts::default() });
    assert_eq!((catalog.intent().unwrap(), catalog.head().unwrap()), (None, None));
    assert_eq!(catalog.node(FileId(3), 0, 5).unwrap(), None);
    assert!(catalog.writer().unwrap().is_some());
    catalog.apply(&CatalogChange { next_id: Some(FileId(3)), ..Default::default() }).unwrap();
    assert_eq!(catalog.next_id().unwrap(), FileId(5));
}

/// Content, names and marks outlive the directory in which they were found.
#[test]
fn files_without_inodes_keep_content_names_and_marks() {
    let (_dir, _path, catalog) = fresh();
    tree(&catalog);
    catalog.save_pending(&set_of([(9, marks(&[1]))])).unwrap();
    let before = catalog.counts().unwrap();
    catalog.forget_inodes().unwrap();
    assert_eq!(catalog.counts().unwrap(), before);
    let (root, file) = (catalog.file(FileId::ROOT).unwrap().unwrap(), catalog.file(FileId(4)).unwrap().unwrap());
    assert_eq!(root.inode, row(1, Kind::Dir).inode, "the root is bound when it is armed");
    let known = row(4, Kind::File);
    let inode = InodeId { ino: Ino::NONE, generation: 4 };
    assert_eq!(file, Record { inode, ctime: None, ..known });
    assert!(catalog.node(FileId(3), 0, 5).unwrap().is_some() && catalog.sig(FileId(3), 0).unwrap().is_some());
}

#[test]
fn opening_what_is_no_catalog_says_so() {
    let (dir, path, catalog) = fresh();
    assert!(matches!(Catalog::create(&path), Err(CatalogError::Exists { .. })));
    assert!(matches!(Catalog::open(&dir.path().join("none")), Err(CatalogError::Absent { .. })));
    catalog.lock().execute_batch("PRAGMA user_version = 3").unwrap();
    drop(catalog);
    assert!(matches!(Catalog::open(&path), Err(CatalogError::Version { found: 3, known: 2, .. })));
    let foreign = dir.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    assert!(matches!(Catalog::open(&foreign), Err(CatalogError::Foreign { .. })));
    let text = dir.path().join("text");
    std::fs::write(&text, "no database, but long enough to be looked at by sqlite".repeat(9)).unwrap();
    assert!(matches!(Catalog::open(&text), Err(CatalogError::Sqlite { .. })));
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert_eq!(Catalog::open_or_create(&empty).unwrap().counts().unwrap(), Counts::default());
    assert_eq!(Catalog::open_or_create(&dir.path().join("a/b/c.db")).unwrap().counts().unwrap(), Counts::default());
}

#[test]
fn a_handle_stays_with_its_inode_only() {
    let (_dir, _path, catalog) = fresh();
    let mut file = row(2, Kind::File);
    let store = |file: &Record, handles: &Handles| {
        catalog.apply_with(&CatalogChange { records: vec![file.clone()], ..Default::default() }, handles).unwrap();
        catalog.handle(FileId(2)).unwrap()
    };
    let (handle, none) = (vec![2; 12], Handles::new());
    assert_eq!(store(&file, &Handles::from([(FileId(2), handle.clone())])), Some(handle.clone()));
    file.size = 9;
    assert_eq!(store(&file, &none), Some(handle));
    file.inode.generation = 1;
    assert_eq!(store(&file, &none), None, "another inode has another handle");
    assert_eq!(catalog.handle(FileId(99)).unwrap(), None);
}

#[test]
fn a_flush_without_a_commit_forgets_what_it_read() {
    let (_dir, _path, catalog) = fresh();
    catalog.save_pending(&set_of([(5, marks(&[1])), (6, marks(&[1, 2]))])).unwrap();
    let change = CatalogChange { records: vec![row(2, Kind::File)], ..Default::default() };
    catalog.settle_without_commit(&change, &[Ino(5), Ino(6)], &set_of([(6, marks(&[2]))])).unwrap();
    assert_eq!(catalog.load_pending().unwrap(), set_of([(6, marks(&[2]))]));
    assert!(catalog.file(FileId(2)).unwrap().is_some() && catalog.head().unwrap().is_none());
}

#[test]
fn attempt_numbers_are_never_given_twice() {
    let (_dir, path, catalog) = fresh();
    let mut seen: Vec<u32> = (0..300).map(|_| catalog.next_attempt().unwrap()).collect();
    drop(catalog);
    let catalog = Catalog::open(&path).unwrap();
    seen.extend((0..10).map(|_| catalog.next_attempt().unwrap()));
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
    catalog.lock().execute("UPDATE meta SET value = x'ffffffff' WHERE key = 'attempts'", []).unwrap();
    drop(catalog);
    let catalog = Catalog::open(&path).unwrap();
    assert!(matches!(catalog.next_attempt(), Err(CatalogError::AttemptsUsedUp)));
}

#[test]
fn a_transaction_that_fails_half_way_leaves_nothing() {
    let (_dir, _path, catalog) = fresh();
    let failed = catalog.write(|conn| {
        conn.execute("INSERT INTO names VALUES(1, x'61', 2)", [])?;
        Err::<(), _>(CatalogError::Unsettled { seq: Seq(0) })
    });
    assert!(failed.is_err());
    assert_eq!(catalog.counts().unwrap().names, 0);
}

#[test]
fn the_log_is_wal_and_the_catalog_can_be_sent() {
    fn sendable<T: Send + Sync>(_: &T) {}
    let (_dir, _path, catalog) = fresh();
    sendable(&catalog);
    let mode: String = catalog.lock().query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    catalog.set_writer(&Writer { id: WriterId([2; 16]), epoch: 3 }).unwrap();
    let level: i64 = catalog.lock().query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
    assert_eq!(level, 1, "a durable write goes back to NORMAL");
}

/// Prints the times. The limits are wide: they catch a lost index, or a statement prepared again for each row.
#[test]
fn a_transaction_of_many_files_is_fast() {
    const FILES: u64 = 100_000;
    let (_dir, _path, catalog) = fresh();
    let change = CatalogChange {
        records: (2..FILES + 2).map(|id| row(id, Kind::File)).collect(),
        names: (2..FILES + 2).map(|id| set(1, format!("file-{id:08}").as_bytes(), id)).collect(),
        nodes: (2..FILES + 2).map(|id| ((FileId(id), 0, 0), Some(vec![id as u8; 64]))).collect(),
        ..Default::default()
    };
    let started = std::time::Instant::now();
    catalog.begin_commit(&intent(Seq(1)), &change, &Handles::new()).unwrap();
    let begin = started.elapsed();
    let started = std::time::Instant::now();
    for id in 0..10_000 {
        assert_eq!(catalog.by_ino(Ino(1002 + id * 7 % FILES)).unwrap().len(), 1);
    }
    let lookups = started.elapsed();
    let rows = set_of((0..FILES).map(|ino| (ino, marks(&[1, 5, 900]))));
    let started = std::time::Instant::now();
    catalog.save_pending(&rows).unwrap();
    let save = started.elapsed();
    let inos: Vec<Ino> = (0..FILES).map(Ino).collect();
    let started = std::time::Instant::now();
    catalog.settle_commit(&head(1), &inos, &DirtySet::default()).unwrap();
    let settle = started.elapsed();
    println!(
        "100,000 files + names + nodes: {begin:?}; by_ino: {:?} each; save 100,000 marks: {save:?}; settle: {settle:?}",
        lookups / 10_000
    );
    assert!(begin.as_secs() < 60 && lookups.as_secs() < 30 && save.as_secs() < 60 && settle.as_secs() < 60);
}

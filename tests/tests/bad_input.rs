//! Sources and stores that are not as they should be: one clear error with a hint and its exit code, no data lost, no wrong
//! data written.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::compare::{Options, assert_same, compare};
use tests::daemon::{Daemon, Volume, utf8};
use tests::load::{Random, number};
use tests::mounts::{SmallStore, root_or_skip};

/// Generous: the machine may be busy.
const SOON: Duration = Duration::from_secs(20);
const SYNC: Duration = Duration::from_secs(30);

/// A source with a few files, and the volume that protects it.
struct Tree {
    folder: tempfile::TempDir,
}

impl Tree {
    fn new() -> Tree {
        let tree = Tree { folder: tempfile::tempdir().unwrap() };
        let mut random = Random::new(2);
        fs::create_dir_all(tree.source().join("sub")).unwrap();
        fs::write(tree.source().join("a"), random.bytes(100_000)).unwrap();
        fs::write(tree.source().join("sub/b"), random.bytes(5_000)).unwrap();
        fs::write(tree.source().join("empty"), b"").unwrap();
        tree
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self) -> PathBuf {
        self.at("data")
    }

    fn volume(&self) -> Volume {
        Volume::new(&self.source())
    }
}

/// Another volume that shares a store's directory.
fn with_store(source: &Path, store: &Path) -> Volume {
    let mut volume = Volume::new(source);
    volume.store = store.to_path_buf();
    volume
}

/// Everything below a directory, with names and bytes.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push((path.clone(), fs::read(&path).unwrap())) }
        }
    }
    found.sort();
    found
}

/// Asserts that the newest commit restores to what `expected` holds.
#[track_caller]
fn restores(volume: &Volume, expected: &Path, scratch: &str) {
    let copy = volume.scratch(scratch);
    volume.restore(&copy).expect(0);
    assert_same(expected, &copy);
}

fn synced(volume: &Volume) {
    volume.sync(SYNC).expect(0);
}

fn stopped(daemon: Daemon<'_>) {
    assert!(daemon.stop().success());
}

#[test]
fn a_source_that_does_not_exist() {
    let tree = Tree::new();
    let volume = Volume::new(&tree.at("none"));
    volume.protect_ends().refuses(1, "does not exist");
    assert!(!volume.store.exists(), "nothing is made for it");
}

#[test]
fn a_source_that_is_no_directory() {
    let tree = Tree::new();
    let volume = Volume::new(&tree.source().join("a"));
    volume.protect_ends().refuses(1, "not a directory");
    assert!(!volume.store.exists(), "nothing is made for it");
}

#[test]
fn a_store_inside_the_source() {
    let tree = Tree::new();
    let volume = with_store(&tree.source(), &tree.source().join("sub/store"));
    volume.protect_ends().refuses(22, "inside the source");
    assert!(!volume.store.exists(), "nothing is written");
}

/// As after `mv` or `rm -r` of the directory itself: a restore must still give the last complete state.
#[track_caller]
fn goes_away(name: &str, go: impl Fn(&Tree)) {
    let tree = Tree::new();
    let volume = tree.volume();
    let mut daemon = volume.start_ready();
    synced(&volume);
    let kept = tree.at("kept");
    copy_tree(&tree.source(), &kept);
    go(&tree);
    // Either the daemon ends and says why, or its status does.
    let deadline = Instant::now() + SOON;
    let code = loop {
        if let Some(status) = daemon.wait_end(Duration::from_millis(300)) {
            break status.code();
        }
        let code = volume.tracker(&["status"]).code;
        if code == Some(20) {
            break code;
        }
        assert!(Instant::now() < deadline, "{name}: status stays green: {:?}", volume.tracker(&["status"]));
    };
    assert!(matches!(code, Some(20 | 22)), "{name}: {code:?}\n{}", volume.log_tail());
    drop(daemon);
    let copy = volume.scratch("copy");
    volume.restore(&copy).expect(0);
    let found = compare(&kept, &copy, Options::default()).unwrap();
    assert!(found.is_empty(), "{name}: the loss of the source was committed: {found:?}");
    // And not at the next start either.
    volume.protect_ends();
    volume.verify(false).expect(0);
    restores(&volume, &kept, "copy after the next start");
}

#[track_caller]
fn copy_tree(from: &Path, to: &Path) {
    tests::mounts::run(std::process::Command::new("cp").arg("-a").arg(from).arg(to));
}

#[test]
fn a_source_that_vanishes() {
    goes_away("removed", |tree| fs::remove_dir_all(tree.source()).unwrap());
}

#[test]
fn a_source_that_is_moved_away() {
    goes_away("moved", |tree| fs::rename(tree.source(), tree.at("elsewhere")).unwrap());
}

#[test]
fn a_source_that_is_replaced_while_protected() {
    goes_away("replaced", |tree| {
        fs::rename(tree.source(), tree.at("elsewhere")).unwrap();
        fs::create_dir(tree.source()).unwrap();
        fs::write(tree.source().join("other"), b"not the same").unwrap();
    });
}

#[test]
fn a_source_that_was_replaced_meanwhile() {
    let tree = Tree::new();
    let volume = tree.volume();
    let daemon = volume.start_ready();
    synced(&volume);
    stopped(daemon);
    fs::rename(tree.source(), tree.at("elsewhere")).unwrap();
    fs::create_dir(tree.source()).unwrap();
    fs::write(tree.source().join("other"), b"not the same").unwrap();
    let before = contents(&volume.store);
    volume.protect_ends().refuses(22, "not the directory");
    assert!(contents(&volume.store) == before, "the store is as it was");
    restores(&volume, &tree.at("elsewhere"), "copy");
}

#[test]
fn a_full_store_recovers_when_there_is_space() {
    if !root_or_skip("a_full_store_recovers_when_there_is_space") {
        return;
    }
    let tree = Tree::new();
    let space = SmallStore::new(2 << 20);
    let volume = with_store(&tree.source(), &space.path().join("store"));
    let daemon = volume.start_ready();
    synced(&volume);
    fs::write(tree.source().join("large"), Random::new(4).bytes(6 << 20)).unwrap();
    fs::write(tree.source().join("a"), b"changed meanwhile").unwrap();
    let status = volume.status_when("the store's error", SOON, |status| !status["last_error"].is_null());
    let error = status["last_error"].as_str().unwrap().to_lowercase();
    assert!(error.contains("space") || error.contains("full"), "{error}");
    assert_eq!(status["state"], "degraded", "{status}");
    volume.tracker(&["status"]).expect(20);
    let open = volume.sync(Duration::from_secs(2));
    assert!(matches!(open.code, Some(3 | 20)), "{open:?}");
    space.remount("size=64m");
    synced(&volume);
    let status = volume.status();
    assert_eq!((&status["state"], &status["last_error"]), (&Value::from("protected"), &Value::Null), "{status}");
    restores(&volume, &tree.source(), "copy");
    volume.verify(true).expect(0);
    stopped(daemon);
}

#[test]
fn a_read_only_store() {
    if !root_or_skip("a_read_only_store") {
        return;
    }
    let tree = Tree::new();
    let space = SmallStore::new(16 << 20);
    let volume = with_store(&tree.source(), &space.path().join("store"));
    space.remount("ro");
    volume.protect_ends().refuses(1, "ead-only");
    space.remount("rw");
    let daemon = volume.start_ready();
    synced(&volume);
    space.remount("ro");
    fs::write(tree.source().join("a"), b"changed meanwhile").unwrap();
    volume.status_when("the store's error", SOON, |status| {
        status["state"] == "degraded" && !status["last_error"].is_null()
    });
    space.remount("rw");
    synced(&volume);
    restores(&volume, &tree.source(), "copy");
    stopped(daemon);
}

#[test]
fn a_store_with_other_things_in_it() {
    let tree = Tree::new();
    let volume = tree.volume();
    fs::create_dir_all(volume.reference()).unwrap();
    fs::write(volume.store.join("notes.txt"), b"somebody's").unwrap();
    fs::write(volume.reference().join("format"), b"not ours at all").unwrap();
    let before = contents(&volume.store);
    volume.protect_ends().refuses(21, "format");
    assert!(contents(&volume.store) == before, "others' files are left alone");
    // A store that is not in the way of ours is ignored.
    fs::remove_file(volume.reference().join("format")).unwrap();
    let daemon = volume.start_ready();
    synced(&volume);
    stopped(daemon);
    restores(&volume, &tree.source(), "copy");
    assert_eq!(fs::read(volume.store.join("notes.txt")).unwrap(), b"somebody's");
}

#[test]
fn a_store_that_is_a_file() {
    let tree = Tree::new();
    let volume = with_store(&tree.source(), &tree.at("file"));
    fs::write(&volume.store, b"a file").unwrap();
    volume.protect_ends().refuses(1, "not a directory");
    assert_eq!(fs::read(&volume.store).unwrap(), b"a file");
}

#[test]
fn a_volume_of_another_writer() {
    let (tree, other) = (Tree::new(), Tree::new());
    let volume = tree.volume();
    let daemon = volume.start_ready();
    synced(&volume);
    stopped(daemon);
    let before = contents(&volume.store);
    let second = with_store(&other.source(), &volume.store);
    second.protect_ends().refuses(11, "another writer");
    assert!(contents(&volume.store) == before, "the store is as it was");
    restores(&volume, &tree.source(), "copy");
}

#[test]
fn a_second_protect_of_the_same_volume() {
    let tree = Tree::new();
    let volume = tree.volume();
    let daemon = volume.start_ready();
    volume.protect_ends().refuses(11, "state directory");
    with_store(&tree.source(), &volume.store).protect_ends().refuses(11, "another writer");
    fs::write(tree.source().join("a"), b"still protected").unwrap();
    synced(&volume);
    restores(&volume, &tree.source(), "copy");
    stopped(daemon);
}

#[test]
fn stale_temporary_files_in_the_store() {
    let tree = Tree::new();
    let volume = tree.volume();
    let daemon = volume.start_ready();
    synced(&volume);
    daemon.kill9();
    let newest = newest_commit(&volume);
    for dir in ["commits", "packs", ""] {
        let dir = volume.reference().join(dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(".tmp-0123456789abcdef"), &fs::read(&newest).unwrap()[..20]).unwrap();
    }
    fs::write(tree.source().join("a"), b"after the half-written store").unwrap();
    let daemon = volume.start_ready();
    synced(&volume);
    restores(&volume, &tree.source(), "copy");
    volume.verify(true).expect(0);
    stopped(daemon);
}

fn newest_commit(volume: &Volume) -> PathBuf {
    objects(volume, "commits").pop().expect("a commit")
}

/// The objects of a kind, in order.
fn objects(volume: &Volume, kind: &str) -> Vec<PathBuf> {
    let dir = volume.reference().join(kind);
    let mut found: Vec<PathBuf> = match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    };
    found.retain(|path| !path.file_name().unwrap().as_bytes().starts_with(b"."));
    found.sort();
    found
}

#[test]
fn a_truncated_newest_commit() {
    let tree = Tree::new();
    let volume = tree.volume();
    let daemon = volume.start_ready();
    fs::write(tree.source().join("a"), b"second").unwrap();
    synced(&volume);
    stopped(daemon);
    let newest = newest_commit(&volume);
    let bytes = fs::read(&newest).unwrap();
    for len in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&newest, &bytes[..len]).unwrap();
        damaged(&volume, 21, &format!("the newest commit cut to {len} bytes"));
    }
    fs::write(&newest, &bytes).unwrap();
    restores(&volume, &tree.source(), "copy");
}

/// Asserts that `verify` ends with 21 and `restore` with `code` (21 if there is no state, 3 if only files are damaged), and
/// that the target has nothing wrong.
#[track_caller]
fn damaged(volume: &Volume, code: i32, what: &str) {
    let verified = volume.verify(true);
    assert_eq!(verified.code, Some(21), "verify: {what}: {verified:?}");
    let target = volume.scratch("damaged");
    let restored = volume.restore(&target);
    assert_eq!(restored.code, Some(code), "restore: {what}: {restored:?}");
    let told = if code == 3 { &restored.stdout } else { &restored.stderr };
    assert!(told.contains(if code == 3 { "not restored: " } else { "hint" }), "{what}: {restored:?}");
    let left = if target.exists() { contents(&target) } else { Vec::new() };
    // Undamaged, verified files may be there; damaged ones may not.
    for (path, bytes) in &left {
        let source = volume.source.join(path.strip_prefix(&target).unwrap());
        assert!(fs::read(&source).is_ok_and(|own| own == *bytes), "{what}: {} is false", path.display());
    }
    let _ = fs::remove_dir_all(&target);
}

#[test]
fn a_corrupted_commit_or_pack() {
    let tree = Tree::new();
    fs::write(tree.source().join("large"), Random::new(6).bytes(3 << 20)).unwrap();
    let volume = tree.volume();
    let daemon = volume.start_ready();
    fs::write(tree.source().join("large2"), Random::new(8).bytes(3 << 20)).unwrap();
    synced(&volume);
    fs::write(tree.source().join("a"), Random::new(9).bytes(2_000)).unwrap();
    synced(&volume);
    stopped(daemon);
    volume.verify(true).expect(0);
    let (commits, packs) = (objects(&volume, "commits"), objects(&volume, "packs"));
    assert!(commits.len() >= 2 && !packs.is_empty(), "{commits:?} {packs:?}");
    for object in commits.iter().chain(&packs) {
        let bytes = fs::read(object).unwrap();
        let at = bytes.len() / 2;
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        fs::write(object, &bad).unwrap();
        let code = if packs.contains(object) { 3 } else { 21 };
        damaged(&volume, code, &format!("byte {at} of {}", object.display()));
        fs::remove_file(object).unwrap();
        let without = format!("without {}", object.display());
        if packs.contains(object) {
            damaged(&volume, 3, &without);
        } else if object == commits.last().unwrap() {
            // A store with its end cut off looks complete; only a caller that remembers a later head can tell.
            volume.protect_ends().refuses(21, "commits were lost");
        } else {
            assert_ne!(volume.verify(true).code, Some(0), "{without}");
        }
        fs::write(object, &bytes).unwrap();
    }
    volume.verify(true).expect(0);
    restores(&volume, &tree.source(), "copy");
}

#[test]
fn a_volume_that_is_not_there() {
    let tree = Tree::new();
    let volume = tree.volume();
    volume.restore(&volume.scratch("copy")).refuses(10, "");
    volume.verify(false).refuses(10, "");
    assert!(!volume.store.exists() && !volume.scratch("copy").exists(), "asking makes nothing");
}

#[test]
fn a_target_with_something_in_it() {
    let tree = Tree::new();
    let volume = tree.volume();
    let daemon = volume.start_ready();
    synced(&volume);
    stopped(daemon);
    let target = tree.at("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("precious"), b"mine").unwrap();
    volume.restore(&target).refuses(22, "not empty");
    assert_eq!(contents(&target), [(target.join("precious"), b"mine".to_vec())]);
}

/// Not UTF-8, 255 bytes, 40 levels deep: created before the baseline and after it.
#[test]
fn odd_names_come_back() {
    let tree = Tree::new();
    let source = tree.source();
    let odd = |round: &str| {
        let at = source.join(round);
        fs::create_dir(&at).unwrap();
        for name in
            [&b"\xff\xfe raw"[..], b"new\nline", b"\x01\x7f", b"-rf *", b" lead and trail ", b"quote\"'\\", b"\xc3("]
        {
            fs::write(at.join(OsStr::from_bytes(name)), name).unwrap();
        }
        fs::write(at.join("n".repeat(255)), b"long").unwrap();
        let mut long = vec![0xfe; 255];
        long[0] = b'x';
        fs::create_dir(at.join(OsStr::from_bytes(&long))).unwrap();
        fs::write(at.join(OsStr::from_bytes(&long)).join("in it"), b"deeper").unwrap();
        let mut deep = at.join("deep");
        for level in 0..40 {
            deep.push(format!("level {level:02} {}", "d".repeat(50)));
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("bottom"), b"at the bottom").unwrap();
    };
    odd("before");
    let volume = tree.volume();
    let daemon = volume.start_ready();
    odd("after");
    synced(&volume);
    restores(&volume, &source, "first");
    // And they can change like other files.
    fs::write(source.join("before").join("n".repeat(255)), b"longer than before").unwrap();
    fs::rename(source.join("before/deep"), source.join(OsStr::from_bytes(b"\xff moved"))).unwrap();
    fs::remove_dir_all(source.join("after")).unwrap();
    synced(&volume);
    restores(&volume, &source, "second");
    assert_eq!(number(&volume.status(), "unreadable_total"), 0);
    let listed = volume.tracker(&["ls", utf8(&volume.reference()), "--json"]);
    listed.expect(0);
    stopped(daemon);
}

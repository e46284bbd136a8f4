//! Reads a volume back through the command line: every commit restores the state of its time, and damage of any kind leads
//! to its exit code, with nothing false written.

#[path = "reading/bed.rs"]
mod bed;
#[path = "../../tests/src/compare.rs"]
#[expect(unreachable_pub, reason = "public in the tests crate, which this file is also part of")]
mod compare;
#[path = "reading/forged.rs"]
mod forged;
#[path = "reading/goes_on.rs"]
mod goes_on;
#[path = "reading/history.rs"]
mod history;
#[path = "reading/instant.rs"]
mod instant;
#[path = "reading/names.rs"]
mod names;
#[path = "reading/trees.rs"]
mod trees;
#[path = "reading/volume.rs"]
mod volume;

use engine::model::{Seq, VolumeId};
use std::fs;
use std::path::Path;

use bed::{Bed, assert_no_false_file, code, filetime, flip, text, tracker};
use volume::{NAME, START, Volume};

#[test]
fn every_commit_restores_to_what_was_there() {
    let bed = Bed::new(4096);
    for seq in 1..=3 {
        let target = format!("out-{seq}/below");
        let done = bed.restore(&target, &["--at", &seq.to_string(), "--json"]);
        assert_eq!(code(&done), 0, "{}", text(&done));
        bed.assert_state(&target, seq);
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!((report["type"].as_str(), report["seq"].as_u64()), (Some("restored"), Some(seq as u64)));
    }
    // No seq is the newest; a time is the last commit not later.
    assert_eq!(code(&bed.restore("newest", &[])), 0);
    bed.assert_state("newest", 3);
    let time = jiff::Timestamp::from_second(START + 2).unwrap();
    for (at, seq) in [
        (time, 2),
        (time + jiff::SignedDuration::from_nanos(999_999_999), 2),
        (time + jiff::SignedDuration::from_hours(9), 3),
    ] {
        let target = format!("at {at}");
        assert_eq!(code(&bed.restore(&target, &["--at", &at.to_string()])), 0);
        bed.assert_state(&target, seq);
    }
    let early = jiff::Timestamp::from_second(START).unwrap().to_string();
    assert_eq!(code(&bed.restore("early", &["--at", &early])), 10);
    assert_eq!(code(&bed.restore("late", &["--at", "4"])), 10);
    assert!(!bed.path("early").exists() && !bed.path("late").exists());
}

#[test]
fn checkpoints_stand_in_for_pruned_commits_and_for_one_another() {
    let mut bed = Bed::new(4);
    let first = bed.volume.checkpoint();
    // Closes era 0 (commits 1 to 3), then era 1 (4 to 7).
    for seq in 4..=9u64 {
        fs::write(bed.path("source").join("counter"), format!("commit {seq}")).unwrap();
        bed.commit(500_000);
        if seq == 6 {
            bed.volume.checkpoint();
        }
    }
    assert_eq!(first.seq, Seq(3));
    assert_eq!(bed.objects("eras").len(), 2);
    // The second one holds inline data that later states still use: a prune leaves it.
    fs::remove_file(bed.object(&format!("commits/{:020}", 1))).unwrap();
    for seq in [3, 5, 6, 9] {
        let target = format!("out-{seq}");
        let done = bed.restore(&target, &["--at", &seq.to_string()]);
        assert_eq!(code(&done), 0, "{}", text(&done));
        bed.assert_state(&target, seq);
    }
    let pruned = bed.restore("pruned", &["--at", "2"]);
    assert_eq!(code(&pruned), 10, "{}", text(&pruned));
    assert!(!bed.path("pruned").exists());
    let early = jiff::Timestamp::from_second(START + 2).unwrap().to_string();
    assert_eq!(code(&bed.restore("pruned", &["--at", &early])), 10);
    let log = tracker(&["log", &bed.url(), "--limit", "100"]);
    assert_eq!((code(&log), log.stdout.iter().filter(|b| **b == b'\n').count()), (0, 1 + 8), "{}", text(&log));
    let verified = tracker(&["verify", &bed.url(), "--read-data"]);
    assert_eq!(code(&verified), 0, "{}", text(&verified));
    assert!(text(&verified).contains("commits 3 to 9"), "{}", text(&verified));
    // The newest checkpoint is damaged: the older one is used.
    flip(&bed.object(&format!("checkpoints/{:020}", 6)), 40);
    assert_eq!(code(&bed.restore("around", &[])), 0);
    bed.assert_state("around", 9);
    let verified = tracker(&["verify", &bed.url()]);
    assert_eq!(code(&verified), 21, "{}", text(&verified));
    assert!(text(&verified).contains("vol/checkpoints/00000000000000000006"), "{}", text(&verified));
    // Both are damaged: there is no way, and the reason is reported.
    flip(&bed.object(&format!("checkpoints/{:020}", 3)), 40);
    let none = bed.restore("none", &[]);
    assert_eq!(code(&none), 21, "{}", text(&none));
    assert!(text(&none).contains("checkpoints/"), "{}", text(&none));
    assert!(!bed.path("none").exists());
}

#[test]
fn damage_is_named_and_nothing_false_is_written() {
    let commit = |seq: u64| format!("commits/{seq:020}");
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 5] = [
        ("commit", |path| flip(path, 100)),
        ("commit", |path| fs::remove_file(path).unwrap()),
        ("pack", |path| flip(path, 5000)),
        ("pack", |path| fs::remove_file(path).unwrap()),
        ("pack", |path| {
            let len = fs::metadata(path).unwrap().len();
            fs::File::options().write(true).open(path).unwrap().set_len(len / 2).unwrap();
        }),
    ];
    for (n, (what, damage)) in cases.into_iter().enumerate() {
        let bed = Bed::new(4096);
        let path = if what == "commit" { bed.object(&commit(2)) } else { bed.objects("packs")[1].clone() };
        damage(&path);
        let key = format!("{NAME}/{what}s/{}", path.file_name().unwrap().to_str().unwrap());
        let done = bed.restore("out", &[]);
        if what == "commit" && n == 1 {
            // A commit in an open era is never pruned; without the second the head is the first, and that is whole.
            assert_eq!(code(&done), 0);
            bed.assert_state("out", 1);
            let expected = bed.restore("expected", &["--expect-head", "3"]);
            assert_eq!(code(&expected), 21, "{}", text(&expected));
            assert!(text(&expected).contains("cut off"), "{}", text(&expected));
            assert!(!bed.path("expected").exists());
            continue;
        }
        // A damaged pack costs the files that need it. Without a commit there is no state at all, only an older one.
        assert_eq!(code(&done), if what == "pack" { 3 } else { 21 }, "{what} {n}: {}", text(&done));
        assert!(text(&done).contains(&key), "{}", text(&done));
        assert_no_false_file(&bed, "out", 3);
        if what == "commit" {
            assert!(!bed.path("out").exists());
            assert!(text(&done).contains("--at 1"), "{}", text(&done));
        }
        let quick = tracker(&["verify", &bed.url(), "--json"]);
        let whole = tracker(&["verify", &bed.url(), "--json", "--read-data"]);
        // A flipped bit inside a pack is only found by reading it.
        assert_eq!(code(&quick), if n == 2 { 0 } else { 21 }, "{}", text(&quick));
        assert_eq!(code(&whole), 21, "{}", text(&whole));
        assert!(text(&whole).contains(&key), "{}", text(&whole));
        let report: serde_json::Value = serde_json::from_slice(&whole.stdout).unwrap();
        assert_eq!((report["type"].as_str(), report["ok"].as_bool()), (Some("verified"), Some(false)));
    }
}

#[test]
fn absent_foreign_and_untidy_stores() {
    let bed = Bed::new(4096);
    let run = |url: &str| {
        let done = tracker(&["restore", url, bed.path("out").to_str().unwrap()]);
        assert!(!bed.path("out").exists());
        (code(&done), text(&done))
    };
    let (absent, told) = run(bed.path("nowhere/vol").to_str().unwrap());
    assert_eq!(absent, 10, "{told}");
    assert!(told.contains("hint:"), "{told}");
    let (absent, told) = run(bed.path("store/other").to_str().unwrap());
    assert_eq!(absent, 10, "{told}");
    assert!(told.contains("hint:"), "{told}");
    // Somebody else's repository.
    fs::create_dir_all(bed.path("store/foreign")).unwrap();
    fs::write(bed.path("store/foreign/format"), "[core]\nrepositoryformatversion = 0\n").unwrap();
    let (foreign, told) = run(bed.path("store/foreign").to_str().unwrap());
    assert_eq!(foreign, 1, "{told}");
    assert!(told.contains("foreign/format"), "{told}");
    // A newer format.
    let mut newer = fs::read(bed.object("format")).unwrap();
    newer[3] = 2;
    fs::write(bed.path("store/foreign/format"), newer).unwrap();
    let (version, told) = run(bed.path("store/foreign").to_str().unwrap());
    assert_eq!(version, 1, "{told}");
    assert!(told.contains("newer tracker"), "{told}");
    // What a killed writer or a file manager leaves is not part of the volume.
    for name in
        ["commits/.tmp-0123456789abcdef-00000000000000000004", "packs/.tmp-x", "commits/.DS_Store", "packs/notes.txt"]
    {
        fs::write(bed.object(name), "half").unwrap();
    }
    assert_eq!(code(&tracker(&["verify", &bed.url(), "--read-data"])), 0);
    assert_eq!(code(&bed.restore("out", &[])), 0);
    bed.assert_state("out", 3);
    // A volume that has nothing yet.
    fs::create_dir_all(bed.path("store/new")).unwrap();
    fs::copy(bed.object("format"), bed.path("store/new/format")).unwrap();
    assert_eq!(code(&tracker(&["log", bed.path("store/new").to_str().unwrap()])), 10);
    // Commits of another volume under this one's name.
    fs::create_dir_all(bed.path("store/new/commits")).unwrap();
    let mut other = engine::format::era::VolumeFormat::decode(&fs::read(bed.object("format")).unwrap()).unwrap();
    other.volume = VolumeId([1; 16]);
    fs::write(bed.path("store/new/format"), other.encode().unwrap()).unwrap();
    fs::copy(bed.object("commits/00000000000000000001"), bed.path("store/new/commits/00000000000000000001")).unwrap();
    let mixed = tracker(&["restore", bed.path("store/new").to_str().unwrap(), bed.path("mixed").to_str().unwrap()]);
    assert_eq!(code(&mixed), 21, "{}", text(&mixed));
    assert!(!bed.path("mixed").exists());
}

#[test]
fn a_target_with_something_in_it_is_refused_or_merged() {
    let bed = Bed::new(4096);
    fs::create_dir(bed.path("out")).unwrap();
    fs::write(bed.path("out/mine"), "mine").unwrap();
    let refused = bed.restore("out", &[]);
    assert_eq!(code(&refused), 22, "{}", text(&refused));
    assert!(text(&refused).contains("--merge"));
    let file = bed.path("out/mine").to_str().unwrap().to_owned();
    assert_eq!(code(&tracker(&["restore", &bed.url(), &file, "--merge"])), 22);
    // A dry run reports what would be done, and does nothing.
    let dry = bed.restore("absent", &["--dry-run", "--json"]);
    assert_eq!(code(&dry), 0, "{}", text(&dry));
    let whole: serde_json::Value = serde_json::from_slice(&dry.stdout).unwrap();
    assert!(!bed.path("absent").exists());
    assert!(whole["fetched_bytes"].as_u64() > Some(1_000_000) && whole["requests"].as_u64() > Some(1), "{whole}");
    // Into an older state, only the difference is fetched.
    fs::remove_dir_all(bed.path("out")).unwrap();
    assert_eq!(code(&bed.restore("out", &["--at", "2"])), 0);
    fs::write(bed.path("out/mine"), "mine").unwrap();
    // Different content with equal size and time is found too.
    fs::write(bed.path("out/d/middle"), vec![0; 20_000]).unwrap();
    let dry = bed.restore("out", &["--merge", "--dry-run", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&dry.stdout).unwrap();
    let merged = bed.restore("out", &["--merge", "--json"]);
    assert_eq!(code(&merged), 0, "{}", text(&merged));
    let part: serde_json::Value = serde_json::from_slice(&merged.stdout).unwrap();
    for key in ["objects", "requests", "fetched_bytes", "kept"] {
        assert_eq!(said[key], part[key], "{key}: {said} {part}");
    }
    assert!(part["kept"].as_u64() > Some(5), "{part}");
    // The file removed between the two states and the user's own file are not touched.
    assert_eq!(fs::read(bed.path("out/mine")).unwrap(), b"mine");
    for extra in ["mine", "sparse"] {
        fs::remove_file(bed.path("out").join(extra)).unwrap();
    }
    filetime(&bed.states[2], &bed.path("out"));
    bed.assert_state("out", 3);
    // Nothing is left to do.
    let again = bed.restore("out", &["--merge", "--json"]);
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(
        (again["fetched_bytes"].as_u64(), again["kept"].as_u64()),
        (Some(0), again["files"].as_u64()),
        "{again}"
    );
}

#[test]
fn a_symlink_planted_in_the_target_is_not_followed() {
    let bed = Bed::new(4096);
    fs::create_dir_all(bed.path("out")).unwrap();
    fs::create_dir_all(bed.path("outside/e")).unwrap();
    fs::write(bed.path("outside/middle"), "untouched").unwrap();
    fs::write(bed.path("victim"), "untouched").unwrap();
    fs::set_permissions(bed.path("victim"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(bed.path("outside"), bed.path("out/d")).unwrap();
    std::os::unix::fs::symlink(bed.path("victim"), bed.path("out/small")).unwrap();
    std::os::unix::fs::symlink("loop", bed.path("out/loop")).unwrap();
    // A file that is equal has a second name outside: its attributes must not change there.
    fs::write(bed.path("shared"), fs::read(bed.states[2].join("new\nline")).unwrap()).unwrap();
    fs::hard_link(bed.path("shared"), bed.path("out/new\nline")).unwrap();
    let before = fs::metadata(bed.path("shared")).unwrap();
    let done = bed.restore("out", &["--merge"]);
    assert_eq!(code(&done), 0, "{}", text(&done));
    assert_eq!(fs::read(bed.path("outside/middle")).unwrap(), b"untouched");
    assert_eq!(fs::read_dir(bed.path("outside")).unwrap().count(), 2);
    assert_eq!(fs::read(bed.path("victim")).unwrap(), b"untouched");
    assert_eq!(fs::metadata(bed.path("shared")).unwrap().modified().unwrap(), before.modified().unwrap());
    fs::remove_file(bed.path("out/loop")).unwrap();
    filetime(&bed.states[2], &bed.path("out"));
    bed.assert_state("out", 3);
}

#[test]
fn names_that_lead_out_are_refused() {
    for (harmless, evil) in [("xx", &b".."[..]), ("x", b"."), ("xxxxx", b"../up"), ("xxxx", b"/tmp"), ("xxx", b"a\0b")]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut volume = Volume::create(&dir.path().join("store"), 4096);
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join(harmless), "content").unwrap();
        volume.commit(&source, 500_000);
        let path = dir.path().join(format!("store/{NAME}/commits/{:020}", 1));
        let mut bytes = fs::read(&path).unwrap();
        let name = [&[harmless.len() as u8], harmless.as_bytes()].concat();
        let places: Vec<usize> = (0..bytes.len() - name.len()).filter(|at| bytes[*at..].starts_with(&name)).collect();
        assert_eq!(places.len(), 1, "{harmless}");
        bytes[places[0] + 1..][..evil.len()].copy_from_slice(evil);
        let end = bytes.len() - 16;
        let sum = engine::format::codec::checksum(engine::format::commit::CONTEXT, &bytes[..end]);
        bytes[end..].copy_from_slice(&sum);
        fs::write(&path, bytes).unwrap();
        let url = dir.path().join("store").join(NAME);
        let out = dir.path().join("a/b/out");
        let done = tracker(&["restore", url.to_str().unwrap(), out.to_str().unwrap()]);
        assert_eq!(code(&done), 21, "{harmless}: {}", text(&done));
        assert!(text(&done).contains("commits/00000000000000000001"), "{}", text(&done));
        assert!(!dir.path().join("a").exists());
    }
}

#[test]
fn log_ls_and_cat_show_the_past() {
    let bed = Bed::new(4096);
    let lines = |args: &[&str]| -> Vec<serde_json::Value> {
        let done = tracker(args);
        assert_eq!(code(&done), 0, "{}", text(&done));
        String::from_utf8(done.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let url = bed.url();
    let log = lines(&["log", &url, "--json"]);
    assert_eq!(log.iter().map(|l| l["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 2, 1]);
    assert!(log.iter().all(|l| l["type"] == "commit" && l["stored_bytes"].as_u64() > Some(100)), "{log:?}");
    assert_eq!(log[2]["time"], "2023-11-14T22:13:21Z");
    assert_eq!(lines(&["log", &url, "--json", "--limit", "1", "--at", "2"])[0]["seq"], 2);
    let names =
        |args: &[&str]| lines(args).iter().map(|l| l["path"].as_str().unwrap_or("?").to_owned()).collect::<Vec<_>>();
    let top = names(&["ls", &url, "--json", "--at", "1"]);
    assert!(top.contains(&"d".to_owned()) && top.contains(&"?".to_owned()) && !top.iter().any(|p| p.contains('/')));
    assert_eq!(names(&["ls", &url, "d/e", "--json", "--at", "1"]), ["d/e/also large"]);
    assert_eq!(names(&["ls", &url, "/small", "--json"]), ["small"]);
    let all = names(&["ls", &url, "-r", "--json"]);
    assert_eq!(all.iter().filter(|p| p.starts_with("many/")).count(), 300);
    assert_eq!(code(&tracker(&["ls", &url, "nope"])), 1);
    for (path, seq) in
        [("d/large", 1), ("d/large", 2), ("sparse", 1), ("many/17", 3), ("empty", 1), ("small sparse", 3)]
    {
        let done = tracker(&["cat", &url, path, "--at", &seq.to_string()]);
        assert_eq!(code(&done), 0, "{}", text(&done));
        assert!(done.stdout == fs::read(bed.states[seq - 1].join(path)).unwrap(), "{path} at {seq}");
    }
    assert_eq!(code(&tracker(&["cat", &url, "d"])), 1);
    assert_eq!(code(&tracker(&["cat", &url, "nope"])), 1);
    flip(&bed.objects("packs")[0], 100);
    assert_eq!(
        code(&tracker(&["cat", &url, "d/large", "--at", "1"]))
            + code(&tracker(&["cat", &url, "d/middle", "--at", "1"])),
        21
    );
}

#[test]
fn a_huge_sparse_file_costs_its_data() {
    use engine::model::*;
    use engine::tree::{RootHasher, RootKind};
    const HOLE: u64 = 40 << 30;
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(&dir.path().join("store"), 4096);
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    volume.commit(&source, 500_000);
    let id = volume.manifest.resolve(b"f").unwrap();
    let (head, tail) = (trees::noise(1, 300_000), trees::noise(2, 5000));
    let mut hasher = RootHasher::new(RootKind::Sparse);
    hasher.bytes(&head);
    hasher.hole(HOLE);
    hasher.bytes(&tail);
    let size = HOLE + 305_000;
    let ops = vec![Op::Literal(head.clone()), Op::Hole { len: HOLE }, Op::Literal(tail.clone())];
    let content = Content { size, root: hasher.finish(), base: None, ops };
    let change = FileChange { id, meta: None, content: Some(content) };
    volume.commit_changes(ChangeSet { files: vec![change], ..ChangeSet::default() }, 0);
    let url = dir.path().join("store").join(NAME);
    let (url, out) = (url.to_str().unwrap(), dir.path().join("out"));
    let done = tracker(&["restore", url, out.to_str().unwrap()]);
    assert_eq!(code(&done), 0, "{}", text(&done));
    let found = fs::metadata(out.join("f")).unwrap();
    use std::os::unix::fs::{FileExt, MetadataExt};
    assert_eq!(found.len(), size);
    assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
    let mut back = vec![0; tail.len()];
    fs::File::open(out.join("f")).unwrap().read_exact_at(&mut back, size - tail.len() as u64).unwrap();
    assert!(back == tail);
    let verified = tracker(&["verify", url, "--read-data"]);
    assert_eq!(code(&verified), 0, "{}", text(&verified));
    let again = tracker(&["restore", url, out.to_str().unwrap(), "--merge", "--json"]);
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((again["kept"].as_u64(), again["requests"].as_u64()), (Some(1), Some(0)), "{again}");
}

#[test]
fn an_object_that_vanishes_meanwhile_is_planned_around_once() {
    use tracker::repository;
    use tracker::repository::RestoreOptions;
    use tracker::store::fault::{Fault, Faulty, Rule};
    use tracker::store::{ErrorKind, Op};
    let bed = Bed::new(4096);
    for (times, fine) in [(1, true), (1_000, false)] {
        let fault = Fault::Before(ErrorKind::NotFound);
        let rule = Rule { op: Some(Op::GetRange), key: "packs/".into(), nth: 3, times, fault };
        let store = std::sync::Arc::new(Faulty::scripted(bed.volume.store.clone(), vec![rule]));
        let reader = repository::open(store, NAME).unwrap();
        let target = bed.path(&format!("out-{times}"));
        let done = repository::restore(&reader, Seq(3), &target, &RestoreOptions::default());
        match done {
            Ok(report) if fine => {
                assert_eq!(report.failed.count, 0);
                bed.assert_state(&format!("out-{times}"), 3);
            }
            Ok(report) if report.failed.count > 0 => {
                assert!(report.failed.first.iter().all(|failed| failed.cause.contains("vol/packs/")), "{report:?}");
                assert_no_false_file(&bed, &format!("out-{times}"), 3);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_cannot_be_given_is_said() {
    use engine::model::*;
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(&dir.path().join("store"), 4096);
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    volume.commit(&source, 500_000);
    let root = volume.manifest.get(FileId::ROOT).unwrap().meta.clone();
    let id = volume.manifest.resolve(b"f").unwrap();
    let (uid, gid) = (54_321, 54_322);
    let file = Meta { uid, gid, mode: 0o6755, ..volume.manifest.get(id).unwrap().meta.clone() };
    let device = Meta { kind: Kind::CharDevice, rdev: rustix::fs::makedev(1, 3), mode: 0o666, ..root };
    let change = |id, meta| FileChange { id, meta: Some(meta), content: None };
    let name = NameChange::Set { parent: FileId::ROOT, name: b"null".to_vec(), id: FileId(900) };
    let files = vec![change(id, file), change(FileId(900), device)];
    volume.commit_changes(ChangeSet { files, names: vec![name], ..ChangeSet::default() }, 0);
    let url = dir.path().join("store").join(NAME);
    let run = |target: &str, more: &[&str]| {
        let target = dir.path().join(target);
        let mut args = vec!["restore", "--json", url.to_str().unwrap(), target.to_str().unwrap()];
        args.extend(more);
        let done = tracker(&args);
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        let of = |key: &str| report[key].as_array().unwrap().iter().map(|w| w["path"].clone()).collect::<Vec<_>>();
        (code(&done), of("partial"), of("left_out"), fs::metadata(target.join("f")).unwrap())
    };
    let root = rustix::process::geteuid().is_root();
    let (partial_code, partial, left_out, found) = run("out", &[]);
    assert!(left_out.is_empty());
    assert_eq!(partial_code, if partial.is_empty() { 0 } else { 3 });
    if root && partial.is_empty() {
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (uid, gid, 0o6755));
    } else {
        // Root without all capabilities may change owners, but not create devices.
        assert!(partial.iter().any(|path| path == "null"), "{partial:?}");
        assert!(root || (partial.iter().any(|path| path == "f") && found.mode() & 0o7777 == 0o755), "{partial:?}");
    }
    let (untrusted_code, _, left_out, found) = run("untrusted", &["--untrusted"]);
    assert_eq!(untrusted_code, if root { 0 } else { 3 });
    assert!(left_out.iter().any(|path| path == "null"));
    assert_eq!(found.mode() & 0o7777, 0o755);
    assert!(!dir.path().join("untrusted/null").exists());
}

/// A store from before the encoder refused it holds a symlink that cannot be created: `verify` names commit and path.
#[test]
fn an_entry_that_no_restore_can_make_is_named_by_verify() {
    let mut bed = Bed::new(4096);
    std::os::unix::fs::symlink("target-to-be-lost", bed.path("source").join("a link")).unwrap();
    bed.commit(500_000);
    assert_eq!(code(&tracker(&["verify", &bed.url()])), 0);
    let object = bed.objects("commits").pop().unwrap();
    let mut bytes = fs::read(&object).unwrap();
    let lost = b"target-to-be-lost";
    let at = bytes.windows(lost.len()).position(|part| part == lost).unwrap();
    bytes[at..at + lost.len()].fill(0);
    let body = bytes.len() - engine::format::CHECKSUM_BYTES;
    let sum = engine::format::codec::checksum(engine::format::commit::CONTEXT, &bytes[..body]);
    bytes[body..].copy_from_slice(&sum);
    fs::write(&object, bytes).unwrap();
    let found = tracker(&["verify", &bed.url()]);
    assert_eq!(code(&found), 21, "{}", text(&found));
    assert!(text(&found).contains("00000004: a link is a symlink with a NUL in its target"), "{}", text(&found));
    // Earlier states can still be restored.
    assert_eq!(code(&bed.restore("before", &["--at", "3"])), 0);
}

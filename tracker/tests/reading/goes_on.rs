//! What a restore still does when it meets damage, a refusal, an interrupt or a target that it must not touch.

use engine::model::Seq;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tracker::repository;
use tracker::repository::{ReadError, RestoreOptions};

use crate::bed::{Bed, code, filetime, flip, text, tracker};
use crate::volume::{NAME, Volume};
use crate::{compare, trees};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn areas(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().as_bytes().starts_with(b".tracker-")).collect()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A volume of six files of noise, each in a commit of its own; then two new versions of the first one.
fn many_commits(dir: &Path) {
    let mut volume = Volume::create(&dir.join("store"), 4096);
    let source = dir.join("source");
    fs::create_dir(&source).unwrap();
    for n in 0..6u64 {
        fs::write(source.join(format!("f{n}")), trees::noise(n, 20_000)).unwrap();
        volume.commit(&source, 0);
    }
    for n in [100, 101] {
        fs::write(source.join("f0"), trees::noise(n, 20_000)).unwrap();
        volume.commit(&source, 0);
    }
}

#[test]
fn one_damaged_block_costs_one_file_and_the_last_whole_version_is_named() {
    let dir = tempfile::tempdir().unwrap();
    many_commits(dir.path());
    let url = dir.path().join("store").join(NAME);
    let pack = |seq: u64| {
        let prefix = format!("{seq:020}-");
        let mut packs = fs::read_dir(url.join("packs")).unwrap().map(|entry| entry.unwrap().path());
        packs.find(|path| path.file_name().unwrap().as_bytes().starts_with(prefix.as_bytes())).unwrap()
    };
    // The newest version of f0, and the one before; f3 has no other version.
    for seq in [8, 7, 4] {
        flip(&pack(seq), 9_000);
    }
    let out = dir.path().join("out");
    let done = tracker(&["restore", url.to_str().unwrap(), out.to_str().unwrap(), "--json"]);
    assert_eq!(code(&done), 3, "{}", text(&done));
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["failed_count"], 2, "{report}");
    let failed = report["failed"].as_array().unwrap();
    let of = |path: &str| failed.iter().find(|failed| failed["path"] == path).unwrap();
    assert!(of("f0")["cause"].as_str().unwrap().contains("vol/packs/"), "{report}");
    assert_eq!((of("f0")["whole_in"].as_u64(), of("f3")["whole_in"].as_u64()), (Some(6), None), "{report}");
    assert!(of("f3")["older"].as_str().unwrap().contains("none of the"), "{report}");
    for n in 1..6 {
        let whole = fs::read(out.join(format!("f{n}")));
        assert_eq!(whole.ok(), (n != 3).then(|| trees::noise(n, 20_000)), "f{n}");
    }
    assert!(!out.join("f0").exists() && areas(&out).is_empty());
    assert_eq!(mode(&out), mode(&dir.path().join("source")), "directories are finished all the same");
    let cat = tracker(&["cat", url.to_str().unwrap(), "f0", "--at", "6"]);
    assert!(code(&cat) == 0 && cat.stdout == trees::noise(0, 20_000), "{}", text(&cat));
    let told = tracker(&["restore", url.to_str().unwrap(), dir.path().join("told").to_str().unwrap()]);
    assert!(text(&told).contains("not restored: f0: vol/packs/"), "{}", text(&told));
    assert!(text(&told).contains("commit 6 of "), "{}", text(&told));
    // Into an existing older tree: the older file stays.
    fs::write(out.join("f3"), "older").unwrap();
    let merged = tracker(&["restore", url.to_str().unwrap(), out.to_str().unwrap(), "--merge"]);
    assert_eq!((code(&merged), fs::read(out.join("f3")).unwrap()), (3, b"older".to_vec()), "{}", text(&merged));
}

#[test]
fn an_entry_that_cannot_be_made_is_named_and_the_rest_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(&dir.path().join("store"), 4096);
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("d")).unwrap();
    fs::write(source.join("d/f"), "x").unwrap();
    fs::write(source.join("g"), "y").unwrap();
    volume.commit(&source, 500_000);
    // As in a store from before the encoder refused it: a symlink with an impossible target.
    std::os::unix::fs::symlink("target-to-be-lost", source.join("..data")).unwrap();
    volume.commit(&source, 500_000);
    fs::remove_file(source.join("..data")).unwrap();
    let object = dir.path().join("store").join(NAME).join(format!("commits/{:020}", 2));
    let mut bytes = fs::read(&object).unwrap();
    let lost = b"target-to-be-lost";
    let at = bytes.windows(lost.len()).position(|part| part == lost).unwrap();
    bytes[at..at + lost.len()].fill(0);
    let body = bytes.len() - engine::format::CHECKSUM_BYTES;
    let sum = engine::format::codec::checksum(engine::format::commit::CONTEXT, &bytes[..body]);
    bytes[body..].copy_from_slice(&sum);
    fs::write(&object, bytes).unwrap();
    let (url, out) = (dir.path().join("store").join(NAME), dir.path().join("out"));
    let done = tracker(&["restore", url.to_str().unwrap(), out.to_str().unwrap()]);
    assert_eq!(code(&done), 3, "{}", text(&done));
    assert!(text(&done).contains("not restored: ..data: "), "{}", text(&done));
    filetime(&source, &out);
    compare::assert_same(&source, &out);
}

#[test]
fn a_directory_in_the_way_of_its_mode_is_opened_for_the_restore() {
    let bed = Bed::new(4096);
    for mode in [0o555, 0o000] {
        let out = bed.path(&format!("out-{mode:o}"));
        fs::create_dir(&out).unwrap();
        fs::set_permissions(&out, fs::Permissions::from_mode(mode)).unwrap();
        if mode == 0 && !is_root() {
            // Only root can see that it is empty.
            continue;
        }
        let done = bed.restore(&format!("out-{mode:o}"), &[]);
        assert_eq!(code(&done), 0, "{}", text(&done));
        bed.assert_state(&format!("out-{mode:o}"), 3);
    }
}

#[test]
fn an_ended_restore_leaves_whole_files_and_a_closed_target() {
    static STOP: AtomicBool = AtomicBool::new(true);
    let bed = Bed::new(4096);
    let reader = repository::open(bed.volume.store.clone(), NAME).unwrap();
    let options = RestoreOptions { stop: Some(&STOP), ..RestoreOptions::default() };
    let ended = repository::restore(&reader, Seq(3), &bed.path("out"), &options).unwrap_err();
    assert!(
        matches!(&ended, ReadError::Stopped { restored: 0, cause, .. } if matches!(**cause, ReadError::Interrupted))
    );
    assert_eq!((mode(&bed.path("out")), areas(&bed.path("out")).len()), (0o700, 0));
}

/// A restore of the newest commit that is stopped in the middle.
fn halted(bed: &Bed, target: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tracker"))
        .args(["restore", &bed.url(), target.to_str().unwrap(), "--merge"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while areas(target).is_empty() {
        assert!(Instant::now() < until && child.try_wait().unwrap().is_none(), "no restore to halt");
    }
    signal(&child, rustix::process::Signal::STOP);
    child
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_restore_that_is_interrupted_leaves_nothing_of_its_own() {
    use rustix::process::Signal;
    let bed = Bed::new(4096);
    // A commit that takes a while to restore.
    let many = bed.path("source/more");
    let mut bed = bed;
    fs::create_dir(&many).unwrap();
    for n in 0..600 {
        fs::write(many.join(n.to_string()), n.to_string()).unwrap();
    }
    bed.commit(500_000);
    let out = bed.path("out");
    let child = halted(&bed, &out);
    signal(&child, Signal::TERM);
    signal(&child, Signal::CONT);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", text(&ended));
    assert!(text(&ended).contains("interrupted"), "{}", text(&ended));
    assert_eq!((areas(&out).len(), mode(&out)), (0, 0o700));
    // A killed restore leaves its area, which the next one removes.
    let mut child = halted(&bed, &out);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(areas(&out).len(), 1);
    let done = bed.restore("out", &["--merge"]);
    assert_eq!(code(&done), 0, "{}", text(&done));
    bed.assert_state("out", 4);
}

#[test]
fn a_store_is_no_target() {
    let bed = Bed::new(4096);
    fs::create_dir_all(bed.path("state/inner")).unwrap();
    let state = bed.path("state");
    std::os::unix::fs::symlink(bed.path("store"), bed.path("link")).unwrap();
    let run = |url: &str, target: PathBuf, more: &[&str]| {
        let mut args = vec!["restore", url, target.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
        args.extend(more);
        let done = Command::new(env!("CARGO_BIN_EXE_tracker")).args(args).current_dir(bed.dir.path()).output().unwrap();
        assert_eq!(code(&done), 22, "{} {}", target.display(), text(&done));
    };
    let url = bed.url();
    for url in [url.as_str(), "./store/vol", "store/vol"] {
        run(url, bed.path("store/vol/inside"), &[]);
        run(url, bed.path("store/beside"), &[]);
        run(url, bed.path("link/vol/deep/er"), &[]);
        run(url, bed.path("store"), &["--merge"]);
        run(url, bed.dir.path().to_path_buf(), &["--merge"]);
        run(url, bed.path("state/inner"), &[]);
        run(url, bed.path("state/new"), &[]);
    }
    assert!(!bed.path("store/beside").exists() && !bed.path("state/new").exists());
    let verified = tracker(&["verify", &bed.url()]);
    assert_eq!(code(&verified), 0, "{}", text(&verified));
}

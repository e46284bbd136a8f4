//! Others who may write to the target, or read it: what they substitute for an entry, and what they can see meanwhile.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use engine::model::{Kind, Meta};

use crate::target::tests::{fresh, fresh_with, is_root, meta, plain, rel};
use crate::target::*;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

const MERGE: TargetOptions = TargetOptions { untrusted: false, flags_known: true, sync: false, merge: true };

#[test]
fn what_takes_the_place_of_an_equal_file_is_not_touched() {
    let (dir, target) = fresh_with(MERGE);
    let path = dir.path().join("f");
    for kind in ["file", "symlink", "directory"] {
        fs::write(&path, "equal").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        fs::write(dir.path().join("victim"), "mine").unwrap();
        fs::set_permissions(dir.path().join("victim"), Permissions::from_mode(0o600)).unwrap();
        let wanted = meta(Kind::File, 0o640);
        // The moment between the comparison and the setting of attributes.
        let swap = |_: &fs::File| {
            fs::rename(&path, dir.path().join("compared")).unwrap();
            match kind {
                "file" => fs::rename(dir.path().join("victim"), &path).unwrap(),
                "symlink" => symlink("victim", &path).unwrap(),
                _ => fs::create_dir(&path).unwrap(),
            }
            true
        };
        let kept = target.keep(&[rel("f")], 5, &wanted, true, swap).unwrap();
        assert!(!kept, "{kind}: the name leads to another inode");
        let other = if kind == "symlink" { dir.path().join("victim") } else { path.clone() };
        assert_eq!(mode(&other), if kind == "directory" { 0o755 } else { 0o600 }, "{kind}");
        assert_ne!(fs::symlink_metadata(&path).unwrap().mtime(), wanted.mtime.sec, "{kind}");
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    }
}

#[test]
fn a_file_that_changes_while_it_is_compared_is_not_kept() {
    let (dir, target) = fresh_with(MERGE);
    let path = dir.path().join("f");
    fs::write(&path, "equal").unwrap();
    let before = mode(&path);
    let change = |_: &fs::File| {
        // So that the change time advances whatever its granularity.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, "other").unwrap();
        true
    };
    assert!(!target.keep(&[rel("f")], 5, &meta(Kind::File, 0o600), true, change).unwrap());
    assert_eq!(mode(&path), before);
}

#[test]
fn a_file_that_another_could_write_is_made_anew_for_a_new_owner_or_privilege() {
    if !is_root() {
        println!("SKIP a_file_that_another_could_write_is_made_anew_for_a_new_owner_or_privilege: not root");
        return;
    }
    let (dir, target) = fresh_with(MERGE);
    let path = dir.path().join("f");
    let theirs = |uid, mode| {
        let _ = fs::remove_file(&path);
        fs::write(&path, "equal").unwrap();
        std::os::unix::fs::chown(&path, Some(uid), Some(uid)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    };
    let keep = |meta: &Meta| target.keep(&[rel("f")], 5, meta, true, |_| true).unwrap();
    let of = |uid, mode| Meta { uid, gid: uid, ..meta(Kind::File, mode) };
    for (uid, mode, wanted, kept) in [
        (1234, 0o644, of(1234, 0o600), true),
        (1234, 0o644, of(0, 0o644), false),
        (1234, 0o644, of(4321, 0o644), false),
        (1234, 0o644, of(1234, 0o4755), false),
        (1234, 0o2755, of(1234, 0o2755), true),
        (0, 0o644, of(1234, 0o644), true),
        (0, 0o666, of(1234, 0o644), false),
    ] {
        theirs(uid, mode);
        assert_eq!(keep(&wanted), kept, "{uid} {mode:o} {wanted:?}");
        if !kept {
            assert_eq!(fs::metadata(&path).unwrap().uid(), uid);
        }
    }
}

#[test]
fn a_directory_that_is_swapped_gets_neither_entries_nor_attributes() {
    let (dir, target) = fresh();
    let outer = meta(Kind::Dir, 0o755);
    target.make_dir(rel("a"), &outer).unwrap();
    fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
    fs::create_dir(dir.path().join("a")).unwrap();
    fs::set_permissions(dir.path().join("a"), Permissions::from_mode(0o711)).unwrap();
    assert!(matches!(target.create_file(rel("a/f"), 0, &plain()), Err(TargetError::NotOurs { .. })));
    assert!(matches!(target.make_dir(rel("a/d"), &outer), Err(TargetError::NotOurs { .. })));
    let special = target.make_special(&[rel("a/p")], &meta(Kind::Fifo, 0o600));
    assert!(matches!(special, Err(TargetError::NotOurs { .. })));
    assert!(matches!(target.finish_dir(rel("a"), &outer), Err(TargetError::NotOurs { .. })));
    assert_eq!((mode(&dir.path().join("a")), fs::read_dir(dir.path().join("a")).unwrap().count()), (0o711, 0));
}

#[test]
fn nobody_else_enters_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let target = Target::open(dir.path(), TargetOptions::default()).unwrap();
    target.prepare(&meta(Kind::Dir, 0o755)).unwrap();
    target.make_dir(rel("d"), &meta(Kind::Dir, 0o755)).unwrap();
    let area = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).find(|p| !p.ends_with("d")).unwrap();
    for closed in [dir.path(), &dir.path().join("d"), &area] {
        assert_eq!(mode(closed), 0o700, "{}", closed.display());
    }
    // Not finished: it stays closed, and the area is gone.
    drop(target);
    assert_eq!((mode(dir.path()), area.exists()), (0o700, false));
    let target = Target::open(dir.path(), MERGE).unwrap();
    fs::set_permissions(dir.path().join("d"), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(dir.path().join("e")).unwrap();
    fs::set_permissions(dir.path().join("e"), Permissions::from_mode(0o755)).unwrap();
    target.prepare(&meta(Kind::Dir, 0o755)).unwrap();
    // Onto an existing tree: nobody loses rights that the new mode gives too, and other rights are removed at once.
    target.make_dir(rel("d"), &meta(Kind::Dir, 0o750)).unwrap();
    target.make_dir(rel("e"), &meta(Kind::Dir, 0o700)).unwrap();
    assert_eq!((mode(&dir.path().join("d")), mode(&dir.path().join("e"))), (0o750, 0o700));
    target.finish_dir(rel(""), &meta(Kind::Dir, 0o711)).unwrap();
    assert_eq!(mode(dir.path()), 0o711);
}

#[test]
fn leftovers_of_older_versions_are_removed_if_nobody_names_them() {
    let (dir, target) = fresh_with(MERGE);
    let dead = format!(".tracker-{}-3.tmp", i32::MAX);
    let alive = format!(".tracker-{}-3.tmp", std::process::id());
    for name in [&dead, &alive, ".tracker-x-3.tmp"] {
        fs::write(dir.path().join(name), "half").unwrap();
    }
    fs::create_dir(dir.path().join(format!(".tracker-{}-4.tmp", i32::MAX))).unwrap();
    assert_eq!(target.remove_old_temporaries(rel(""), |path| path == rel(&dead)).unwrap(), [] as [PathBuf; 0]);
    assert_eq!(target.remove_old_temporaries(rel(""), |_| false).unwrap(), [PathBuf::from(&dead)]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
}

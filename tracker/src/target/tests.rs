//! Restored files and attributes, checked with plain system calls.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use engine::model::{Kind, Meta, Time};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::target::*;

pub(crate) fn fresh() -> (TempDir, Target) {
    fresh_with(TargetOptions::default())
}

pub(crate) fn fresh_with(options: TargetOptions) -> (TempDir, Target) {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::open(dir.path(), options).unwrap();
    target.prepare(&meta(Kind::Dir, 0o755)).unwrap();
    (dir, target)
}

pub(crate) fn rel(path: &str) -> &Path {
    Path::new(path)
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn plain() -> Meta {
    meta(Kind::File, 0o600)
}

pub(crate) fn meta(kind: Kind, mode: u32) -> Meta {
    Meta {
        kind,
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Time { sec: 1_234_567_890, nsec: 987_654_321 },
        rdev: 0,
        target: Vec::new(),
        xattrs: Vec::new(),
        flags: 0,
        project: 0,
    }
}

fn mtime(path: &Path) -> (i64, i64) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.mtime(), found.mtime_nsec())
}

const TIME: (i64, i64) = (1_234_567_890, 987_654_321);

/// Names that a restore creates for itself, except its running area.
fn leftovers(dir: &Path) -> usize {
    fs::read_dir(dir)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".tracker-"))
        .map(|area| fs::read_dir(area.unwrap().path()).unwrap().count() - 1)
        .sum()
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let (dir, target) = fresh_with(TargetOptions { sync: true, ..Default::default() });
    assert!(target.is_empty().unwrap());
    let path = dir.path().join("f");
    let file = target.create_file(rel("f"), 1 << 20, &plain()).unwrap();
    file.write_at(1 << 19, b"middle").unwrap();
    assert!(!path.exists());
    let mut buffer = [0; 6];
    assert_eq!(file.read_at(1 << 19, &mut buffer).unwrap(), 6);
    assert_eq!(&buffer, b"middle");
    file.finish(&meta(Kind::File, 0o640), &[rel("f")]).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.size(), found.mode() & 0o7777), (1 << 20, 0o640));
    assert_eq!(mtime(&path), TIME);
    assert!(found.blocks() * 512 < 1 << 19, "what was not written is a hole: {} blocks", found.blocks());
    drop(target.create_file(rel("g"), 10, &plain()).unwrap());
    assert_eq!((leftovers(dir.path()), dir.path().join("g").exists()), (0, false));
    assert!(!target.is_empty().unwrap());
    assert_eq!(target.warnings(), Default::default());
}

#[test]
fn an_older_file_is_replaced_and_a_directory_is_not() {
    let (dir, target) = fresh();
    fs::write(dir.path().join("f"), "old and longer").unwrap();
    fs::hard_link(dir.path().join("f"), dir.path().join("other")).unwrap();
    let file = target.create_file(rel("f"), 3, &plain()).unwrap();
    file.write_at(0, b"new").unwrap();
    file.finish(&meta(Kind::File, 0o600), &[rel("f")]).unwrap();
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"new");
    assert_eq!(fs::read(dir.path().join("other")).unwrap(), b"old and longer");
    fs::create_dir(dir.path().join("d")).unwrap();
    let file = target.create_file(rel("d"), 0, &plain()).unwrap();
    assert_eq!(file.finish(&meta(Kind::File, 0o600), &[rel("d")]).unwrap().len(), 1);
    assert_eq!(leftovers(dir.path()), 0);
    target.remove(rel("d")).unwrap();
    target.create_file(rel("d"), 0, &plain()).unwrap().finish(&meta(Kind::File, 0o600), &[rel("d")]).unwrap();
}

#[test]
fn a_punched_range_is_a_hole_again() {
    let (dir, target) = fresh();
    let file = target.create_file(rel("f"), 1 << 20, &plain()).unwrap();
    file.write_at(0, &vec![1; 1 << 20]).unwrap();
    file.punch(4096, (1 << 20) - 8192).unwrap();
    file.punch(0, 0).unwrap();
    file.finish(&meta(Kind::File, 0o600), &[rel("f")]).unwrap();
    let bytes = fs::read(dir.path().join("f")).unwrap();
    assert!(bytes[4096..(1 << 20) - 4096].iter().all(|byte| *byte == 0) && bytes[0] == 1 && bytes[4095] == 1);
    assert_eq!(bytes[(1 << 20) - 4096], 1);
    assert!(fs::metadata(dir.path().join("f")).unwrap().blocks() * 512 < 1 << 19);
}

#[test]
fn nothing_is_written_outside() {
    let (dir, target) = fresh();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "kept").unwrap();
    symlink(outside.path(), dir.path().join("out")).unwrap();
    symlink(outside.path().join("victim"), dir.path().join("v")).unwrap();
    for path in ["out/f", "../f", "/f", "out/victim"] {
        assert!(target.create_file(rel(path), 1, &plain()).is_err(), "{path}");
        assert!(target.make_dir(rel(path), &meta(Kind::Dir, 0o755)).is_err(), "{path}");
        assert!(target.make_special(&[rel(path)], &meta(Kind::Fifo, 0o600)).is_err(), "{path}");
        assert!(target.remove(rel(path)).is_err(), "{path}");
    }
    for path in ["", "..", "a/.."] {
        assert!(target.create_file(rel(path), 1, &plain()).is_err(), "{path}");
    }
    assert!(target.make_dir(rel("out"), &meta(Kind::Dir, 0o755)).is_err(), "a symlink to a directory is no directory");
    assert!(!target.keep(&[rel("out/victim")], 4, &meta(Kind::File, 0o777), true, |_| true).unwrap());
    // Over a symlink: the link itself is replaced.
    target.create_file(rel("v"), 0, &plain()).unwrap().finish(&meta(Kind::File, 0o600), &[rel("v")]).unwrap();
    assert!(fs::symlink_metadata(dir.path().join("v")).unwrap().is_file());
    target.remove(rel("out")).unwrap();
    assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn directories_are_finished_from_below() {
    let (dir, target) = fresh();
    target.make_dir(rel("a"), &meta(Kind::Dir, 0o755)).unwrap();
    target.make_dir(rel("a/b"), &meta(Kind::Dir, 0o755)).unwrap();
    target.create_file(rel("a/b/f"), 0, &plain()).unwrap().finish(&meta(Kind::File, 0o600), &[rel("a/b/f")]).unwrap();
    target.finish_dir(rel("a/b"), &meta(Kind::Dir, 0o500)).unwrap();
    target.finish_dir(rel("a"), &meta(Kind::Dir, 0o1755)).unwrap();
    target.finish_dir(rel(""), &meta(Kind::Dir, 0o700)).unwrap();
    for (path, mode) in [("a/b", 0o500), ("a", 0o1755), ("", 0o700)] {
        let found = fs::metadata(dir.path().join(path)).unwrap();
        assert_eq!((found.mode() & 0o7777, mtime(&dir.path().join(path))), (mode, TIME), "{path:?}");
    }
    // A second run onto the existing tree: closed directories are opened for it.
    target.make_dir(rel("a/b"), &meta(Kind::Dir, 0o755)).unwrap();
    target.create_file(rel("a/b/g"), 0, &plain()).unwrap().finish(&meta(Kind::File, 0o600), &[rel("a/b/g")]).unwrap();
    let mut names = target.names(rel("a/b")).unwrap();
    names.sort();
    assert_eq!(names, ["f", "g"]);
    target.remove(rel("a")).unwrap();
    target.remove(rel("a")).unwrap();
    assert!(target.is_empty().unwrap());
}

#[test]
fn special_files_are_made_with_their_attributes() {
    let (dir, target) = fresh();
    let link = Meta { target: b"no\xffwhere".to_vec(), ..meta(Kind::Symlink, 0o777) };
    assert!(target.make_special(&[rel("s")], &link).unwrap().is_empty());
    assert!(target.make_special(&[rel("p")], &meta(Kind::Fifo, 0o642)).unwrap().is_empty());
    assert!(target.make_special(&[rel("k")], &meta(Kind::Socket, 0o600)).unwrap().is_empty());
    // Once more, onto what is there.
    assert!(target.make_special(&[rel("p")], &meta(Kind::Socket, 0o604)).unwrap().is_empty());
    use std::os::unix::ffi::OsStrExt;
    assert_eq!(fs::read_link(dir.path().join("s")).unwrap().as_os_str().as_bytes(), b"no\xffwhere");
    let found = fs::symlink_metadata(dir.path().join("p")).unwrap();
    assert!(found.file_type().is_socket() && found.mode() & 0o7777 == 0o604);
    for name in ["s", "p", "k"] {
        assert_eq!(mtime(&dir.path().join(name)), TIME, "{name}");
    }
    assert!(target.make_special(&[rel("x")], &meta(Kind::File, 0o600)).is_err());
    assert_eq!(leftovers(dir.path()), 0);
}

#[test]
fn hard_links_are_links_also_the_second_time() {
    let (dir, target) = fresh();
    target.make_dir(rel("d"), &meta(Kind::Dir, 0o755)).unwrap();
    let ino = |path: &str| fs::symlink_metadata(dir.path().join(path)).unwrap().ino();
    for _ in 0..2 {
        let file = target.create_file(rel("f"), 0, &plain()).unwrap();
        assert!(file.finish(&meta(Kind::File, 0o600), &[rel("f"), rel("d/g"), rel("h")]).unwrap().is_empty());
        assert_eq!((ino("f"), ino("f")), (ino("d/g"), ino("h")));
        let link = Meta { target: b"x".to_vec(), ..meta(Kind::Symlink, 0o777) };
        assert!(target.make_special(&[rel("s"), rel("d/t")], &link).unwrap().is_empty());
        assert_eq!(ino("s"), ino("d/t"));
    }
    // A name that cannot be given is reported, and the others are given.
    let file = target.create_file(rel("k"), 0, &plain()).unwrap();
    let failed = file.finish(&meta(Kind::File, 0o600), &[rel("none/x"), rel("k"), rel("d")]).unwrap();
    assert_eq!(failed.iter().map(|name| name.path.as_path()).collect::<Vec<_>>(), [rel("none/x"), rel("d")]);
    assert_eq!(fs::metadata(dir.path().join("k")).unwrap().nlink(), 1);
    assert_eq!(leftovers(dir.path()), 0);
}

#[test]
fn attributes_replace_those_that_were_there() {
    let (dir, target) = fresh();
    let path = dir.path().join("f");
    fs::write(&path, "x").unwrap();
    if let Err(errno) = rustix::fs::setxattr(&path, "user.old", b"1", rustix::fs::XattrFlags::empty()) {
        println!("SKIP attributes_replace_those_that_were_there: {errno}");
        return;
    }
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    let mut wanted = meta(Kind::File, 0o444);
    wanted.xattrs = vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.overlay.opaque".to_vec(), b"y".to_vec())];
    assert!(target.keep(&[rel("f")], 1, &wanted, true, |_| true).unwrap());
    let fd = fs::File::open(&path).unwrap();
    let found = crate::source::xattrs::xattrs(&fd).unwrap();
    assert_eq!(found.into_iter().filter(|(name, _)| name.starts_with(b"user.")).collect::<Vec<_>>(), wanted.xattrs);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o444);
    assert_eq!(target.warnings().0.count, 0);
    // There is no such name space: that is reported, and the rest is set.
    wanted.xattrs = vec![(b"nonsense.x".to_vec(), Vec::new())];
    assert!(target.keep(&[rel("f")], 1, &wanted, true, |_| true).unwrap());
    assert!(
        matches!(&target.warnings().0.first[..], [Warning { what: Shortfall::Xattr { name, .. }, .. }] if name == b"nonsense.x")
    );
}

#[test]
fn an_acl_keeps_its_mask_and_the_mode() {
    let (dir, target) = fresh();
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1u16, 6u16, u32::MAX), (2, 6, 1234), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)]
    {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&perm.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let mut wanted = meta(Kind::File, 0o660);
    wanted.xattrs = vec![(b"system.posix_acl_access".to_vec(), acl.clone()), (b"user.a".to_vec(), b"1".to_vec())];
    target.create_file(rel("f"), 0, &plain()).unwrap().finish(&wanted, &[rel("f")]).unwrap();
    if target.warnings().0.count > 0 {
        println!("SKIP an_acl_keeps_its_mask_and_the_mode: {:?}", target.warnings().0.first);
        return;
    }
    let mut buffer = [0; 256];
    let path = dir.path().join("f");
    let len = rustix::fs::getxattr(&path, "system.posix_acl_access", &mut buffer[..]).unwrap();
    assert_eq!(&buffer[..len], &acl[..]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
}

#[test]
fn an_inherited_acl_does_not_stay() {
    let (dir, target) = fresh();
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1u16, 7u16, u32::MAX), (2, 7, 1234), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)]
    {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&perm.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let set = rustix::fs::setxattr(dir.path(), "system.posix_acl_default", &acl, rustix::fs::XattrFlags::empty());
    if let Err(errno) = set {
        println!("SKIP an_inherited_acl_does_not_stay: {errno}");
        return;
    }
    target.create_file(rel("f"), 0, &plain()).unwrap().finish(&meta(Kind::File, 0o640), &[rel("f")]).unwrap();
    let found = rustix::fs::getxattr(dir.path().join("f"), "system.posix_acl_access", &mut [0; 256][..]);
    assert_eq!(found, Err(Errno::NODATA));
    assert_eq!(fs::metadata(dir.path().join("f")).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn what_may_not_be_given_is_a_warning_and_takes_setuid_with_it() {
    let (dir, target) = fresh();
    let other = Meta { uid: 12_345, gid: 12_346, ..meta(Kind::File, 0o6755) };
    target.create_file(rel("f"), 0, &plain()).unwrap().finish(&other, &[rel("f")]).unwrap();
    let found = fs::metadata(dir.path().join("f")).unwrap();
    if is_root() {
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (12_345, 12_346, 0o6755));
        assert_eq!(target.warnings().0.count, 0);
    } else {
        assert_eq!(found.mode() & 0o7777, 0o755);
        let expected = Warning { path: "f".into(), what: Shortfall::Owner { uid: 12_345, gid: 12_346 } };
        assert_eq!(target.warnings().0, Bounded { first: vec![expected], count: 1 });
    }
}

#[test]
fn a_strangers_store_gives_no_devices_and_no_privileges() {
    let (dir, target) = fresh_with(TargetOptions { untrusted: true, ..Default::default() });
    let mut wanted = meta(Kind::File, 0o6755);
    wanted.xattrs =
        vec![(b"security.capability".to_vec(), [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec())];
    target.create_file(rel("f"), 0, &plain()).unwrap().finish(&wanted, &[rel("f")]).unwrap();
    let path = dir.path().join("f");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(rustix::fs::getxattr(&path, "security.capability", &mut [0; 64][..]), Err(Errno::NODATA));
    let device = Meta { rdev: 0x103, ..meta(Kind::CharDevice, 0o666) };
    assert!(target.make_special(&[rel("n")], &device).unwrap().is_empty());
    assert!(!dir.path().join("n").exists());
    let (warnings, left_out) = target.warnings();
    let what: Vec<Shortfall> = left_out.first.into_iter().map(|warning| warning.what).collect();
    assert_eq!(what, [Shortfall::Privilege, Shortfall::Privilege, Shortfall::DeviceUnwanted]);
    assert_eq!(warnings.count, 0);
}

#[test]
fn devices_are_made_or_said_to_be_missing() {
    let (dir, target) = fresh();
    let null = Meta { rdev: 0x103, ..meta(Kind::CharDevice, 0o640) };
    assert!(target.make_special(&[rel("n")], &null).unwrap().is_empty());
    if dir.path().join("n").exists() {
        let found = fs::symlink_metadata(dir.path().join("n")).unwrap();
        assert!(found.file_type().is_char_device());
        assert_eq!((found.rdev(), found.mode() & 0o7777), (0x103, 0o640));
    } else {
        println!("SKIP devices: no right to make them");
        assert_eq!(target.warnings().0.first[0].what, Shortfall::Device);
    }
}

#[test]
fn warnings_have_a_bound() {
    let (_dir, target) = fresh();
    (0..BOUNDED_MAX + 5).for_each(|_| target.warn(rel("x"), Shortfall::Device));
    let warnings = target.warnings().0;
    assert_eq!((warnings.first.len(), warnings.count), (BOUNDED_MAX, BOUNDED_MAX as u64 + 5));
}

#[test]
fn what_is_there_can_be_looked_at() {
    let (dir, target) = fresh();
    assert_eq!(target.stat(rel("f")).unwrap(), None);
    fs::write(dir.path().join("f"), "abc").unwrap();
    assert_eq!(target.stat(rel("f")).unwrap().unwrap().stat.size, 3);
}

//! Inode flags of restored entries: which are set, which are removed, and what can be done in a sealed target.

use std::fs::{self, File};
use std::path::Path;

use engine::model::{InodeFlags, Kind, Meta};
use tempfile::TempDir;

use crate::source::flags::{bits, change};
use crate::target::tests::{fresh_with, is_root, meta, plain, rel};
use crate::target::*;

const KNOWN: TargetOptions = TargetOptions { untrusted: false, flags_known: true, sync: false, merge: false };

fn flags_of(path: &Path) -> u32 {
    bits(File::open(path).unwrap()).unwrap().unwrap()
}

fn restore(target: &Target, name: &str, wanted: &Meta) -> usize {
    target.create_file(rel(name), 0, wanted).unwrap().finish(wanted, &[rel(name)]).unwrap().len()
}

/// Whether this test can seal files in the temporary directory; if not, prints that it is skipped.
fn can_seal(test: &str) -> bool {
    let file = tempfile::tempfile().unwrap();
    let can = is_root() && change(&file, InodeFlags::IMMUTABLE, 0).is_ok();
    if can {
        change(&file, 0, InodeFlags::IMMUTABLE).unwrap();
    } else {
        println!("SKIP {test}: no right to make a file immutable, or no such flag here");
    }
    can
}

fn inheriting(options: TargetOptions) -> Option<(TempDir, Target)> {
    let (dir, target) = fresh_with(options);
    // The area exists already: entries made in it must not inherit the target's flags.
    let area = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let given = [dir.path(), &area]
        .iter()
        .map(|dir| change(File::open(dir).unwrap(), InodeFlags::NODUMP | InodeFlags::NOTAIL, 0))
        .all(|given| given.is_ok());
    if !given {
        println!("SKIP inherited flags: the file system has none");
    }
    given.then_some((dir, target))
}

/// How a file may be used is restored from the commit; how it is stored is the target's affair if the commit does not say.
#[test]
fn inherited_flags_stay_only_where_they_say_how_a_file_is_stored() {
    let Some((dir, target)) = inheriting(KNOWN) else { return };
    restore(&target, "f", &plain());
    assert_eq!(flags_of(&dir.path().join("f")), InodeFlags::NOTAIL);
    assert_eq!(target.warnings().0.count, 0);
}

/// A commit of format version 1 does not record flags: none is removed.
#[test]
fn where_flags_are_not_known_none_is_taken_away() {
    let Some((dir, target)) = inheriting(TargetOptions { flags_known: false, ..KNOWN }) else { return };
    restore(&target, "f", &plain());
    assert_eq!(flags_of(&dir.path().join("f")), InodeFlags::NODUMP | InodeFlags::NOTAIL);
}

/// A file without a name is not sealed, so that the area can be removed; one with any name is.
#[test]
fn what_could_not_be_placed_is_not_sealed() {
    if !can_seal("what_could_not_be_placed_is_not_sealed") {
        return;
    }
    let (dir, target) = fresh_with(KNOWN);
    fs::create_dir(dir.path().join("d")).unwrap();
    let sealed = Meta { flags: InodeFlags::IMMUTABLE, ..plain() };
    assert_eq!(restore(&target, "d", &sealed), 1, "a directory is in the way");
    let file = target.create_file(rel("f"), 0, &sealed).unwrap();
    assert_eq!(file.finish(&sealed, &[rel("f"), rel("d")]).unwrap().len(), 1);
    assert_eq!(flags_of(&dir.path().join("f")), InodeFlags::IMMUTABLE);
    drop(target);
    change(File::open(dir.path().join("f")).unwrap(), 0, InodeFlags::IMMUTABLE).unwrap();
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "no area is left: {names:?}");
}

/// No area is made in a directory from which it could not be removed, but in the next directory that allows it.
#[test]
fn no_area_is_made_in_an_append_only_directory() {
    if !can_seal("no_area_is_made_in_an_append_only_directory") {
        return;
    }
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let top = File::open(dir.path()).unwrap();
    change(&top, InodeFlags::APPEND, 0).unwrap();
    let target = Target::open(dir.path(), TargetOptions { merge: true, ..KNOWN }).unwrap();
    target.prepare(&meta(Kind::Dir, 0o755)).unwrap();
    let refused = target.create_file(rel("f"), 0, &plain()).unwrap_err().to_string();
    assert!(refused.contains("immutable or append-only"), "{refused}");
    target.make_dir(rel("d"), &meta(Kind::Dir, 0o755)).unwrap();
    assert_eq!(restore(&target, "d/f", &plain()), 0);
    assert_eq!(restore(&target, "g", &plain()), 0, "entries can be added");
    target.remove_own_areas();
    drop(target);
    change(&top, 0, InodeFlags::APPEND).unwrap();
    assert_eq!(
        (fs::read_dir(dir.path()).unwrap().count(), fs::read_dir(dir.path().join("d")).unwrap().count()),
        (2, 1)
    );
}

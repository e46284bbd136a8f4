//! The oracle finds every kind of difference, and nothing in equal trees.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{FileType, Mode, XattrFlags};
use tests::compare::{Options, compare};

struct Trees {
    dir: tempfile::TempDir,
}

impl Trees {
    /// Makes two equal trees, then sets one mtime everywhere.
    fn new(make: impl Fn(&Path)) -> Trees {
        let trees = Trees { dir: tempfile::tempdir().unwrap() };
        for side in ["source", "copy"] {
            let root = trees.dir.path().join(side);
            fs::create_dir(&root).unwrap();
            make(&root);
            settle(&root);
        }
        trees
    }

    fn copy(&self) -> std::path::PathBuf {
        self.dir.path().join("copy")
    }

    fn found(&self) -> Vec<String> {
        compare(&self.dir.path().join("source"), &self.copy(), Options::default()).unwrap()
    }

    /// Asserts that there is exactly one difference, which contains `part`.
    #[track_caller]
    fn finds(&self, part: &str) {
        let found = self.found();
        assert!(found.len() == 1 && found[0].contains(part), "{part:?} expected, found {found:?}");
    }
}

fn settle(path: &Path) {
    if path.symlink_metadata().unwrap().is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| settle(&entry.unwrap().path()));
    }
    set_mtime(path, 1_000_000_000, 123_456_789);
}

fn set_mtime(path: &Path, sec: i64, nsec: i64) {
    let time = rustix::fs::Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn sample(root: &Path) {
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/f"), vec![7; 600_000]).unwrap();
    fs::write(root.join("g"), "g").unwrap();
    fs::hard_link(root.join("g"), root.join("h")).unwrap();
    symlink("g", root.join("s")).unwrap();
    let file = File::create(root.join("sparse")).unwrap();
    file.write_all_at(b"x", 1 << 20).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("p"), FileType::Fifo, Mode::RUSR, 0).unwrap();
}

fn root_only(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIP {what}: not root");
    }
    root
}

#[test]
fn equal_trees_have_no_difference() {
    assert_eq!(Trees::new(sample).found(), Vec::<String>::new());
}

#[test]
fn a_name_too_few_or_too_many_is_found() {
    let trees = Trees::new(sample);
    fs::remove_file(trees.copy().join("d/f")).unwrap();
    settle(&trees.copy());
    trees.finds("\"d/f\": the file is missing in the copy");
    let trees = Trees::new(sample);
    fs::write(trees.copy().join("d/new"), "").unwrap();
    settle(&trees.copy());
    trees.finds("\"d/new\": is only in the copy");
}

#[test]
fn another_kind_is_found() {
    let trees = Trees::new(sample);
    fs::remove_file(trees.copy().join("p")).unwrap();
    fs::write(trees.copy().join("p"), "").unwrap();
    settle(&trees.copy());
    trees.finds("kind is \"fifo\" in the source, \"file\" in the copy");
}

#[test]
fn one_byte_is_found_with_its_place() {
    let trees = Trees::new(sample);
    let file = File::options().write(true).open(trees.copy().join("d/f")).unwrap();
    file.write_all_at(b"!", 400_001).unwrap();
    settle(&trees.copy());
    trees.finds("content differs from byte 400001 on");
}

#[test]
fn other_inode_flags_are_found() {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    for (name, flag) in [("d/f", IFlags::NODUMP), ("d", IFlags::NOATIME)] {
        let trees = Trees::new(sample);
        let file = File::open(trees.copy().join(name)).unwrap();
        ioctl_setflags(&file, ioctl_getflags(&file).unwrap() | flag).unwrap();
        trees.finds(&format!("{name:?}: inode flags is \"0x0\" in the source, \"{:#x}\" in the copy", flag.bits()));
    }
}

#[test]
fn another_size_is_found() {
    let trees = Trees::new(sample);
    File::options().write(true).open(trees.copy().join("d/f")).unwrap().set_len(599_999).unwrap();
    settle(&trees.copy());
    let found = trees.found();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("size is 600000") && found[1].contains("from byte 599999 on"));
}

#[test]
fn a_filled_hole_is_found_and_a_small_one_is_not() {
    let trees = Trees::new(sample);
    let file = File::options().write(true).open(trees.copy().join("sparse")).unwrap();
    file.write_all_at(&[0; 10], 500_000).unwrap();
    settle(&trees.copy());
    trees.finds("copy has data at");
    let small = |root: &Path| {
        let file = File::create(root.join("f")).unwrap();
        file.write_all_at(b"x", 40_000).unwrap();
    };
    let trees = Trees::new(small);
    fs::write(trees.copy().join("f"), [vec![0; 40_000], b"x".to_vec()].concat()).unwrap();
    settle(&trees.copy());
    assert_eq!(trees.found(), Vec::<String>::new());
}

#[test]
fn a_mode_is_found() {
    let trees = Trees::new(sample);
    fs::set_permissions(trees.copy().join("g"), Permissions::from_mode(0o4711)).unwrap();
    let found = trees.found();
    assert_eq!(found.len(), 2, "both names of the file: {found:?}");
    assert!(found[0].contains("mode is \"0644\" in the source, \"4711\" in the copy"), "{found:?}");
}

#[test]
fn one_nanosecond_is_found_even_on_a_symlink() {
    let trees = Trees::new(sample);
    set_mtime(&trees.copy().join("s"), 1_000_000_000, 123_456_790);
    trees.finds("mtime is (1000000000, 123456789)");
    let trees = Trees::new(sample);
    set_mtime(&trees.copy().join("d"), 1_000_000_001, 123_456_789);
    trees.finds("\"d\": mtime");
}

#[test]
fn a_symlink_target_is_found() {
    let trees = Trees::new(sample);
    fs::remove_file(trees.copy().join("s")).unwrap();
    symlink("h", trees.copy().join("s")).unwrap();
    settle(&trees.copy());
    trees.finds("target is \"g\" in the source, \"h\" in the copy");
}

#[test]
fn a_hard_link_that_became_a_copy_is_found_and_the_reverse() {
    let trees = Trees::new(sample);
    fs::remove_file(trees.copy().join("h")).unwrap();
    fs::write(trees.copy().join("h"), "g").unwrap();
    settle(&trees.copy());
    trees.finds("is the same file as \"g\" in the source, but not in the copy");
    let apart = |root: &Path| ["a", "b"].iter().for_each(|name| fs::write(root.join(name), "same").unwrap());
    let trees = Trees::new(apart);
    fs::remove_file(trees.copy().join("b")).unwrap();
    fs::hard_link(trees.copy().join("a"), trees.copy().join("b")).unwrap();
    settle(&trees.copy());
    trees.finds("is the same file as \"a\" in the copy, but not in the source");
}

#[test]
fn attributes_and_acls_are_found() {
    let trees = Trees::new(sample);
    let path = trees.copy().join("d/f");
    if let Err(errno) = rustix::fs::setxattr(&path, "user.k", b"v", XattrFlags::empty()) {
        eprintln!("SKIP attributes_and_acls_are_found: no user attributes here: {errno}");
        return;
    }
    trees.finds("attribute user.k is only in the copy");
    let with = |root: &Path| {
        sample(root);
        rustix::fs::setxattr(root.join("d/f"), "user.k", b"v", XattrFlags::empty()).unwrap();
    };
    let trees = Trees::new(with);
    let path = trees.copy().join("d/f");
    rustix::fs::setxattr(&path, "user.k", b"w", XattrFlags::empty()).unwrap();
    trees.finds("attribute user.k is [118] in the source, [119] in the copy");
    rustix::fs::removexattr(&path, "user.k").unwrap();
    trees.finds("attribute user.k is missing in the copy");
    // Version 2, then: owner rw, user 1234 r, group r, mask r, others r.
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)]
    {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&perm.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let trees = Trees::new(sample);
    match rustix::fs::setxattr(trees.copy().join("d/f"), "system.posix_acl_access", &acl, XattrFlags::empty()) {
        Ok(()) => trees.finds("attribute system.posix_acl_access is only in the copy"),
        Err(errno) => eprintln!("SKIP ACLs: not on this file system: {errno}"),
    }
}

#[test]
fn owners_and_device_numbers_are_found() {
    if !root_only("owners_and_device_numbers_are_found") {
        return;
    }
    let devices = |root: &Path| {
        rustix::fs::mknodat(rustix::fs::CWD, root.join("n"), FileType::CharacterDevice, Mode::RUSR, 0x103).unwrap();
    };
    let trees = Trees::new(devices);
    std::os::unix::fs::lchown(trees.copy().join("n"), Some(1), Some(2)).unwrap();
    trees.finds("owner is (0, 0) in the source, (1, 2) in the copy");
    let options = Options { ignore_owners: true, ..Options::default() };
    let (source, copy) = (trees.dir.path().join("source"), trees.copy());
    assert_eq!(compare(&source, &copy, options).unwrap(), Vec::<String>::new());
    fs::remove_file(copy.join("n")).unwrap();
    settle(&copy);
    let options = Options { ignore_devices: true, ..Options::default() };
    assert_eq!(compare(&source, &copy, options).unwrap(), Vec::<String>::new());
    trees.finds("the character device is missing in the copy");
    rustix::fs::mknodat(rustix::fs::CWD, copy.join("n"), FileType::CharacterDevice, Mode::RUSR, 0x105).unwrap();
    settle(&copy);
    trees.finds("device number is 259 in the source, 261 in the copy");
}

#[test]
fn a_tree_that_is_all_wrong_is_cut_short() {
    let trees = Trees::new(|_| {});
    (0..300).for_each(|number| fs::write(trees.copy().join(number.to_string()), "").unwrap());
    settle(&trees.copy());
    let found = trees.found();
    assert_eq!((found.len(), found.last().unwrap().as_str()), (201, "... 300 differences in all"));
}

#[test]
fn names_are_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"\xff\n");
    let trees = Trees::new(|root| fs::write(root.join(name), "").unwrap());
    assert_eq!(trees.found(), Vec::<String>::new());
    fs::rename(trees.copy().join(name), trees.copy().join("\u{fffd}\n")).unwrap();
    settle(&trees.copy());
    assert_eq!(trees.found().len(), 2);
}

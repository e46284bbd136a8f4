//! The source tree as a flush sees it, on the file system of the temporary directory.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use engine::model::{Dev, Ino, Kind, Time};
use engine::source::{Alive, FileError, FileOps};
use rustix::fs::{FileType, Mode, XattrFlags};
use tempfile::TempDir;

use super::*;

fn fresh() -> (TempDir, SourceRoot) {
    let dir = tempfile::tempdir().unwrap();
    let root = SourceRoot::open(dir.path()).unwrap();
    (dir, root)
}

fn rel(path: &str) -> &Path {
    Path::new(path)
}

fn mkfifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn a_source_must_be_a_directory() {
    let (dir, _root) = fresh();
    fs::write(dir.path().join("f"), "").unwrap();
    for name in ["f", "none"] {
        assert!(matches!(SourceRoot::open(&dir.path().join(name)), Err(SourceError::Root { .. })), "{name}");
    }
}

#[test]
fn the_mount_of_the_source_is_known() {
    let (dir, root) = fresh();
    assert!(dir.path().canonicalize().unwrap().starts_with(&root.mount().mount_point));
    let dev = fs::metadata(dir.path()).unwrap().dev();
    if !matches!(root.fs(), FsType::Btrfs | FsType::Overlay) {
        assert_eq!(root.marks_dev(), Dev::new(rustix::fs::major(dev), rustix::fs::minor(dev)).unwrap());
        assert_eq!(root.marks_dev(), Dev::of_stat(dev));
    }
    assert_eq!(root.upper().is_some(), root.fs() == FsType::Overlay);
}

#[test]
fn a_replaced_source_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, aside) = (dir.path().join("s"), dir.path().join("aside"));
    fs::create_dir(&path).unwrap();
    let root = SourceRoot::open(&path).unwrap();
    assert_eq!(root.check_identity().unwrap(), IdentityCheck::Same);
    fs::rename(&path, &aside).unwrap();
    assert_eq!(root.check_identity().unwrap(), IdentityCheck::Vanished);
    fs::create_dir(&path).unwrap();
    assert!(matches!(root.check_identity().unwrap(), IdentityCheck::Replaced(_)));
    fs::remove_dir(&path).unwrap();
    symlink(&aside, &path).unwrap();
    assert!(matches!(root.check_identity().unwrap(), IdentityCheck::Replaced(_)), "a symlink is no source");
}

/// A file system mounted inside the tree is never asked for anything; the source itself may be the root of a mount.
#[test]
fn a_source_that_is_the_root_of_a_mount_stays_the_same() {
    let root = SourceRoot::open(Path::new("/")).unwrap();
    if !root.births_of(false).stat_path("/".as_ref()).unwrap().mount_root {
        println!("SKIP a_source_that_is_the_root_of_a_mount_stays_the_same: / is no mount here (chroot)");
        return;
    }
    assert_eq!(root.check_identity().unwrap(), IdentityCheck::Same);
}

#[test]
fn stat_tells_what_the_file_is() {
    let (dir, root) = fresh();
    let path = dir.path().join("f");
    fs::write(&path, "12345").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o2751)).unwrap();
    fs::hard_link(&path, dir.path().join("g")).unwrap();
    let plain = fs::metadata(&path).unwrap();
    let found = root.stat(rel("f")).unwrap();
    assert_eq!((found.stat.inode.ino, found.stat.size, found.stat.nlink), (Ino(plain.ino()), 5, 2));
    assert_eq!((found.stat.kind, found.stat.mode), (Kind::File, 0o2751));
    assert_eq!((found.stat.uid, found.stat.gid), (plain.uid(), plain.gid()));
    assert_eq!(found.stat.mtime, Time { sec: plain.mtime(), nsec: plain.mtime_nsec() as u32 });
    assert_eq!(found.stat.ctime, Time { sec: plain.ctime(), nsec: plain.ctime_nsec() as u32 });
    assert_eq!(found.blocks, plain.blocks());
    if let Ok(born) = plain.created() {
        let born = born.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        assert_eq!(u128::from(found.stat.inode.generation), born);
    }
    assert!(!found.mount_root);
    assert!(root.stat(rel("none")).unwrap_err().is_gone());
    assert!(root.stat(rel("f/below")).unwrap_err().is_gone());
    assert_eq!(root.stat(rel("")).unwrap().stat.kind, Kind::Dir);
}

#[test]
fn listings_have_every_name_once_with_its_kind() {
    let (dir, root) = fresh();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    symlink("to", dir.path().join("s")).unwrap();
    mkfifo(&dir.path().join("p"));
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("k")).unwrap();
    let mut entries = root.entries(rel("")).unwrap();
    assert_eq!(entries.foreign, []);
    entries.entries.sort_by(|one, other| one.name.cmp(&other.name));
    let seen: Vec<(&[u8], Kind)> = entries.entries.iter().map(|entry| (&entry.name[..], entry.stat.kind)).collect();
    let expected: [(&[u8], Kind); 5] =
        [(b"d", Kind::Dir), (b"f", Kind::File), (b"k", Kind::Socket), (b"p", Kind::Fifo), (b"s", Kind::Symlink)];
    assert_eq!(seen, expected);
    let mut raw = root.list(rel("")).unwrap();
    raw.sort_by(|one, other| one.name.cmp(&other.name));
    for (raw, entry) in raw.iter().zip(&entries.entries) {
        assert_eq!((&raw.name, raw.ino), (&entry.name, entry.stat.inode.ino));
        assert!(raw.kind.is_none_or(|kind| kind == entry.stat.kind));
    }
    assert!(root.entries(rel("none")).unwrap_err().is_gone());
    assert!(root.entries(rel("f")).unwrap_err().is_gone());
    assert!(root.entries(rel("s")).unwrap_err().is_gone());
}

#[test]
fn attributes_of_a_file_and_a_symlink_are_read() {
    let (dir, root) = fresh();
    fs::write(dir.path().join("f"), "").unwrap();
    symlink("t\u{e9}", dir.path().join("s")).unwrap();
    let meta = root.attributes(rel("s")).unwrap();
    assert_eq!((meta.stat.kind, &meta.target[..]), (Kind::Symlink, "t\u{e9}".as_bytes()));
    let large = vec![7; 1500];
    for (name, value) in [("user.b", &large[..]), ("user.a", b""), ("user.overlay.opaque", b"y")] {
        if let Err(errno) = rustix::fs::setxattr(dir.path().join("f"), name, value, XattrFlags::empty()) {
            println!("SKIP extended attributes: not on this file system: {errno}");
            return;
        }
    }
    let ours: Vec<_> =
        root.xattrs(rel("f")).unwrap().into_iter().filter(|(name, _)| name.starts_with(b"user.")).collect();
    let mark = (b"user.overlay.opaque".to_vec(), b"y".to_vec());
    assert_eq!(ours, [(b"user.a".to_vec(), Vec::new()), (b"user.b".to_vec(), large), mark]);
}

#[test]
fn an_open_directory_answers_for_itself_only() {
    let (dir, root) = fresh();
    for name in ["a", "b"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join(format!("in {name}")), "").unwrap();
    }
    let a = root.directory(rel("a")).unwrap();
    assert_eq!(a.inode(), root.stat(rel("a")).unwrap().stat.inode);
    fs::rename(dir.path().join("a"), dir.path().join("c")).unwrap();
    fs::rename(dir.path().join("b"), dir.path().join("a")).unwrap();
    assert_eq!(a.entries().unwrap().entries.iter().map(|entry| entry.name.as_slice()).collect::<Vec<_>>(), [b"in a"]);
    assert_eq!(a.named(b"in b").unwrap(), None);
    assert_eq!(a.named(b"in a").unwrap(), Some(Named::Entry(root.stat(rel("c/in a")).unwrap().stat)));
    assert_ne!(root.directory(rel("a")).unwrap().inode(), a.inode());
}

#[test]
fn a_handle_tells_life_and_death() {
    let (dir, root) = fresh();
    for name in ["f", "open"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let inode = |name| root.stat(rel(name)).unwrap().stat.inode;
    assert_eq!(root.handle(rel("f"), inode("open")).unwrap(), None, "another inode is there");
    let Some(handle) = root.handle(rel("f"), inode("f")).unwrap() else {
        println!("SKIP a_handle_tells_life_and_death: no handles on this file system");
        return;
    };
    let held = root.handle(rel("open"), inode("open")).unwrap().unwrap();
    if root.alive(&handle) == Alive::Unknown {
        println!("SKIP a_handle_tells_life_and_death: open_by_handle_at needs CAP_DAC_READ_SEARCH");
        return;
    }
    fs::rename(dir.path().join("f"), dir.path().join("g")).unwrap();
    assert_eq!(root.alive(&handle), Alive::Inside);
    let outside = tempfile::tempdir().unwrap();
    for (from, to) in
        [(dir.path().join("g"), outside.path().join("g")), (outside.path().join("g"), dir.path().join("g"))]
    {
        fs::rename(from, to).unwrap();
        let expected = if dir.path().join("g").exists() { Alive::Inside } else { Alive::Yes };
        assert_eq!(root.alive(&handle), expected);
    }
    fs::hard_link(dir.path().join("g"), dir.path().join("h")).unwrap();
    assert_eq!(root.alive(&handle), Alive::Yes, "which of its names is missing, its handle does not tell");
    fs::remove_file(dir.path().join("h")).unwrap();
    fs::remove_file(dir.path().join("g")).unwrap();
    assert_eq!(root.alive(&handle), Alive::Gone);
    let keep = File::open(dir.path().join("open")).unwrap();
    fs::remove_file(dir.path().join("open")).unwrap();
    assert_eq!(root.alive(&held), Alive::Gone, "open, but without a name");
    // Its last name is outside. The kernel still remembers the one inside while the file is open.
    fs::write(dir.path().join("kept"), "").unwrap();
    let kept = root.handle(rel("kept"), inode("kept")).unwrap().unwrap();
    let open = File::open(dir.path().join("kept")).unwrap();
    fs::hard_link(dir.path().join("kept"), outside.path().join("kept")).unwrap();
    fs::remove_file(dir.path().join("kept")).unwrap();
    assert_eq!(root.alive(&kept), Alive::Yes);
    drop(open);
    drop(keep);
    for damaged in [&b""[..], &b"abc"[..], &[0; 4], &[255; 200]] {
        assert_eq!(root.alive(damaged), Alive::Unknown);
    }
}

#[test]
fn only_the_expected_inode_is_opened() {
    let (dir, root) = fresh();
    let path = dir.path().join("f");
    fs::write(&path, "old").unwrap();
    let inode = root.stat(rel("f")).unwrap().stat.inode;
    assert!(root.open_file(rel("f"), inode).is_ok());
    fs::write(dir.path().join("new"), "new").unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    let refused = root.open_file(rel("f"), inode).unwrap_err();
    assert!(matches!(refused, OpenError::Mismatch { expected, .. } if expected == inode));
    assert_eq!(FileError::from(refused), FileError::Moved);
    fs::remove_file(&path).unwrap();
    assert_eq!(FileError::from(root.open_file(rel("f"), inode).unwrap_err()), FileError::Moved);
    // A fifo is not waited for, and a symlink is not followed.
    mkfifo(&path);
    let inode = root.stat(rel("f")).unwrap().stat.inode;
    assert!(matches!(root.open_file(rel("f"), inode), Err(OpenError::NotAFile { kind: Kind::Fifo })));
    fs::write(dir.path().join("real"), "").unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    let inode = root.stat(rel("link")).unwrap().stat.inode;
    assert!(matches!(root.open_file(rel("link"), inode), Err(OpenError::NotAFile { kind: Kind::Symlink })));
}

#[test]
fn the_steps_of_a_flush_read_the_file() {
    let (dir, root) = fresh();
    let path = dir.path().join("f");
    fs::write(&path, "hello").unwrap();
    let before = fs::metadata(&path).unwrap();
    let inode = root.stat(rel("f")).unwrap().stat.inode;
    let mut file = root.open_file(rel("f"), inode).unwrap();
    let first = file.statx().unwrap();
    file.clean().unwrap();
    file.barrier().unwrap();
    let mut buffer = [0; 8];
    assert_eq!(file.read(1, &mut buffer).unwrap(), 4);
    assert_eq!(&buffer[..4], b"ello");
    assert_eq!(file.read(5, &mut buffer).unwrap(), 0);
    assert_eq!(file.statx().unwrap(), first, "reading changes nothing");
    let after = fs::metadata(&path).unwrap();
    assert_eq!((before.atime(), before.atime_nsec()), (after.atime(), after.atime_nsec()));
    let by = match root.fs() {
        // In a chroot it is unknown how its data is journalled.
        FsType::Ext4 if !root.mount().listed => CleanBy::DataSync,
        FsType::Ext4 | FsType::Xfs | FsType::Btrfs => CleanBy::WriteBack,
        _ => CleanBy::DataSync,
    };
    if root.mount().option("data").is_none() {
        assert_eq!(file.clean_by(), by);
    }
    fs::write(&path, "").unwrap();
    file.barrier().unwrap();
    assert_eq!(file.data_ranges(0, 4096).unwrap(), []);
}

#[test]
fn holes_are_seen() {
    let (dir, root) = fresh();
    let plain = File::create(dir.path().join("f")).unwrap();
    plain.write_all_at(&[1; 4096], 1 << 20).unwrap();
    plain.write_all_at(&[1; 4096], 3 << 20).unwrap();
    plain.set_len(4 << 20).unwrap();
    let inode = root.stat(rel("f")).unwrap().stat.inode;
    let mut file = root.open_file(rel("f"), inode).unwrap();
    let all = file.data_ranges(0, 4 << 20).unwrap();
    if all == [(0, 4 << 20)] {
        println!("SKIP holes_are_seen: this file system tells no holes");
        return;
    }
    assert_eq!(all, [(1 << 20, (1 << 20) + 4096), (3 << 20, (3 << 20) + 4096)]);
    assert_eq!(file.data_ranges((1 << 20) + 1, (1 << 20) + 9).unwrap(), [((1 << 20) + 1, (1 << 20) + 9)]);
    assert_eq!(file.data_ranges(2 << 20, 3 << 20).unwrap(), []);
    assert_eq!(file.data_ranges((3 << 20) + 4096, 4 << 20).unwrap(), []);
    assert_eq!(file.data_ranges(9 << 20, 9 << 20).unwrap(), []);
}

/// Mounts that are undone at the end of the scope, whatever happens in it.
struct Mounted(PathBuf);

impl Mounted {
    fn new(kind: &str, on: &Path, options: &str) -> Option<Mounted> {
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount(kind, on, kind, flags, Some(options.as_c_str())) {
            Ok(()) => Some(Mounted(on.to_path_buf())),
            Err(errno) => {
                println!("SKIP: {kind} cannot be mounted here: {errno}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_mount_inside_the_tree_is_not_the_tree() {
    let (dir, root) = fresh();
    fs::create_dir(dir.path().join("m")).unwrap();
    let Some(_mounted) = Mounted::new("tmpfs", &dir.path().join("m"), "size=1m") else { return };
    fs::write(dir.path().join("m/f"), "").unwrap();
    let entries = root.entries(rel("")).unwrap();
    assert_eq!((entries.entries.len(), entries.foreign), (0, vec![(b"m".to_vec(), Foreign::MountPoint)]));
    for path in ["m", "m/f"] {
        assert!(matches!(root.stat(rel(path)), Err(SourceError::MountPoint { .. })), "{path}");
    }
}

#[test]
fn files_of_an_overlay_are_read_through_its_upper_layer() {
    let outer = tempfile::tempdir().unwrap();
    let Some(_layers) = Mounted::new("tmpfs", outer.path(), "size=8m") else { return };
    let at = |name: &str| outer.path().join(name);
    for name in ["low", "up, per", "work", "merged"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::create_dir(at("low/src")).unwrap();
    fs::write(at("low/src/below"), "below").unwrap();
    fs::write(at("low/src/removed"), "x").unwrap();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        at("low").display(),
        at("up\\, per").display(),
        at("work").display()
    );
    let Some(_overlay) = Mounted::new("overlay", &at("merged"), &options) else { return };
    fs::write(at("merged/src/above"), "above").unwrap();
    fs::remove_file(at("merged/src/removed")).unwrap();
    let root = SourceRoot::open(&at("merged/src")).unwrap();
    assert_eq!(root.fs(), FsType::Overlay);
    let upper = root.upper().unwrap();
    assert!(upper.reachable() && !upper.volatile);
    assert_eq!(upper.path, at("up, per/src").canonicalize().unwrap());
    let layer = SourceRoot::open(&at("up, per")).unwrap();
    assert_eq!(root.marks_dev(), layer.mount().kernel_dev);
    let above = root.stat(rel("above")).unwrap().stat;
    assert_eq!(above.inode.ino, Ino(fs::metadata(at("up, per/src/above")).unwrap().ino()));
    let mut names: Vec<_> = root.entries(rel("")).unwrap().entries;
    names.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(names.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>(), [&b"above"[..], b"below"]);
    assert_eq!(names[0].stat, above);
    assert!(root.stat(rel("removed")).unwrap_err().is_gone(), "a whiteout is nothing");
    let mut buffer = [0; 8];
    for (name, content) in [("above", "above"), ("below", "below")] {
        let inode = root.stat(rel(name)).unwrap().stat.inode;
        let mut file = root.open_file(rel(name), inode).unwrap();
        let len = file.read(0, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], content.as_bytes());
    }
    // The first write copies the file up: it has another inode from then on.
    let before = root.stat(rel("below")).unwrap().stat.inode;
    fs::write(at("merged/src/below"), "copied").unwrap();
    let after = root.stat(rel("below")).unwrap().stat.inode;
    assert_ne!(before, after);
    assert_eq!(after.ino, Ino(fs::metadata(at("up, per/src/below")).unwrap().ino()));
}

#[test]
fn the_area_of_a_restore_is_not_in_the_volume() {
    let dir = tempfile::tempdir().unwrap();
    let area = ".tracker-restore-0123456789abcdef";
    fs::create_dir(dir.path().join(area)).unwrap();
    fs::write(dir.path().join(area).join("tracker-restore-area"), "").unwrap();
    fs::write(dir.path().join(area).join("0"), "half").unwrap();
    // The name without the marker, or the marker without the name, belongs to a user.
    for own in [".tracker-restore-0123456789abcdee", "mine"] {
        fs::create_dir(dir.path().join(own)).unwrap();
        fs::write(dir.path().join(own).join("thesis"), "x").unwrap();
    }
    fs::write(dir.path().join("mine/tracker-restore-area"), "").unwrap();
    let root = SourceRoot::open(dir.path()).unwrap();
    let found = root.entries(Path::new("")).unwrap();
    assert_eq!(found.foreign, [(area.as_bytes().to_vec(), Foreign::RestoreArea)]);
    assert_eq!(found.entries.len(), 2);
    let named = root.directory(Path::new("")).unwrap().named(area.as_bytes()).unwrap();
    assert_eq!(named, Some(Named::Foreign(Foreign::RestoreArea)));
}

/// At any place, and up to an end that is at no border of a block. Where the file system reads nothing directly, it is read
/// as usual.
#[test]
fn a_file_read_directly_has_the_same_bytes() {
    let (dir, root) = fresh();
    let bytes: Vec<u8> = (0..200_001u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(dir.path().join("f"), &bytes).unwrap();
    let inode = root.stat(rel("f")).unwrap().stat.inode;
    let mut file = root.open_file(rel("f"), inode).unwrap();
    file.clean().unwrap();
    file.uncache().unwrap();
    for offset in [0, 1, 4095, 4096, 65_543, 131_072, 196_608, 200_000, 200_001, 300_000] {
        for len in [1, 100, 4096, 65_537, 1 << 20] {
            let mut read = vec![0; len];
            let got = file.read(offset, &mut read).unwrap();
            let rest = bytes.get(offset as usize..).unwrap_or(&[]);
            assert_eq!(read[..got], rest[..rest.len().min(len)], "{len} bytes at {offset}");
        }
    }
}

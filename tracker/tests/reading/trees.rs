//! Source trees for the tests: every shape of file a user may have, made without privilege.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// Bytes that hardly compress and differ with `seed`.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

pub(crate) fn age(path: &Path, sec: u64, nsec: u32) {
    File::open(path).unwrap().set_modified(UNIX_EPOCH + Duration::new(sec, nsec)).unwrap();
}

/// A first state: a bit of everything.
pub(crate) fn first(dir: &Path) {
    fs::create_dir_all(dir.join("d/e")).unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("small"), "hello").unwrap();
    fs::write(dir.join("d/middle"), noise(1, 50_000)).unwrap();
    fs::write(dir.join("d/large"), noise(2, 900_001)).unwrap();
    fs::hard_link(dir.join("d/large"), dir.join("d/e/also large")).unwrap();
    fs::hard_link(dir.join("small"), dir.join("d/small2")).unwrap();
    symlink("d/middle", dir.join("link")).unwrap();
    symlink("/etc/passwd", dir.join("d/outside")).unwrap();
    symlink("nowhere\n", dir.join("d/dangling")).unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"not \xff utf8 \x01")), "bytes").unwrap();
    fs::write(dir.join("n".repeat(255)), "long").unwrap();
    fs::write(dir.join("new\nline"), "x").unwrap();
    let mut deep = dir.to_path_buf();
    for level in 0..40 {
        deep.push(format!("level {level}"));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "deep").unwrap();
    // Holes at the beginning, in the middle, at the end; and one file that is all hole.
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(&noise(3, 10_000), 1 << 20).unwrap();
    sparse.write_all_at(&noise(4, 4096), 2 << 20).unwrap();
    File::create(dir.join("all hole")).unwrap().set_len(10_000_000).unwrap();
    let small_sparse = File::create(dir.join("small sparse")).unwrap();
    small_sparse.set_len(200_000).unwrap();
    small_sparse.write_all_at(b"data", 131_072).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    // If the file system has none, the tree has none.
    let _ = rustix::fs::setxattr(dir.join("small"), "user.note", b"kept", rustix::fs::XattrFlags::empty());
    let mode = |path: &str, mode| fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
    age(&dir.join("small"), 1_000_000_000, 123_456_789);
    age(&dir.join("d/large"), 0, 1);
    age(&dir.join("d/middle"), 1_700_000_000, 999_999_999);
    mode("small", 0o400);
    mode("d/middle", 0o4755);
    mode("d/e", 0o1777);
    age(&dir.join("d/e"), 1_234_567_890, 5);
    age(&dir.join("d"), 1_234_567_891, 6);
    mode("d", 0o550);
}

/// A second state, made from the first in place: rewrites, growth, cuts, renames, removals, other kinds.
pub(crate) fn second(dir: &Path) {
    let mode = |path: &str, mode| fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
    mode("d", 0o750);
    let large = File::options().write(true).open(dir.join("d/large")).unwrap();
    large.write_all_at(&noise(5, 4096), 40_960).unwrap();
    large.write_all_at(&noise(6, 100), 899_950).unwrap();
    File::options().write(true).open(dir.join("d/middle")).unwrap().set_len(20_000).unwrap();
    fs::rename(dir.join("d/e"), dir.join("moved")).unwrap();
    fs::remove_file(dir.join("empty")).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    fs::remove_file(dir.join("link")).unwrap();
    fs::write(dir.join("link"), "now a file").unwrap();
    fs::remove_file(dir.join("d/outside")).unwrap();
    fs::write(dir.join("all hole"), noise(7, 300_000)).unwrap();
    age(dir, 1_600_000_000, 7);
}

/// A third state: many small files, so that frames are shared.
pub(crate) fn third(dir: &Path) {
    fs::create_dir(dir.join("many")).unwrap();
    for n in 0..300u64 {
        fs::write(dir.join(format!("many/{n}")), noise(100 + n, (n * 17 % 3000) as usize)).unwrap();
    }
    fs::remove_file(dir.join("sparse")).unwrap();
}

/// Copies a tree with the system's own tool.
pub(crate) fn copy(from: &Path, to: &Path) {
    let done =
        std::process::Command::new("cp").args(["-a", "--sparse=always", "-T"]).arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

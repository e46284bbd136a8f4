//! Opens paths beneath one directory and nowhere else: no `..`, no symlink on the way, by `openat2` or step by step.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use engine::model::Dev;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, statx};
use rustix::io::Errno;

use super::stat::device_of;

/// Longest path that the kernel takes, including its final zero.
const PATH_MAX: usize = 4096;
/// Tries of an `openat2` that returns EAGAIN because something moved meanwhile.
const TRIES: u32 = 16;

/// A directory beneath which paths are opened.
#[derive(Debug)]
pub(crate) struct Beneath {
    root: OwnedFd,
    /// Whether a path may cross a mount point.
    cross_mounts: bool,
    /// The kernel (before 5.6) or a seccomp filter has no `openat2`.
    step_by_step: AtomicBool,
}

impl Beneath {
    pub(crate) fn new(root: OwnedFd, cross_mounts: bool) -> Beneath {
        Beneath { root, cross_mounts, step_by_step: AtomicBool::new(false) }
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens `path` (empty: the root itself). O_NOFOLLOW and O_CLOEXEC are added, so a final symlink can only be opened
    /// with O_PATH. ELOOP: a symlink on the way. EXDEV: the path crosses a mount point. EINVAL: a path with `..` or a
    /// leading `/`.
    pub(crate) fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Errno::INVAL);
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut parts = parts(path);
        let last = parts.pop().unwrap_or(Path::new("."));
        let mut at: Option<OwnedFd> = None;
        for part in parts {
            let dir = at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            at =
                Some(self.open_in(dir, part, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC)?);
        }
        self.open_in(at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd), last, flags)
    }

    /// Opens a path of at most PATH_MAX, below a directory of this tree.
    fn open_in(&self, dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        if self.step_by_step.load(Ordering::Relaxed) {
            return self.walk(dir, path, flags);
        }
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        if !self.cross_mounts {
            resolve |= ResolveFlags::NO_XDEV;
        }
        for _ in 0..TRIES {
            match openat2(dir, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if !flags.contains(OFlags::NONBLOCK) => {}
                Err(Errno::NOSYS) => {
                    self.step_by_step.store(true, Ordering::Relaxed);
                    return self.walk(dir, path, flags);
                }
                // EPERM may also come from a seccomp filter that does not know the call, or from O_NOATIME: walking step by
                // step returns the error of the open itself.
                Err(Errno::PERM | Errno::AGAIN) => return self.walk(dir, path, flags),
                other => return other,
            }
        }
        self.walk(dir, path, flags)
    }

    fn walk(&self, from: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut parts: Vec<&OsStr> = path.iter().collect();
        let last = parts.pop().unwrap_or(OsStr::new("."));
        let home = if self.cross_mounts { None } else { Some(mount_of(self.root.as_fd())?) };
        let same_mount = |fd: BorrowedFd<'_>| match home {
            Some(home) if mount_of(fd)? != home => Err(Errno::XDEV),
            _ => Ok(()),
        };
        let mut at: Option<OwnedFd> = None;
        for part in parts {
            let dir = at.as_ref().map_or(from, AsFd::as_fd);
            let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = openat(dir, part, step, Mode::empty()).map_err(|error| {
                // O_DIRECTORY with O_NOFOLLOW returns ENOTDIR for a symlink too.
                if error == Errno::NOTDIR && is_symlink(dir, part) { Errno::LOOP } else { error }
            })?;
            same_mount(next.as_fd())?;
            at = Some(next);
        }
        let dir = at.as_ref().map_or(from, AsFd::as_fd);
        let fd = openat(dir, last, flags, Mode::empty())?;
        same_mount(fd.as_fd())?;
        Ok(fd)
    }
}

/// Splits a path into parts of whole names, each short enough for one call, since the kernel takes no longer path at once.
/// As few as possible: each file of a deep tree is opened by them.
fn parts(path: &Path) -> Vec<&Path> {
    let (mut out, mut rest) = (Vec::new(), path.as_os_str().as_bytes());
    while rest.len() >= PATH_MAX {
        // A name is normally shorter than this; otherwise the kernel returns an error.
        let Some(slash) = rest.iter().take(PATH_MAX).rposition(|byte| *byte == b'/') else { break };
        let (part, tail) = rest.split_at(slash);
        out.push(Path::new(OsStr::from_bytes(part)));
        rest = tail.get(1..).unwrap_or_default();
    }
    if !rest.is_empty() {
        out.push(Path::new(OsStr::from_bytes(rest)));
    }
    out
}

fn is_symlink(dir: BorrowedFd<'_>, name: &OsStr) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink())
}

/// What tells the mount of a file from others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MountKey {
    Id(u64),
    /// Of a kernel that tells no id.
    Device(Dev),
}

/// The mount of an open file: its id if the kernel tells (5.8), else the device.
fn mount_of(fd: BorrowedFd<'_>) -> Result<MountKey, Errno> {
    let stat = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 {
        return Ok(MountKey::Id(stat.stx_mnt_id));
    }
    device_of(&stat).map(MountKey::Device)
}

/// Opens a directory as the root of a `Beneath`. Follows symlinks in `dir` itself, since the operator chose it.
pub(crate) fn open_root(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn both(test: impl Fn(&Path, &Beneath)) {
        for step_by_step in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let beneath = Beneath::new(open_root(dir.path()).unwrap(), false);
            beneath.step_by_step.store(step_by_step, Ordering::Relaxed);
            test(dir.path(), &beneath);
        }
    }

    #[test]
    fn what_lies_beneath_is_opened() {
        both(|dir, beneath| {
            fs::create_dir_all(dir.join("a/b")).unwrap();
            fs::write(dir.join("a/b/c"), "x").unwrap();
            symlink("nowhere", dir.join("a/link")).unwrap();
            for path in ["", "a", "a/b", "a/b/c", "a/link"] {
                assert!(beneath.open(Path::new(path), OFlags::PATH).is_ok(), "{path}");
            }
            assert_eq!(beneath.open(Path::new("a/none"), OFlags::PATH).unwrap_err(), Errno::NOENT);
            assert_eq!(beneath.open(Path::new("a/b/c/d"), OFlags::PATH).unwrap_err(), Errno::NOTDIR);
        });
    }

    #[test]
    fn nothing_leads_out() {
        both(|dir, beneath| {
            fs::create_dir(dir.join("a")).unwrap();
            symlink("/", dir.join("out")).unwrap();
            symlink("a", dir.join("inner")).unwrap();
            fs::write(dir.join("a/f"), "x").unwrap();
            for path in ["out/etc", "inner/f"] {
                assert_eq!(beneath.open(Path::new(path), OFlags::PATH).unwrap_err(), Errno::LOOP, "{path}");
            }
            assert_eq!(beneath.open(Path::new("out"), OFlags::RDONLY).unwrap_err(), Errno::LOOP);
            for path in ["..", "a/../..", "/etc", "./a"] {
                assert_eq!(beneath.open(Path::new(path), OFlags::PATH).unwrap_err(), Errno::INVAL, "{path}");
            }
        });
    }

    #[test]
    fn a_path_is_cut_into_few_parts_between_names() {
        assert_eq!(parts(Path::new("")), [] as [&Path; 0]);
        assert_eq!(parts(Path::new("a/b")), [Path::new("a/b")]);
        for (name, times) in [("d", 4000), ("d", 2048), ("d", 2047), ("n".repeat(255).as_str(), 40), ("ab", 1365)] {
            let path = vec![name; times].join("/");
            let cut = parts(Path::new(&path));
            assert!(cut.iter().all(|part| part.as_os_str().len() < PATH_MAX), "{name} {times}");
            assert!(cut.len() <= path.len() / (PATH_MAX - 256) + 1, "{} parts of {} bytes", cut.len(), path.len());
            let joined: Vec<&str> = cut.iter().map(|part| part.to_str().unwrap()).collect();
            assert_eq!(joined.join("/"), path);
        }
    }

    #[test]
    fn nothing_leads_out_of_the_lower_part_of_a_long_path() {
        both(|dir, beneath| {
            let name = "d".repeat(250);
            let mut at = open_root(dir).unwrap();
            let mut path = std::path::PathBuf::new();
            for _ in 0..20 {
                rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
                at = openat(&at, &name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
                path.push(&name);
            }
            rustix::fs::symlinkat("/etc", &at, "out").unwrap();
            assert!(path.as_os_str().len() > PATH_MAX);
            assert!(beneath.open(&path, OFlags::RDONLY | OFlags::DIRECTORY).is_ok());
            assert!(beneath.open(&path.join("out"), OFlags::PATH).is_ok(), "a last symlink itself");
            assert_eq!(beneath.open(&path.join("out/passwd"), OFlags::RDONLY).unwrap_err(), Errno::LOOP);
            assert_eq!(beneath.open(&path.join("none"), OFlags::RDONLY).unwrap_err(), Errno::NOENT);
            assert_eq!(beneath.open(&path.join(".."), OFlags::PATH).unwrap_err(), Errno::INVAL);
            let long = path.join("x".repeat(300));
            assert_eq!(beneath.open(&long, OFlags::PATH).unwrap_err(), Errno::NAMETOOLONG);
        });
    }
}

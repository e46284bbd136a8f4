//! The kernel's control groups, version 2: which of them has which id, and in which one a process is.
//!
//! The kernel's id of a group is the inode number of its directory (`kernfs_id_ino`, Linux 5.5 and newer, on 64 bits). Ids are
//! never given out again in one boot.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::mountinfo;

/// Groups that are looked at in a search. A host with more has groups without a path.
const GROUPS_MAX: usize = 20_000;
/// Ancestors of a process that are looked at.
const ANCESTORS_MAX: usize = 64;

/// In the place of an id: threads of the kernel, which are in the root group.
pub const KERNEL: u64 = 0;

/// Where the hierarchy is mounted. Paths of groups begin with `/`, as in `/proc/PID/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    mount: PathBuf,
}

impl Hierarchy {
    /// `None`: it is not mounted here.
    #[must_use]
    pub fn find() -> Option<Hierarchy> {
        of_mountinfo(&fs::read(mountinfo::MOUNTINFO).ok()?)
    }

    /// The directory of a group.
    #[must_use]
    pub fn dir(&self, path: &Path) -> PathBuf {
        self.mount.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The paths of the groups with these ids; those that are gone are left out.
    #[must_use]
    pub fn paths(&self, ids: &BTreeSet<u64>) -> BTreeMap<u64, PathBuf> {
        let mut found = BTreeMap::new();
        self.each(|id, path| {
            if ids.contains(&id) {
                found.insert(id, path.to_owned());
            }
            found.len() < ids.len()
        });
        found
    }

    /// Calls `visit` with id and path of each group, from the root on, while it returns true. Returns false if it was ended early,
    /// or there were more than are looked at.
    pub fn each(&self, mut visit: impl FnMut(u64, &Path) -> bool) -> bool {
        let Ok(root) = fs::metadata(&self.mount) else { return false };
        let mut waiting = vec![(root.ino(), PathBuf::from("/"))];
        let mut seen = 0;
        while let Some((id, path)) = waiting.pop() {
            seen += 1;
            if seen > GROUPS_MAX || !visit(id, &path) {
                return false;
            }
            // It may be gone by now.
            for entry in fs::read_dir(self.dir(&path)).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    waiting.push((entry.ino(), path.join(entry.file_name())));
                }
            }
        }
        true
    }

    /// The groups of this process and of all its ancestors; `None` if that cannot be told for sure. In a namespace of its own a
    /// process is told paths that are not those of the mount: so its own number must be in its group here.
    #[must_use]
    pub fn ours(&self) -> Option<BTreeSet<PathBuf>> {
        let me = std::process::id();
        let own = of_process(me)?;
        let members = fs::read_to_string(self.dir(&own).join("cgroup.procs")).ok()?;
        members.lines().any(|line| line == me.to_string()).then_some(())?;
        let mut ours = BTreeSet::from([own]);
        let mut at = me;
        for _ in 0..ANCESTORS_MAX {
            at = parent(at)?;
            // The first process has none, and one outside of the namespace of process numbers is shown as none.
            if at == 0 {
                return Some(ours);
            }
            ours.insert(of_process(at)?);
        }
        None
    }
}

fn of_mountinfo(text: &[u8]) -> Option<Hierarchy> {
    let mount = mountinfo::mounts(text).find(|mount| mount.fs_type == "cgroup2")?;
    Some(Hierarchy { mount: mount.mount_point })
}

/// The group of a process.
fn of_process(pid: u32) -> Option<PathBuf> {
    group_in(&fs::read(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The line of version 2 in `/proc/PID/cgroup`.
fn group_in(text: &[u8]) -> Option<PathBuf> {
    let path = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    // A group that was removed while the process is in it.
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    Some(PathBuf::from(OsString::from_vec(path.to_vec())))
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_process_is_in_the_line_of_version_2() {
        let text = b"9:name=systemd:/\n4:memory:/x\n0::/system.slice/a:b.service\n";
        assert_eq!(group_in(text).unwrap(), Path::new("/system.slice/a:b.service"));
        assert_eq!(group_in(b"0::/gone (deleted)\n").unwrap(), Path::new("/gone"));
        assert_eq!(group_in(b"4:memory:/x\n"), None);
    }

    #[test]
    fn the_hierarchy_is_where_version_2_is_mounted() {
        let text = b"38 31 0:38 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            41 31 0:41 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = of_mountinfo(text).unwrap();
        assert_eq!(found.dir(Path::new("/a/b")), Path::new("/sys/fs/cgroup/unified/a/b"));
        assert_eq!(found.dir(Path::new("/")), Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(of_mountinfo(b"1 1 8:1 / / rw - ext4 /dev/a rw\n"), None);
    }

    #[test]
    fn groups_are_found_by_the_inode_numbers_of_their_directories() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/cgroup.freeze"), "0").unwrap();
        let hierarchy = Hierarchy { mount: dir.path().to_owned() };
        let id = |path: &str| fs::metadata(dir.path().join(path)).unwrap().ino();
        let ids = BTreeSet::from([id(""), id("a/b"), id("a/cgroup.freeze"), u64::MAX]);
        let expected = BTreeMap::from([(id(""), PathBuf::from("/")), (id("a/b"), PathBuf::from("/a/b"))]);
        assert_eq!(hierarchy.paths(&ids), expected);
    }
}

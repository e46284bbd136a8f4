//! The protected directory: finds, lists and describes what is in it. Read only.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::model::Xattrs;
use engine::model::{Dev, Ino, InodeId, Kind};
use engine::source::{Alive, Attributes, Stat};
use rustix::fs::{Dir, FileType, OFlags, fstatfs};
use rustix::io::Errno;

use super::beneath::{Beneath, open_root};
use super::clean_times::CleanTimes;
use super::error::SourceError;
use super::fs_type::FsType;
use super::hot::Hot;
use super::stat::{self, Births, SourceStat, has_birth, stat_fd};
use super::unwritten::Unwritten;
use super::xattrs::{self, Layer};
use super::{flags, mounts, sys};
use crate::mountinfo::{MOUNTINFO, Mount, find};

/// Distinguishes a source directory from another one at the same path, while this host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootIdentity {
    /// `st_dev`.
    pub device: Dev,
    pub inode: InodeId,
}

/// What is at the source's path now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityCheck {
    Same,
    Vanished,
    Replaced(RootIdentity),
}

/// The writable layer behind a source on overlayfs: marks have its inodes, and CLEAN works only through it.
#[derive(Debug)]
pub struct Upper {
    pub upperdir: PathBuf,
    /// The source's own place in the upper directory.
    pub path: PathBuf,
    /// Mounted `volatile`: fdatasync through the overlay does not clean.
    pub volatile: bool,
    /// Some of its files may have only attributes, with their data in a lower layer, and this process cannot see which: it
    /// would read zeros there. Then the upper layer is not read, and counts as unreachable.
    pub metacopy_hidden: bool,
    layer: Layer,
    /// Absent while the directory exists only in lower layers, or if the upper layer cannot be reached from here.
    beneath: Option<Beneath>,
    fs: Option<FsType>,
}

impl Upper {
    pub(super) fn beneath(&self) -> Option<&Beneath> {
        self.beneath.as_ref()
    }

    /// The file system of the upper layer, if it can be reached.
    pub fn fs(&self) -> Option<FsType> {
        self.fs
    }

    /// Whether files can be opened through the upper layer.
    pub fn reachable(&self) -> bool {
        self.beneath.is_some()
    }
}

/// A name as `getdents` gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    pub name: Vec<u8>,
    pub ino: Ino,
    /// `None` if the file system does not tell.
    pub kind: Option<Kind>,
}

/// The open source directory of a volume.
#[derive(Debug)]
pub struct SourceRoot {
    path: PathBuf,
    pub(super) beneath: Beneath,
    identity: RootIdentity,
    mount: Mount,
    fs: FsType,
    /// On ext4, data go through the journal.
    journals_data: bool,
    pub(super) upper: Option<Upper>,
    pub(super) cleans: Arc<CleanTimes>,
    pub(super) unwritten: Arc<Unwritten>,
    pub(super) hot: Arc<Hot>,
}

/// An inode found by path, and the file system that it is read on.
pub(super) struct Found {
    pub(super) fd: OwnedFd,
    pub(super) stat: SourceStat,
    pub(super) upper: bool,
}

impl SourceRoot {
    /// Opens a source directory and keeps it open. `dir` may contain symlinks; it is resolved once.
    pub fn open(dir: &Path) -> Result<SourceRoot, SourceError> {
        let at = |source: io::Error| SourceError::Root { path: dir.to_path_buf(), source };
        let path = std::fs::canonicalize(dir).map_err(at)?;
        let fd = open_root(&path).map_err(at)?;
        let fs = FsType::of(&fd).map_err(|errno| at(errno.into()))?;
        let found = fs.births().stat_fd(&fd).map_err(|errno| at(errno.into()))?;
        let mount = mount_of(fd.as_fd()).map_err(at)?;
        let upper = if fs == FsType::Overlay { upper_of(&mount, &path) } else { None };
        let identity = RootIdentity { device: found.device, inode: found.stat.inode };
        let journals_data = fs == FsType::Ext4 && journals_data(&mount, found.device);
        Ok(SourceRoot {
            path,
            journals_data,
            beneath: Beneath::new(fd, false),
            identity,
            mount,
            fs,
            upper,
            cleans: Arc::default(),
            unwritten: Arc::default(),
            hot: Arc::default(),
        })
    }

    /// Absolute and without symlinks.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory is immutable or append-only: what is created in it could not be removed.
    pub fn is_sealed(&self) -> bool {
        flags::is_sealed(self.beneath.root())
    }

    pub fn identity(&self) -> RootIdentity {
        self.identity
    }

    pub fn fs(&self) -> FsType {
        self.fs
    }

    /// The mount that contains the source; its `kernel_dev` is the superblock's device (of the overlay, not of its upper
    /// layer).
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    pub fn upper(&self) -> Option<&Upper> {
        self.upper.as_ref()
    }

    /// The device whose inode numbers marks have: on overlayfs that of the upper layer's superblock.
    pub fn marks_dev(&self) -> Dev {
        let upper = self.upper.as_ref().and_then(|upper| upper.beneath.as_ref());
        let upper = upper.and_then(|upper| mount_of(upper.root()).ok());
        upper.map_or(self.mount.kernel_dev, |mount| mount.kernel_dev)
    }

    /// Whether the path still leads to the directory that was opened. The descriptor cannot tell: it stays valid for a
    /// directory that was moved away or unmounted.
    pub fn check_identity(&self) -> Result<IdentityCheck, SourceError> {
        match self.births_of(false).stat_path(self.path.as_os_str()) {
            Ok(found) => {
                let now = RootIdentity { device: found.device, inode: found.stat.inode };
                Ok(if now == self.identity { IdentityCheck::Same } else { IdentityCheck::Replaced(now) })
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(IdentityCheck::Vanished),
            Err(errno) => Err(SourceError::Root { path: self.path.clone(), source: errno.into() }),
        }
    }

    /// Finds `rel` in the tree; on overlayfs in the upper layer, if that has the whole file.
    pub(super) fn find(&self, rel: &Path) -> Result<Found, SourceError> {
        let fd = self.beneath.open(rel, OFlags::PATH).map_err(|errno| SourceError::at(rel, errno))?;
        let stat = self.births_of(false).stat_fd(&fd).map_err(|errno| SourceError::at(rel, errno))?;
        if let Some(beneath) = self.upper.as_ref().and_then(|upper| upper.beneath.as_ref())
            && let Ok(fd) = beneath.open(rel, OFlags::PATH)
            && let Ok(above) = self.births_of(true).stat_fd(&fd)
            && whole_in_upper(&stat.stat, &above.stat, || is_metacopy(fd.as_fd()))
        {
            return Ok(Found { fd, stat: above, upper: true });
        }
        Ok(Found { fd, stat, upper: false })
    }

    /// Whether times have parts of a second. Where inodes have no room for a birth time they have none for these, and every time is
    /// cut to its second (ext4 with inodes of 128 bytes, seen on Linux 6.18).
    pub fn has_fine_times(&self) -> bool {
        let root = self.find(Path::new(""));
        root.is_ok_and(|found| has_birth(&found.fd).unwrap_or(false))
    }

    /// Writes everything of the file system back and waits (`syncfs`): pages that were dirty before capture was attached
    /// would never mark otherwise.
    pub fn sync(&self) -> Result<(), SourceError> {
        let above = self.upper.as_ref().and_then(|upper| upper.beneath.as_ref()).map(Beneath::root);
        for root in above.into_iter().chain([self.beneath.root()]) {
            let fail = |errno| SourceError::at(Path::new(""), errno);
            let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(root, c".", open, rustix::fs::Mode::empty()).map_err(fail)?;
            rustix::fs::syncfs(&fd).map_err(fail)?;
        }
        Ok(())
    }

    /// `statx` of `rel` (empty: the source itself); does not follow a final symlink.
    pub fn stat(&self, rel: &Path) -> Result<SourceStat, SourceError> {
        Ok(self.find(rel)?.stat)
    }

    /// The names in a directory, from one pass of `getdents`: proof of presence, never of absence (I10).
    pub fn list(&self, rel: &Path) -> Result<Vec<RawEntry>, SourceError> {
        let fail = |errno| SourceError::at(rel, errno);
        let fd = self.beneath.open(rel, OFlags::RDONLY | OFlags::DIRECTORY).map_err(fail)?;
        names(fd).map_err(fail)
    }

    /// Extended attributes of a file of any kind, sorted by name (`stat` lists those that are left out).
    pub fn xattrs(&self, rel: &Path) -> Result<Xattrs, SourceError> {
        xattrs::xattrs(&self.find(rel)?.fd).map_err(|errno| SourceError::at(rel, errno))
    }

    /// The layer through which an inode is read.
    pub(super) fn layer(&self, upper: bool) -> Layer {
        self.upper.as_ref().filter(|_| upper).map_or(Layer::None, |upper| upper.layer)
    }

    /// All attributes of `rel`, with its `statx`, symlink target, extended attributes and flags from one inode. `OpenFile`
    /// has the flags of regular files.
    pub fn attributes(&self, rel: &Path) -> Result<Attributes, SourceError> {
        let found = self.find(rel)?;
        let fail = |errno| SourceError::at(rel, errno);
        let target = match found.stat.stat.kind {
            Kind::Symlink => rustix::fs::readlinkat(&found.fd, c"", Vec::new()).map_err(fail)?.into_bytes(),
            _ => Vec::new(),
        };
        let flags = (found.stat.stat.kind == Kind::Dir)
            .then(|| flags::reopen(&found.fd).and_then(|fd| flags::read(fd, self.fs_of(found.upper))));
        let xattrs = xattrs::read(&found.fd, self.layer(found.upper), flags);
        Ok(Attributes { stat: found.stat.stat, target, xattrs })
    }

    /// A handle of `inode` at `rel`; `None` if the file system has none, or another inode is there.
    pub fn handle(&self, rel: &Path, inode: InodeId) -> Result<Option<Vec<u8>>, SourceError> {
        let found = self.find(rel)?;
        if found.stat.stat.inode != inode {
            return Ok(None);
        }
        // A FUSE handle contains the number that the file has in this mount, and becomes stale when the kernel forgets it.
        if !self.fs_of(found.upper).has_lasting_handles() {
            return Ok(None);
        }
        match sys::name_to_handle(&found.fd) {
            Ok(handle) => Ok(Some(handle)),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(source) => Err(SourceError::Io { path: rel.to_path_buf(), source }),
        }
    }

    /// Whether the inode of a handle still has a name, and whether that is its only name and below the source. Needs
    /// CAP_DAC_READ_SEARCH; `Unknown` without.
    pub fn alive(&self, handle: &[u8]) -> Alive {
        // The descriptor only identifies the file system. On overlayfs handles are preferably from the upper layer.
        let above = self.upper.as_ref().and_then(|upper| upper.beneath.as_ref()).map(Beneath::root);
        let mut answer = Alive::Unknown;
        if self.fs.births() == Births::OfOneMount {
            return answer;
        }
        for root in above.into_iter().chain([self.beneath.root()]) {
            let Ok(mount) = rustix::fs::openat(root, c".", OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
            else {
                continue;
            };
            match sys::open_by_handle(&mount, handle) {
                Ok(fd) => match stat_fd(&fd) {
                    Ok(found) if found.stat.nlink == 0 => return Alive::Gone,
                    Ok(found) if found.stat.kind != Kind::Dir && found.stat.nlink > 1 => return Alive::Yes,
                    // The place where the kernel last saw its name. For a file that nobody has looked up lately it may not
                    // know.
                    Ok(_) => return if sys::is_below(&fd, &mount) { Alive::Inside } else { Alive::Yes },
                    Err(_) => return Alive::Unknown,
                },
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => answer = Alive::Gone,
                Err(_) => return Alive::Unknown,
            }
        }
        answer
    }

    /// What is used as the generation of a found inode.
    pub(super) fn births_of(&self, upper: bool) -> Births {
        match self.fs_of(upper) {
            FsType::Overlay => Births::OfLayers(self.identity.device),
            fs => fs.births(),
        }
    }

    /// The kind of file system that a found inode is read on.
    pub(super) fn fs_of(&self, upper: bool) -> FsType {
        let above = self.upper.as_ref().filter(|_| upper).and_then(|upper| upper.fs);
        above.unwrap_or(self.fs)
    }

    /// Whether all data of the file system goes through its journal, where `sync_file_range` is not enough.
    pub(super) fn data_journal(&self, upper: bool) -> bool {
        !upper && (!self.mount.listed || self.journals_data)
    }
}

/// Whether data go through the journal. The list of mounts leaves that out where it is the default of the superblock (`tune2fs -o
/// journal_data`); ext4's own list of its options has it.
fn journals_data(mount: &Mount, device: Dev) -> bool {
    let options = || {
        let (major, minor) = (device.kernel() >> 20, device.kernel() & 0xf_ffff);
        let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        let name = link.file_name()?.to_str()?.to_owned();
        std::fs::read_to_string(format!("/proc/fs/ext4/{name}/options")).ok()
    };
    mount.option("data") == Some(b"journal")
        || options().is_some_and(|options| options.lines().any(|option| option == "data=journal"))
}

/// The upper layer has a whole file if the merged view shows the same kind, and its data is not still in a lower layer. A
/// whiteout is a character device 0:0, which the merged view never shows under that name.
pub(super) fn whole_in_upper(merged: &Stat, upper: &Stat, metacopy: impl FnOnce() -> bool) -> bool {
    merged.kind == upper.kind && merged.rdev == upper.rdev && (merged.kind != Kind::File || !metacopy())
}

/// Whether a file of the upper layer has only attributes, with its data in a lower layer. If it cannot be determined, the
/// answer is yes.
pub(super) fn is_metacopy(fd: BorrowedFd<'_>) -> bool {
    let path = stat::proc_path(fd);
    let mut value = [0; 64];
    ["trusted.overlay.metacopy", "user.overlay.metacopy"]
        .iter()
        .any(|name| !matches!(rustix::fs::getxattr(&path, *name, &mut value[..]), Err(Errno::NODATA | Errno::NOTSUP)))
}

pub(super) fn names(fd: OwnedFd) -> Result<Vec<RawEntry>, Errno> {
    let mut out = Vec::new();
    for entry in Dir::new(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let kind = Some(entry.file_type()).filter(|kind| *kind != FileType::Unknown).and_then(stat::kind_of);
            out.push(RawEntry { name: name.to_vec(), ino: Ino(entry.ino()), kind });
        }
    }
    Ok(out)
}

/// The mount of an open directory, by the mount id in `/proc/self/fdinfo` (any kernel). In a chroot the table may lack it;
/// for most file systems its essential facts are known without.
fn mount_of(fd: BorrowedFd<'_>) -> io::Result<Mount> {
    use std::os::fd::AsRawFd;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    let text = std::fs::read(MOUNTINFO)?;
    let unlisted = |id| mounts::unlisted(id, FsType::of(fd).ok()?, stat_fd(fd).ok()?.device);
    id.and_then(|id| find(&text, id).or_else(|| unlisted(id)))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its mount is not in /proc/self/mountinfo"))
}

fn upper_of(mount: &Mount, source: &Path) -> Option<Upper> {
    let upperdir = PathBuf::from(OsString::from_vec(unescape_overlay(mount.option("upperdir")?)));
    let path = upperdir.join(mount.inside(source)?);
    let layer = if mount.has_option("userxattr") { Layer::User } else { Layer::Trusted };
    let metacopy_hidden = may_have_metacopies(mount) && !sees_trusted();
    let fd = open_root(&path).ok().filter(|_| upperdir.is_absolute() && !metacopy_hidden);
    let fs = fd.as_ref().and_then(|fd| FsType::of(fd).ok());
    let beneath = fd.map(|fd| Beneath::new(fd, false));
    Some(Upper { upperdir, path, volatile: mount.has_option("volatile"), metacopy_hidden, layer, beneath, fs })
}

/// Whether the overlay makes and follows metacopies. fs/overlayfs/params.c (`ovl_show_options`, 6.18) shows the option only
/// if it differs from the module's default. With `userxattr` there are none, and everyone could see their marks.
fn may_have_metacopies(mount: &Mount) -> bool {
    let default = || std::fs::read("/sys/module/overlay/parameters/metacopy").is_ok_and(|text| text.starts_with(b"Y"));
    match mount.option("metacopy") {
        Some(value) => value == b"on",
        None => !mount.has_option("userxattr") && default(),
    }
}

/// Whether this process sees attributes whose names begin with `trusted.`: without CAP_SYS_ADMIN in the first user
/// namespace fs/xattr.c (`xattr_permission`, 6.18) returns ENODATA, as if they did not exist.
fn sees_trusted() -> bool {
    // PROC_USER_INIT_INO of include/linux/proc_ns.h, the same on every boot.
    const FIRST: u64 = 0xefff_fffd;
    let first = rustix::fs::stat("/proc/self/ns/user").is_ok_and(|found| found.st_ino == FIRST);
    let sets = rustix::thread::capabilities(None);
    first && sets.is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
}

/// Overlayfs shows its option as it was given, including the backslashes before a comma or colon in a name.
fn unescape_overlay(option: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(option.len());
    let mut bytes = option.iter();
    while let Some(&byte) = bytes.next() {
        out.push(if byte == b'\\' { bytes.next().copied().unwrap_or(byte) } else { byte });
    }
    out
}

/// Further file systems whose inode numbers outlive a mount, each with a birth time or a handle: NFS, f2fs, bcachefs, ZFS,
/// CephFS, JFS. Not FUSE, 9p, vfat, exfat or CIFS, which may number inodes as they are looked up.
const LASTING: [u64; 6] = [0x6969, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1, 0x00c3_6400, 0x3153_464a];

impl FsType {
    pub(super) fn births(self) -> Births {
        match self {
            FsType::Other(magic) if !LASTING.contains(&magic) => Births::OfOneMount,
            _ => Births::Lasting,
        }
    }

    /// Whether a file handle identifies the same file after another mount.
    pub(super) fn has_lasting_handles(self) -> bool {
        self != FsType::Overlay && self.births() == Births::Lasting
    }

    pub(crate) fn of(fd: impl AsFd) -> Result<FsType, Errno> {
        let magic = fstatfs(fd)?.f_type as u64 & 0xffff_ffff;
        Ok(match magic {
            0xef53 => FsType::Ext4,
            0x5846_5342 => FsType::Xfs,
            0x9123_683e => FsType::Btrfs,
            0x0102_1994 => FsType::Tmpfs,
            0x794c_7630 => FsType::Overlay,
            other => FsType::Other(other),
        })
    }
}

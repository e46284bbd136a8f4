//! The oracle: what differs between two directory trees, in words. Uses nothing of the product, so that it cannot share a
//! mistake with it; tests of other crates include it by `#[path]`.
//!
//! Compared: names (as bytes), kinds, content (streamed), holes, modes, owners, extended attributes (including POSIX ACLs),
//! inode flags that can be set and projects, mtimes to the nanosecond, which names are the same file, symlink targets,
//! device numbers. Not compared: atime, ctime, birth, inode numbers, sizes of directories, link counts (a link from outside
//! the tree does not exist for the copy).
//!
//! The rule for holes: cut to whole 4 KiB blocks, every hole of the source of at least 64 KiB must hold no data in the
//! copy. Smaller ones may be filled (file systems allocate in larger units), and the copy may have more holes than the
//! source, since its bytes are compared anyhow.
#![expect(unsafe_code, reason = "the ioctl for projects, which no safe crate offers")]

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use rustix::ioctl;

/// Most differences listed, so that a tree that is all wrong does not fill the log.
const LISTED: usize = 200;
/// Unit of the comparison of holes, in bytes.
const BLOCK: u64 = 4096;
/// Holes of the source of at least this size must be holes in the copy.
const HOLE: u64 = 65_536;

/// What not to compare, for a copy that could not get it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The restore ran without the right to give files away.
    pub ignore_owners: bool,
    /// The restore ran without the right to create devices, or was told to leave them out.
    pub ignore_devices: bool,
}

/// Every difference between `source` and `copy` (including their own attributes); empty if they are equal. After an error
/// of reading, nothing is known.
pub fn compare(source: &Path, copy: &Path, options: Options) -> io::Result<Vec<String>> {
    let mut run = Run::new(source, copy, options);
    run.both(Path::new(""))?;
    if run.total > LISTED {
        run.found.push(format!("... {} differences in all", run.total));
    }
    Ok(run.found)
}

/// [`compare`] with all options, as an assertion that prints the differences.
#[track_caller]
pub fn assert_same(source: &Path, copy: &Path) {
    match compare(source, copy, Options::default()) {
        Ok(found) => assert!(found.is_empty(), "the copy differs from the source:\n{}", found.join("\n")),
        Err(error) => panic!("the trees cannot be compared: {error}"),
    }
}

type FileIdentity = (u64, u64);

struct Run<'a> {
    source: &'a Path,
    copy: &'a Path,
    options: Options,
    found: Vec<String>,
    total: usize,
    /// The first name and the counterpart of every file with several names, from either side.
    of_source: HashMap<FileIdentity, (FileIdentity, PathBuf)>,
    of_copy: HashMap<FileIdentity, (FileIdentity, PathBuf)>,
}

impl<'a> Run<'a> {
    fn new(source: &'a Path, copy: &'a Path, options: Options) -> Run<'a> {
        Run { source, copy, options, found: Vec::new(), total: 0, of_source: HashMap::new(), of_copy: HashMap::new() }
    }

    fn differs(&mut self, rel: &Path, what: String) {
        self.total += 1;
        if self.found.len() < LISTED {
            // Debug: names are bytes, and a control character in one must not reach the terminal.
            self.found.push(format!("{rel:?}: {what}"));
        }
    }

    fn unequal<T: PartialEq + std::fmt::Debug>(&mut self, rel: &Path, what: &str, source: T, copy: T) {
        if source != copy {
            self.differs(rel, format!("{what} is {source:?} in the source, {copy:?} in the copy"));
        }
    }

    fn both(&mut self, rel: &Path) -> io::Result<()> {
        let (source, copy) = (self.source.join(rel), self.copy.join(rel));
        let (ours, theirs) = (fs::symlink_metadata(&source)?, fs::symlink_metadata(&copy)?);
        let (kind, other) = (kind(&ours), kind(&theirs));
        self.unequal(rel, "kind", kind, other);
        if kind != other {
            return Ok(());
        }
        self.attributes(rel, &ours, &theirs)?;
        if matches!(kind, "directory" | "file") {
            let (ours, theirs) = (inode_flags(&source)?, inode_flags(&copy)?);
            self.unequal(rel, "inode flags", format!("{:#x}", ours.0), format!("{:#x}", theirs.0));
            self.unequal(rel, "project", ours.1, theirs.1);
        }
        match kind {
            "directory" => return self.directory(rel),
            "file" => self.content(rel, &ours, &theirs)?,
            "symlink" => self.unequal(rel, "target", fs::read_link(&source)?, fs::read_link(&copy)?),
            "character device" | "block device" => self.unequal(rel, "device number", ours.rdev(), theirs.rdev()),
            _ => {}
        }
        self.links(rel, &ours, &theirs);
        Ok(())
    }

    fn directory(&mut self, rel: &Path) -> io::Result<()> {
        let mut names: BTreeMap<OsString, (bool, bool)> = BTreeMap::new();
        for entry in fs::read_dir(self.source.join(rel))? {
            names.entry(entry?.file_name()).or_default().0 = true;
        }
        for entry in fs::read_dir(self.copy.join(rel))? {
            names.entry(entry?.file_name()).or_default().1 = true;
        }
        for (name, sides) in names {
            let path = rel.join(name);
            match sides {
                (true, true) => self.both(&path)?,
                (true, false) => {
                    let kind = kind(&fs::symlink_metadata(self.source.join(&path))?);
                    if !(self.options.ignore_devices && kind.ends_with("device")) {
                        self.differs(&path, format!("the {kind} is missing in the copy"));
                    }
                }
                (false, _) => self.differs(&path, "is only in the copy".into()),
            }
        }
        Ok(())
    }

    fn attributes(&mut self, rel: &Path, ours: &Metadata, theirs: &Metadata) -> io::Result<()> {
        let octal = |meta: &Metadata| format!("{:04o}", meta.mode() & 0o7777);
        self.unequal(rel, "mode", octal(ours), octal(theirs));
        if !self.options.ignore_owners {
            self.unequal(rel, "owner", (ours.uid(), ours.gid()), (theirs.uid(), theirs.gid()));
        }
        let time = |meta: &Metadata| (meta.mtime(), meta.mtime_nsec());
        self.unequal(rel, "mtime", time(ours), time(theirs));
        let (ours, mut theirs) = (xattrs(&self.source.join(rel))?, xattrs(&self.copy.join(rel))?);
        for (name, value) in ours {
            let shown = String::from_utf8_lossy(&name).into_owned();
            match theirs.remove(&name) {
                None => self.differs(rel, format!("attribute {shown} is missing in the copy")),
                Some(other) => self.unequal(rel, &format!("attribute {shown}"), value, other),
            }
        }
        for name in theirs.into_keys() {
            self.differs(rel, format!("attribute {} is only in the copy", String::from_utf8_lossy(&name)));
        }
        Ok(())
    }

    fn content(&mut self, rel: &Path, ours: &Metadata, theirs: &Metadata) -> io::Result<()> {
        self.unequal(rel, "size", ours.size(), theirs.size());
        let (mut source, mut copy) = (File::open(self.source.join(rel))?, File::open(self.copy.join(rel))?);
        if let Some(at) = first_difference(&mut source, &mut copy)? {
            self.differs(rel, format!("content differs from byte {at} on"));
        }
        let size = ours.size().min(theirs.size());
        for (start, end) in holes(&source, size)? {
            let (start, end) = (start.next_multiple_of(BLOCK), if end == size { end } else { end / BLOCK * BLOCK });
            if end.saturating_sub(start) < HOLE {
                continue;
            }
            if let Some(data) = data_in(&copy, start, end)? {
                self.differs(rel, format!("source has a hole at {start}..{end}, copy has data at {data}"));
            }
        }
        Ok(())
    }

    /// Names that are one file on one side must be one file on the other.
    fn links(&mut self, rel: &Path, ours: &Metadata, theirs: &Metadata) {
        let (ours, theirs) = ((ours.dev(), ours.ino()), (theirs.dev(), theirs.ino()));
        let first = self.of_source.entry(ours).or_insert_with(|| (theirs, rel.to_path_buf())).clone();
        if first.0 != theirs {
            self.differs(rel, format!("is the same file as {:?} in the source, but not in the copy", first.1));
        }
        let first = self.of_copy.entry(theirs).or_insert_with(|| (ours, rel.to_path_buf())).clone();
        if first.0 != ours {
            self.differs(rel, format!("is the same file as {:?} in the copy, but not in the source", first.1));
        }
    }
}

fn kind(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_dir() {
        "directory"
    } else if kind.is_file() {
        "file"
    } else if kind.is_symlink() {
        "symlink"
    } else if kind.is_fifo() {
        "fifo"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_char_device() {
        "character device"
    } else {
        "block device"
    }
}

fn first_difference(source: &mut File, copy: &mut File) -> io::Result<Option<u64>> {
    let (mut left, mut right) = (vec![0; 1 << 18], vec![0; 1 << 18]);
    let mut at = 0;
    loop {
        let (ours, theirs) = (fill(source, &mut left)?, fill(copy, &mut right)?);
        let common = ours.min(theirs);
        if left[..common] != right[..common] {
            let equal = left[..common].iter().zip(&right[..common]).take_while(|(left, right)| left == right).count();
            return Ok(Some(at + equal as u64));
        }
        if ours != theirs {
            return Ok(Some(at + common as u64));
        }
        if ours == 0 {
            return Ok(None);
        }
        at += ours as u64;
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn holes(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < size {
        let hole = rustix::fs::seek(file, SeekFrom::Hole(at))?.min(size);
        if hole == size {
            break;
        }
        let data = match rustix::fs::seek(file, SeekFrom::Data(hole)) {
            Ok(data) => data.min(size),
            Err(Errno::NXIO) => size,
            Err(errno) => return Err(errno.into()),
        };
        out.push((hole, data));
        at = data;
    }
    Ok(out)
}

/// The first byte of data in a range, if there is any.
fn data_in(file: &File, start: u64, end: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(start)) {
        Ok(data) => Ok((data < end).then_some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Without `security.evm` (a seal over the inode number, invalid on any copy), and without the second names under which xfs
/// lists ACLs, which other file systems lack. Attributes of overlays are compared: an upper layer is useless without them;
/// if the source itself is an overlay, its users do not see its own.
fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut buffer = vec![0; 65_536];
    let list = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Ok(len) => buffer[..len].to_vec(),
        Err(Errno::NOTSUP) => Vec::new(),
        Err(errno) => return Err(errno.into()),
    };
    let mut out = BTreeMap::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let void: [&[u8]; 2] = [b"trusted.SGI_ACL_", b"security.evm"];
        if void.iter().any(|void| name.starts_with(void)) {
            continue;
        }
        let len = rustix::fs::lgetxattr(path, name, &mut buffer[..])?;
        out.insert(name.to_vec(), buffer[..len].to_vec());
    }
    Ok(out)
}

/// The flags that `chattr` can set (include/uapi/linux/fs.h), except `s` and `u`, which nothing implements, and those that
/// file systems set themselves. With the project; both are 0 if there are none.
fn inode_flags(path: &Path) -> io::Result<(u32, u32)> {
    const SETTABLE: u32 = 0x10
        | 0x20
        | 0x40
        | 0x80
        | 0x8
        | 0x1_0000
        | 0x80_0000
        | 0x4
        | 0x400
        | 0x4000
        | 0x8000
        | 0x2_0000
        | 0x200_0000
        | 0x2000_0000
        | 0x4000_0000;
    let file = File::open(path)?;
    let flags = match rustix::fs::ioctl_getflags(&file) {
        Ok(found) => found.bits() & SETTABLE,
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => return Ok((0, 0)),
        Err(errno) => return Err(errno.into()),
    };
    // `struct fsxattr`: seven numbers, of which the fourth is the project.
    const FSGETXATTR: ioctl::Opcode = ioctl::opcode::read::<[u32; 7]>(b'X', 31);
    // SAFETY: the kernel writes as many bytes as the type has, all of them numbers.
    let extended = unsafe { ioctl::ioctl(&file, ioctl::Getter::<FSGETXATTR, [u32; 7]>::new()) };
    match extended {
        Ok(found) => Ok((flags, found[3])),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => Ok((flags, 0)),
        Err(errno) => Err(errno.into()),
    }
}

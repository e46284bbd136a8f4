//! What is really in a directory tree: names, inodes, attributes and blocks, read in the ordinary way, and what changed
//! between two such readings. The marks are checked against it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use engine::model::Ino;
use rustix::fs::SeekFrom;

/// Unit of a mark, in bytes.
pub const BLOCK: u64 = 4096;

/// Which inode a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// An inode that events of the tracked superblock name.
    Real(Ino),
    /// One of an overlay's lower layer, which has no events.
    Lower(Ino),
}

/// One file or directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: Key,
    pub directory: bool,
    pub size: u64,
    /// Everything except content, and times of access and change.
    pub attributes: String,
    pub changed: (i64, i64),
    /// Blocks that are not all zeros.
    pub blocks: BTreeMap<u64, Vec<u8>>,
    /// Blocks that are not holes, including zeros: a store into a hole may allocate more than it writes.
    pub data: BTreeSet<u64>,
    pub names: BTreeMap<OsString, Key>,
}

/// A tree by relative path; the tree's own directory has the empty one.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// Reads the directory `dir` and everything below it; `real` is where the inodes of the kernel's events are.
///
/// # Errors
/// The system's.
pub fn read(dir: &Path, real: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(rel) = waiting.pop() {
        let entry = entry(&dir.join(&rel), &real.join(&rel))?;
        if entry.directory {
            let mut names = BTreeMap::new();
            for name in fs::read_dir(dir.join(&rel))? {
                let name = name?.file_name();
                let child = rel.join(&name);
                names.insert(name, key(&dir.join(&child), &real.join(&child))?.0);
                waiting.push(child);
            }
            tree.insert(rel, Entry { names, ..entry });
        } else {
            tree.insert(rel, entry);
        }
    }
    Ok(tree)
}

fn key(path: &Path, real: &Path) -> io::Result<(Key, Metadata)> {
    match fs::symlink_metadata(real) {
        Ok(meta) => Ok((Key::Real(Ino(meta.ino())), meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let meta = fs::symlink_metadata(path)?;
            Ok((Key::Lower(Ino(meta.ino())), meta))
        }
        Err(error) => Err(error),
    }
}

/// One entry, without its names.
///
/// # Errors
/// The system's.
pub fn entry(path: &Path, real: &Path) -> io::Result<Entry> {
    let (key, of_events) = key(path, real)?;
    let meta = fs::symlink_metadata(path)?;
    let size = if meta.is_file() { meta.size() } else { 0 };
    let target = if meta.is_symlink() { Some(fs::read_link(path)?) } else { None };
    let attributes = format!(
        "{:o} {}:{} {}.{} {} {target:?} {:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.rdev(),
        xattrs(path)?
    );
    let (blocks, data) = if meta.is_file() { blocks(path, size)? } else { Default::default() };
    let changed = (of_events.ctime(), of_events.ctime_nsec());
    Ok(Entry { key, directory: meta.is_dir(), size, attributes, changed, blocks, data, names: BTreeMap::new() })
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut buffer = vec![0; 65_536];
    let mut out = BTreeMap::new();
    let len = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(out),
        other => other?,
    };
    let list = buffer[..len].to_vec();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let len = rustix::fs::lgetxattr(path, name, &mut buffer[..])?;
        out.insert(String::from_utf8_lossy(name).into_owned(), buffer[..len].to_vec());
    }
    Ok(out)
}

type Blocks = (BTreeMap<u64, Vec<u8>>, BTreeSet<u64>);

fn blocks(path: &Path, size: u64) -> io::Result<Blocks> {
    let file = File::open(path)?;
    let (mut out, mut data_blocks) = Blocks::default();
    let mut at = 0;
    while at < size {
        let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) else { break };
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(data))?.min(size);
        for block in data / BLOCK..hole.div_ceil(BLOCK) {
            let mut bytes = vec![0; BLOCK.min(size - block * BLOCK) as usize];
            file.read_exact_at(&mut bytes, block * BLOCK)?;
            data_blocks.insert(block);
            if bytes.iter().any(|byte| *byte != 0) {
                out.insert(block, bytes);
            }
        }
        at = hole.max(at + 1);
    }
    Ok((out, data_blocks))
}

impl Entry {
    /// The blocks whose content differs between `self` and `after`. Bytes after the end of `after` do not count; bytes
    /// after the end of `self` count as zeros.
    #[must_use]
    pub fn changed_blocks(&self, after: &Entry) -> Vec<u64> {
        let mut out: Vec<u64> = self.blocks.keys().chain(after.blocks.keys()).copied().collect();
        out.sort_unstable();
        out.dedup();
        out.retain(|block| block * BLOCK < after.size && !same(self.blocks.get(block), after, *block));
        out
    }
}

fn same(old: Option<&Vec<u8>>, after: &Entry, block: u64) -> bool {
    if old == after.blocks.get(&block) {
        return true;
    }
    let limit = BLOCK.min(after.size - block * BLOCK) as usize;
    let byte = |bytes: Option<&Vec<u8>>, at: usize| bytes.and_then(|bytes| bytes.get(at)).copied().unwrap_or(0);
    (0..limit).all(|at| byte(old, at) == byte(after.blocks.get(&block), at))
}

/// Most bytes that a flush has to send for the change from `before` to `after`: changed blocks, holes that became data,
/// even zeros (a copy has holes where its source has), and new files.
#[must_use]
pub fn dirty_bytes(before: &Tree, after: &Tree) -> u64 {
    let known: BTreeMap<Key, &Entry> = before.values().map(|entry| (entry.key, entry)).collect();
    let unlike = |entry: &Entry| match known.get(&entry.key) {
        Some(old) => {
            let filled = entry.data.difference(&old.data).copied();
            old.changed_blocks(entry).into_iter().chain(filled).collect::<BTreeSet<u64>>().len() as u64 * BLOCK
        }
        None => entry.data.len() as u64 * BLOCK,
    };
    let mut counted = BTreeSet::new();
    after.values().filter(|entry| counted.insert(entry.key)).map(unlike).sum()
}

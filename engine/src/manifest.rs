//! The state of a volume at one seq: files, names, extents; built by applying commits in order.
//!
//! `apply` trusts nothing: it checks sequence, chain, copies, names and the tree's shape before anything changes, so a
//! refused commit leaves the manifest as it was. Holds no bytes of files and reads none.

mod apply;
mod error;

pub use error::ManifestError;

use crate::extent_map::ExtentMap;
use crate::model::{FileId, Hash, Kind, Meta, Root, Seq, Standing, Time, VolumeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One directory entry that leads to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub parent: FileId,
    pub name: Arc<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub meta: Meta,
    /// Only for regular files.
    pub root: Option<Root>,
    /// Empty for every other kind.
    pub extent_map: ExtentMap,
    links: Vec<Link>,
}

impl File {
    /// All names of the file; more than one for hard links, none for the root directory.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    pub fn size(&self) -> u64 {
        self.extent_map.size()
    }
}

/// A file without its names, as stored in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileParts {
    pub meta: Meta,
    pub root: Option<Root>,
    pub extent_map: ExtentMap,
}

type Entries = BTreeMap<Arc<[u8]>, FileId>;

/// The commit that a manifest represents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub volume: VolumeId,
    /// [`Seq::NONE`]: before the first commit.
    pub seq: Seq,
    /// Hash of the commit object of `seq`; zeros at 0.
    pub head: Hash,
    pub time: Time,
    /// As in the commit's header; `None` if it is of version 1.
    pub standing: Option<Standing>,
    pub epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    position: Position,
    files: BTreeMap<FileId, File>,
    dirs: BTreeMap<FileId, Entries>,
}

impl Manifest {
    /// The empty state before the first commit.
    pub fn new(volume: VolumeId) -> Manifest {
        let time = Time { sec: i64::MIN, nsec: 0 };
        Manifest {
            position: Position { volume, seq: Seq::NONE, head: [0; 32], time, standing: None, epoch: 0 },
            files: BTreeMap::new(),
            dirs: BTreeMap::new(),
        }
    }

    pub fn position(&self) -> &Position {
        &self.position
    }

    pub fn seq(&self) -> Seq {
        self.position.seq
    }

    pub fn get(&self, id: FileId) -> Option<&File> {
        self.files.get(&id)
    }

    /// All files by id.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &File)> {
        self.files.iter().map(|(id, file)| (*id, file))
    }

    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// All names by (parent, name).
    pub fn names(&self) -> impl Iterator<Item = (FileId, &[u8], FileId)> {
        self.dirs.iter().flat_map(|(dir, entries)| entries.iter().map(|(name, id)| (*dir, &**name, *id)))
    }

    /// Entries of a directory, by name; none if `dir` is not a directory.
    pub fn children(&self, dir: FileId) -> impl Iterator<Item = (&[u8], FileId)> {
        self.dirs.get(&dir).into_iter().flatten().map(|(name, id)| (&**name, *id))
    }

    pub fn child(&self, dir: FileId, name: &[u8]) -> Option<FileId> {
        self.dirs.get(&dir)?.get(name).copied()
    }

    /// The id at `path`, relative to the source directory; `""` is the directory itself. Empty parts are skipped.
    pub fn resolve(&self, path: &[u8]) -> Option<FileId> {
        let mut at = self.files.contains_key(&FileId::ROOT).then_some(FileId::ROOT)?;
        for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            at = self.child(at, part)?;
        }
        Some(at)
    }

    /// The first path of a file, relative to the source directory; `None` for an unknown id.
    pub fn path_of(&self, id: FileId) -> Option<Vec<u8>> {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut at = id;
        while at != FileId::ROOT {
            let link = self.files.get(&at)?.links.first()?;
            parts.push(&link.name);
            at = link.parent;
        }
        parts.reverse();
        Some(parts.join(&b'/'))
    }

    /// Every name with its path, a directory before what is in it, names in order; the source directory (path `""`) first.
    pub fn walk(&self) -> Walk<'_> {
        let root = self.files.contains_key(&FileId::ROOT).then(|| (Vec::new(), FileId::ROOT));
        Walk { manifest: self, pending: root.into_iter().collect() }
    }

    fn is_dir(&self, id: FileId) -> bool {
        self.files.get(&id).is_some_and(|f| f.meta.kind == Kind::Dir)
    }

    /// Sets or removes one entry, in both directions. Returns the file that had the name.
    fn set_name(&mut self, parent: FileId, name: &[u8], id: Option<FileId>) -> Option<FileId> {
        let entries = self.dirs.entry(parent).or_default();
        let old = match id {
            Some(id) => {
                let shared: Arc<[u8]> = name.into();
                let old = entries.insert(shared.clone(), id);
                if old != Some(id)
                    && let Some(file) = self.files.get_mut(&id)
                {
                    // Sorted, so that equal states are equal values however they came about.
                    let place = file.links.partition_point(|l| (l.parent, &*l.name) < (parent, name));
                    file.links.insert(place, Link { parent, name: shared });
                }
                old
            }
            None => entries.remove(name),
        };
        if entries.is_empty() {
            self.dirs.remove(&parent);
        }
        if let Some(old) = old.filter(|old| Some(*old) != id)
            && let Some(file) = self.files.get_mut(&old)
        {
            file.links.retain(|l| l.parent != parent || *l.name != *name);
        }
        old
    }
}

/// Iterator of [`Manifest::walk`].
pub struct Walk<'a> {
    manifest: &'a Manifest,
    pending: Vec<(Vec<u8>, FileId)>,
}

impl<'a> Iterator for Walk<'a> {
    type Item = (Vec<u8>, FileId, &'a File);

    fn next(&mut self) -> Option<Self::Item> {
        let (path, id) = self.pending.pop()?;
        let file = self.manifest.files.get(&id)?;
        let before = self.pending.len();
        for (name, child) in self.manifest.children(id) {
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name);
            self.pending.push((below, child));
        }
        // Reversed: the stack returns the last entry first.
        self.pending.get_mut(before..).unwrap_or_default().reverse();
        Some((path, id, file))
    }
}

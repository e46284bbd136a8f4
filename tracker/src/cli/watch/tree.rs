//! The state of `tracker watch` in memory: the tree by inode, and how marks and listings become changed paths.
//!
//! Pure except for [`World`], through which it lists, stats and watches. Knows no kernel maps and prints nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use engine::dirty::Marks;
use engine::model::{BLOCK_BYTES, Ino, InodeId, Kind};
use engine::source::{Entry, Stat};
use serde::Serialize;

use crate::units::PathField;

/// What of a path changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    Data,
    Size,
    Meta,
    Names,
    Rescan,
}

/// One changed path of one drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    #[serde(flatten)]
    pub path: PathField,
    pub kinds: Vec<ChangeKind>,
    /// Byte ranges (offset, length), ascending, not touching.
    pub ranges: Vec<(u64, u64)>,
}

/// The tree and the capture as this module sees them. Paths are relative to the watched directory.
pub trait World {
    type Error;
    /// Entries of a directory; `None` if it is absent or cannot be listed.
    fn list(&mut self, dir: &Path) -> Option<Vec<Entry>>;
    fn stat(&mut self, path: &Path) -> Option<Stat>;
    /// Marks changes of these inodes from now on.
    fn watch(&mut self, inodes: &[Ino]) -> Result<(), Self::Error>;
    /// Writes dirty pages of a file back, so that later stores through mappings mark again.
    fn clean(&mut self, path: &Path, inode: InodeId);
}

#[derive(Debug)]
struct Node {
    inode: InodeId,
    size: u64,
    /// Names: parent's inode number and name.
    links: BTreeSet<(Ino, Vec<u8>)>,
    /// Entries, if it is a directory.
    children: BTreeMap<Vec<u8>, Ino>,
}

/// Every inode below the watched directory with its names.
#[derive(Debug)]
pub struct Tree {
    root: Ino,
    nodes: HashMap<Ino, Node>,
    /// Inodes without a name since the last drain: only the next drain may list their new directory.
    orphans: BTreeSet<Ino>,
    /// Marks of inodes that were not at their path; they are looked for again at the next drain.
    held: HashMap<Ino, Marks>,
}

impl Tree {
    /// Watches and lists everything below the root.
    ///
    /// # Errors
    /// When inodes cannot be watched.
    pub fn walk<W: World>(root: &Stat, world: &mut W) -> Result<Tree, W::Error> {
        let mut tree =
            Tree { root: root.inode.ino, nodes: HashMap::new(), orphans: BTreeSet::new(), held: HashMap::new() };
        tree.insert(root);
        world.watch(&[tree.root])?;
        tree.list(vec![tree.root], world, &mut BTreeSet::new(), &mut BTreeSet::new())?;
        Ok(tree)
    }

    /// How many inodes are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Takes the marks of one drain, updates the tree, and returns the changes. `reread` says which inodes may have lost
    /// marks.
    ///
    /// # Errors
    /// When inodes cannot be watched.
    pub fn apply<W: World>(
        &mut self,
        found: impl IntoIterator<Item = (Ino, Marks)>,
        reread: Option<&dyn Fn(Ino) -> bool>,
        world: &mut W,
    ) -> Result<Vec<Change>, W::Error> {
        let mut dirty = std::mem::take(&mut self.held);
        for (ino, marks) in found {
            if self.nodes.contains_key(&ino) {
                dirty.entry(ino).or_default().merge(&marks);
            }
        }
        if let Some(reread) = reread {
            for ino in self.nodes.keys().filter(|ino| reread(**ino)) {
                // With this flag a directory is listed and a file compared; the reports below know which it is.
                dirty.entry(*ino).or_default().merge(&Marks { rescan: true, names: true, ..Marks::default() });
            }
        }
        let mut dirs: Vec<Ino> = dirty.iter().filter(|(_, marks)| marks.names).map(|(ino, _)| *ino).collect();
        dirs.sort_by_key(|ino| self.paths(*ino).first().map_or(0, |path| path.components().count()));
        let (mut news, mut lost) = (BTreeSet::new(), BTreeSet::new());
        self.list(dirs, world, &mut news, &mut lost)?;

        let mut changes = Vec::new();
        let reported: BTreeSet<Ino> = dirty.keys().copied().chain(news.iter().copied()).collect();
        for ino in reported {
            let marks = dirty.remove(&ino).unwrap_or_default();
            // The file's state, shared by all its names: each of them reports the same change.
            let before = self.nodes.get(&ino).map(|node| (node.inode, node.size));
            let mut seen = false;
            for path in self.paths(ino) {
                let Some((inode, size)) = before else { continue };
                let Some(stat) = world.stat(&path).filter(|stat| stat.inode == inode) else { continue };
                if stat.kind == Kind::File && (marks.has_data() || news.contains(&ino)) {
                    world.clean(&path, stat.inode);
                }
                changes.push((path, describe(&stat, size, &marks, news.contains(&ino))));
                seen = true;
                if let Some(node) = self.nodes.get_mut(&ino) {
                    node.size = stat.size;
                }
            }
            if !seen && self.nodes.contains_key(&ino) {
                self.held.insert(ino, marks);
            }
        }
        let old = std::mem::take(&mut self.orphans);
        for ino in old.into_iter().chain(lost.clone()) {
            if self.nodes.get(&ino).is_some_and(|node| node.links.is_empty()) && ino != self.root {
                if lost.contains(&ino) {
                    self.orphans.insert(ino);
                } else {
                    self.forget(ino);
                }
            }
        }
        changes.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(changes
            .into_iter()
            .map(|(path, (kinds, ranges))| {
                let bytes = if path.as_os_str().is_empty() { b"." } else { path.as_os_str().as_bytes() };
                Change { path: PathField::new(bytes), kinds, ranges }
            })
            .collect())
    }

    fn insert(&mut self, stat: &Stat) {
        let node = Node { inode: stat.inode, size: stat.size, links: BTreeSet::new(), children: BTreeMap::new() };
        self.nodes.insert(stat.inode.ino, node);
    }

    /// Lists these directories and every new one below them, each after it is watched.
    fn list<W: World>(
        &mut self,
        mut queue: Vec<Ino>,
        world: &mut W,
        news: &mut BTreeSet<Ino>,
        lost: &mut BTreeSet<Ino>,
    ) -> Result<(), W::Error> {
        queue.reverse();
        while let Some(dir) = queue.pop() {
            let Some(path) = self.paths(dir).into_iter().next() else { continue };
            let same = |world: &mut W, tree: &Tree| {
                let node = tree.nodes.get(&dir);
                world.stat(&path).is_some_and(|at| at.kind == Kind::Dir && node.is_some_and(|n| n.inode == at.inode))
            };
            if !same(world, self) {
                continue;
            }
            let Some(entries) = world.list(&path) else { continue };
            let listed: BTreeMap<&[u8], InodeId> = entries.iter().map(|e| (&e.name[..], e.stat.inode)).collect();
            let known = self.nodes.get(&dir).map(|node| node.children.clone()).unwrap_or_default();
            for (name, ino) in known {
                let inode = self.nodes.get(&ino).map(|node| node.inode);
                let there = match listed.get(&name[..]) {
                    Some(found) => Some(*found),
                    // A listing proves presence, not absence.
                    None => world.stat(&path.join(OsStr::from_bytes(&name))).map(|stat| stat.inode),
                };
                if there.is_none() || there != inode {
                    self.unlink(dir, &name, ino);
                    lost.insert(ino);
                }
            }
            let mut fresh = Vec::new();
            for entry in &entries {
                let ino = entry.stat.inode.ino;
                if self.nodes.get(&ino).is_some_and(|node| node.inode != entry.stat.inode) {
                    self.forget(ino);
                }
                if !self.nodes.contains_key(&ino) {
                    self.insert(&entry.stat);
                    fresh.push(ino);
                    news.insert(ino);
                    if entry.stat.kind == Kind::Dir {
                        queue.push(ino);
                    }
                }
                self.link(dir, &entry.name, ino, entry.stat.kind == Kind::Dir);
            }
            world.watch(&fresh)?;
        }
        Ok(())
    }

    fn link(&mut self, dir: Ino, name: &[u8], ino: Ino, single: bool) {
        let link = (dir, name.to_vec());
        if single {
            // A directory has one name: it was moved here.
            let old: Vec<_> = self.nodes.get(&ino).into_iter().flat_map(|n| n.links.clone()).collect();
            for (parent, name) in old.into_iter().filter(|old| *old != link) {
                self.unlink(parent, &name, ino);
            }
        }
        if let Some(node) = self.nodes.get_mut(&dir) {
            node.children.insert(link.1.clone(), ino);
        }
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.links.insert(link);
        }
    }

    fn unlink(&mut self, dir: Ino, name: &[u8], ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&dir) {
            node.children.remove(name);
        }
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.links.remove(&(dir, name.to_vec()));
        }
    }

    /// Drops an inode, its names, and everything that has no name without it.
    fn forget(&mut self, ino: Ino) {
        let mut queue = vec![ino];
        while let Some(ino) = queue.pop() {
            self.held.remove(&ino);
            let Some(node) = self.nodes.remove(&ino) else { continue };
            for (parent, name) in node.links {
                if let Some(parent) = self.nodes.get_mut(&parent) {
                    parent.children.remove(&name);
                }
            }
            for (name, child) in node.children {
                if let Some(below) = self.nodes.get_mut(&child) {
                    below.links.remove(&(ino, name));
                    if below.links.is_empty() {
                        queue.push(child);
                    }
                }
            }
        }
    }

    /// Every path of an inode; none while it, or a directory above it, has no name.
    fn paths(&self, ino: Ino) -> Vec<PathBuf> {
        if ino == self.root {
            return vec![PathBuf::new()];
        }
        let links = self.nodes.get(&ino).into_iter().flat_map(|node| &node.links);
        links.filter_map(|(parent, name)| self.path_in(*parent, name)).collect()
    }

    fn path_in(&self, mut dir: Ino, name: &[u8]) -> Option<PathBuf> {
        let mut names = vec![name];
        while dir != self.root {
            // Directories that swap places while being listed could point at each other.
            if names.len() > 4096 {
                return None;
            }
            let (parent, name) = self.nodes.get(&dir)?.links.first()?;
            names.push(name);
            dir = *parent;
        }
        Some(names.iter().rev().map(|name| OsStr::from_bytes(name)).collect())
    }
}

fn describe(stat: &Stat, size: u64, marks: &Marks, new: bool) -> (Vec<ChangeKind>, Vec<(u64, u64)>) {
    let file = stat.kind == Kind::File;
    let whole = Marks { whole: true, ..Marks::default() };
    let data = Marks { rescan: false, ..marks.clone() }.has_data();
    let said = [
        (ChangeKind::Data, file && (new || data)),
        (ChangeKind::Size, file && (new || stat.size != size)),
        (ChangeKind::Meta, new || marks.meta || marks.names),
        (ChangeKind::Names, stat.kind == Kind::Dir && (new || marks.names)),
        (ChangeKind::Rescan, marks.rescan),
    ];
    let kinds = said.into_iter().filter(|(_, is)| *is).map(|(kind, _)| kind).collect();
    let ranges = if file { ranges(if new { &whole } else { marks }, stat.size) } else { Vec::new() };
    (kinds, ranges)
}

/// The marked bytes below `size`, merged, as (offset, length).
fn ranges(marks: &Marks, size: u64) -> Vec<(u64, u64)> {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    if marks.all_content() {
        spans.push((0, size));
    } else {
        let blocks = marks.blocks.iter().map(|block| u64::from(block) * BLOCK_BYTES);
        spans.extend(blocks.map(|start| (start, start + BLOCK_BYTES)));
        spans.extend(marks.range);
        spans.extend(marks.from.map(|from| (from, u64::MAX)));
    }
    spans.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (start, end) in spans {
        let end = end.min(size);
        match out.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ if start < end => out.push((start, end)),
            _ => {}
        }
    }
    out.into_iter().map(|(start, end)| (start, end - start)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_merged_and_end_with_the_file() {
        let mut marks = Marks { blocks: [0, 1, 5].into_iter().collect(), ..Marks::default() };
        assert_eq!(ranges(&marks, 5 * 4096 + 7), [(0, 8192), (20480, 7)]);
        assert_eq!(ranges(&marks, 100), [(0, 100)]);
        marks.range = Some((12288, 12289));
        assert_eq!(ranges(&marks, 30000), [(0, 8192), (12288, 1), (20480, 4096)]);
        marks.from = Some(8192);
        assert_eq!(ranges(&marks, 30000), [(0, 30000)]);
        marks.rescan = true;
        assert_eq!(ranges(&marks, 9), [(0, 9)]);
        assert_eq!(ranges(&marks, 0), []);
    }
}

//! The oracle: the fold of all commits in the store, read back through frames, against the model's tree.

use std::collections::BTreeMap;

use super::files::{Files, ROOT};
use super::run::Failure;
use super::world::SimWorld;
use crate::extent_map::Source;
use crate::format::commit::{self, Expect};
use crate::format::{Key, frame};
use crate::manifest::Manifest;
use crate::model::{FileId, Ino, Kind, ObjectRef, Root, Seq, VolumeId, WriterId};

pub(super) const VOLUME: VolumeId = VolumeId([5; 16]);

/// The writer whose flushes the simulation runs.
pub(super) const WRITER: WriterId = WriterId([9; 16]);

/// The fold of this writer's commits: of all commits, if there is no other writer.
fn replay(world: &SimWorld) -> Result<Manifest, Failure> {
    let manifest = replay_to(world, Seq::MAX)?;
    if manifest.seq() != world.catalog.head.seq {
        return Err(Failure::Replay(format!(
            "head is {}, the catalog says {}",
            manifest.seq(),
            world.catalog.head.seq
        )));
    }
    Ok(manifest)
}

/// The state as of `last`, or of the newest commit before it.
pub(super) fn replay_to(world: &SimWorld, last: Seq) -> Result<Manifest, Failure> {
    let mut manifest = Manifest::new(VOLUME);
    for seq in 1..=last.0 {
        let Some(bytes) = world.store.get(&Key::Commit(Seq(seq)).to_string()) else { break };
        let commit = commit::decode(bytes, Expect { volume: VOLUME, seq: Seq(seq) })
            .map_err(|error| Failure::Replay(format!("commit {seq}: {error}")))?;
        if commit.header.writer != WRITER {
            break;
        }
        manifest.apply(&commit, commit::hash(bytes)).map_err(|error| Failure::Replay(format!("seq {seq}: {error}")))?;
        if let Some((id, why)) = manifest.files().find_map(|(id, file)| Some((id, file.meta.unmakeable()?))) {
            return Err(Failure::Replay(format!("commit {seq} has with {id} {why}")));
        }
    }
    Ok(manifest)
}

fn content(world: &SimWorld, manifest: &Manifest, id: FileId) -> Result<Vec<u8>, Failure> {
    let file = manifest.get(id).ok_or_else(|| Failure::Replay(format!("no file {id}")))?;
    let mut bytes = Vec::new();
    for (_, extent) in file.extent_map.extents() {
        match extent.source {
            Source::Hole => bytes.resize(bytes.len() + extent.len as usize, 0),
            Source::Data(at) => {
                let key = match at.object {
                    ObjectRef::Commit(seq) => Key::Commit(seq),
                    ObjectRef::Pack { seq, epoch, n } => Key::Pack { seq, epoch, n },
                };
                let packs = world.packs.borrow();
                let name = key.to_string();
                let object = world.store.get(&name).or_else(|| packs.get(&name));
                let object = object.ok_or_else(|| Failure::Replay(format!("{key} is absent")))?;
                let start = at.frame_offset as usize;
                let run = object
                    .get(start..start + at.frame_bytes as usize)
                    .ok_or_else(|| Failure::Replay(format!("{key} is short")))
                    .and_then(|stored| {
                        frame::read_run(&VOLUME, &at, extent.len, stored)
                            .map_err(|error| Failure::Replay(format!("{key}: {error}")))
                    })?;
                bytes.extend_from_slice(&run);
            }
        }
    }
    if let Some(Root::Blake3(root)) = file.root
        && blake3::hash(&bytes) != root
    {
        return Err(Failure::Differs(format!("root of {id} is not that of its bytes")));
    }
    Ok(bytes)
}

pub(super) type Tree = BTreeMap<Vec<u8>, (Ino, Kind)>;

pub(super) fn tree(world: &SimWorld) -> Tree {
    tree_of(&world.inner.borrow().files)
}

fn tree_of(files: &Files) -> Tree {
    let mut paths = Tree::new();
    let mut queue = vec![(Vec::new(), ROOT)];
    while let Some((path, dir)) = queue.pop() {
        for (name, ino) in &files.inodes[&dir].entries {
            let mut path = path.clone();
            path.push(b'/');
            path.extend_from_slice(name);
            let kind = files.inodes[ino].kind;
            if kind == Kind::Dir {
                queue.push((path.clone(), *ino));
            }
            paths.insert(path, (*ino, kind));
        }
    }
    paths
}

/// The restored tree equals the model's.
pub(super) fn restored_equals(world: &SimWorld) -> Result<(), Failure> {
    equals(world, &replay(world)?, &world.inner.borrow().files)
}

/// A state equals the tree of `files`: names, kinds, modes, times, links, bytes.
pub(super) fn equals(world: &SimWorld, manifest: &Manifest, files: &Files) -> Result<(), Failure> {
    let expected = tree_of(files);
    let mut restored: BTreeMap<Vec<u8>, FileId> = BTreeMap::new();
    let mut queue = vec![(Vec::new(), FileId::ROOT)];
    while let Some((path, dir)) = queue.pop() {
        for (name, id) in manifest.children(dir) {
            let mut path = path.clone();
            path.push(b'/');
            path.extend_from_slice(name);
            queue.push((path.clone(), id));
            restored.insert(path, id);
        }
    }
    let show = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    if let Some(path) = expected.keys().find(|path| !restored.contains_key(*path)) {
        return Err(Failure::Differs(format!("{} is missing", show(path))));
    }
    if let Some(path) = restored.keys().find(|path| !expected.contains_key(*path)) {
        return Err(Failure::Differs(format!("{} should not be there", show(path))));
    }
    let mut links: BTreeMap<FileId, Ino> = BTreeMap::new();
    for (path, (ino, kind)) in &expected {
        let id = restored[path];
        let Some(file) = manifest.get(id) else { return Err(Failure::Replay(format!("no file {id}"))) };
        let inode = &files.inodes[ino];
        if file.meta.kind != *kind || file.meta.mode != inode.mode || file.meta.mtime.sec != inode.time as i64 {
            return Err(Failure::Differs(format!("attributes of {}", show(path))));
        }
        if file.meta.target != inode.target {
            return Err(Failure::Differs(format!("target of {}", show(path))));
        }
        if *links.entry(id).or_insert(*ino) != *ino {
            return Err(Failure::Differs(format!("{} is linked to another file", show(path))));
        }
        if *kind == Kind::File {
            let bytes = content(world, manifest, id)?;
            if bytes != inode.data {
                let at = bytes.iter().zip(&inode.data).position(|(a, b)| a != b);
                return Err(Failure::Differs(format!(
                    "bytes of {} ({} restored, {} in the source, first difference at {at:?})",
                    show(path),
                    bytes.len(),
                    inode.data.len()
                )));
            }
        }
    }
    Ok(())
}

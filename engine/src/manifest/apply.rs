//! Applying one commit: all checks first, then names (undone if the result would not be a tree), then the rest.

use super::{Entries, File, Manifest, ManifestError, Position};
use crate::extent_map::{ExtentMap, RopeError};
use crate::format::commit::{Commit, Header};
use crate::format::is_entry_name;
use crate::model::{ChangeSet, Content, FileId, Hash, Kind, NameChange, Seq, Standing, Stored};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A change that was made, to be undone in reverse order.
enum Undo {
    Inserted(FileId),
    Name { parent: FileId, name: Vec<u8>, old: Option<FileId> },
}

impl Manifest {
    /// Applies the next commit. `hash` is [`crate::format::commit::hash`] of its object, which the commit after it must
    /// name as its parent. On an error nothing has changed.
    pub fn apply(&mut self, commit: &Commit, hash: Hash) -> Result<(), ManifestError> {
        self.check_header(&commit.header)?;
        let changes = &commit.changes;
        // Build extent maps that read another file's content before anything moves.
        let mut built = self.check_files(changes)?;
        let mut undo = Vec::new();
        if let Err(error) = self.change_tree(changes, &mut undo) {
            self.revert(undo);
            return Err(error);
        }
        for change in &changes.files {
            let Some(file) = self.files.get_mut(&change.id) else { continue };
            if let Some(meta) = &change.meta {
                file.meta = meta.clone();
            }
            if let Some(content) = &change.content {
                match built.remove(&change.id) {
                    Some(extent_map) => file.extent_map = extent_map,
                    None => file.extent_map.edit(&content.ops, content.size).map_err(of(change.id))?,
                }
                file.root = Some(content.root);
            }
        }
        for id in &changes.gone {
            self.files.remove(id);
        }
        let Header { volume, seq, epoch, time, standing, .. } = commit.header;
        self.position = Position { volume, seq, head: hash, time, standing, epoch };
        Ok(())
    }

    fn check_header(&self, header: &Header) -> Result<(), ManifestError> {
        let at = &self.position;
        if header.volume != at.volume {
            return Err(ManifestError::Volume { found: header.volume, expected: at.volume });
        }
        if Some(header.seq) != at.seq.checked_add(1) {
            return Err(ManifestError::Seq { found: header.seq, expected: at.seq.saturating_add(1) });
        }
        let seq = header.seq;
        if header.parent != at.head {
            return Err(ManifestError::Chain { seq, found: header.parent.into(), expected: at.head.into() });
        }
        if header.epoch < at.epoch {
            return Err(ManifestError::Epoch { seq, found: header.epoch, expected: at.epoch });
        }
        if header.time <= at.time {
            return Err(ManifestError::Time { seq, found: header.time, previous: at.time });
        }
        match header.standing {
            // A writer of version 1 cannot have read what version 2 recorded.
            None if at.standing.is_some() => return Err(ManifestError::Older { seq }),
            None => {}
            Some(found) => {
                let expected = Standing::after(at.standing, at.time, seq, found.wall, found.baseline);
                if found != expected {
                    let (found, expected) = (found.steady_since, expected.steady_since);
                    return Err(ManifestError::Steady { seq, found, expected });
                }
            }
        }
        Ok(())
    }

    /// Checks the changes of files, and builds the extent maps that are not edits of the file's own.
    fn check_files(&self, changes: &ChangeSet<Stored>) -> Result<BTreeMap<FileId, ExtentMap>, ManifestError> {
        let mut seen = HashSet::new();
        let mut built = BTreeMap::new();
        for change in &changes.files {
            let id = change.id;
            if !seen.insert(id) {
                return Err(ManifestError::Twice { id });
            }
            let known = self.files.get(&id);
            let kind = match (known, &change.meta) {
                (Some(file), Some(meta)) if file.meta.kind != meta.kind => {
                    return Err(ManifestError::Kind { id, previous: file.meta.kind, found: meta.kind });
                }
                (_, Some(meta)) => meta.kind,
                (Some(file), None) => file.meta.kind,
                (None, None) => return Err(ManifestError::NoMeta { id }),
            };
            match &change.content {
                Some(_) if kind != Kind::File => return Err(ManifestError::NotRegular { id, kind }),
                None if kind == Kind::File && known.is_none() => return Err(ManifestError::NoContent { id }),
                None => {}
                Some(content) => {
                    if let Some(extent_map) = self.check_content(id, content)? {
                        built.insert(id, extent_map);
                    }
                }
            }
        }
        for id in &changes.gone {
            if !seen.insert(*id) {
                return Err(ManifestError::Twice { id: *id });
            }
            if !self.files.contains_key(id) {
                return Err(ManifestError::Unknown { id: *id });
            }
        }
        Ok(built)
    }

    fn check_content(&self, id: FileId, content: &Content<Stored>) -> Result<Option<ExtentMap>, ManifestError> {
        let base = match content.base {
            None => None,
            Some(base) => Some(self.files.get(&base).ok_or(ManifestError::Unknown { id: base })?),
        };
        if content.base == Some(id) {
            let size = base.map_or(0, File::size);
            return ExtentMap::check(&content.ops, content.size, size).map(|()| None).map_err(of(id));
        }
        ExtentMap::build(base.map(|f| &f.extent_map), &content.ops, content.size).map(Some).map_err(of(id))
    }

    fn change_tree(&mut self, changes: &ChangeSet<Stored>, undo: &mut Vec<Undo>) -> Result<(), ManifestError> {
        let mut touched: BTreeSet<FileId> = changes.gone.iter().copied().collect();
        for change in &changes.files {
            if let (false, Some(meta)) = (self.files.contains_key(&change.id), &change.meta) {
                let file = File { meta: meta.clone(), root: None, extent_map: ExtentMap::default(), links: Vec::new() };
                self.files.insert(change.id, file);
                undo.push(Undo::Inserted(change.id));
                touched.insert(change.id);
            }
        }
        let mut set = HashSet::new();
        let mut unset = HashSet::new();
        for change in &changes.names {
            if let NameChange::Unset { parent, name } = change {
                if !unset.insert((*parent, name)) {
                    return Err(ManifestError::NameTwice { parent: *parent, name: name.clone() });
                }
                let old = self.change_name(*parent, name, None, undo);
                touched.insert(old.ok_or(ManifestError::NoSuchName { parent: *parent, name: name.clone() })?);
            }
        }
        for change in &changes.names {
            if let NameChange::Set { parent, name, id } = change {
                let parent = *parent;
                if !set.insert((parent, name)) {
                    return Err(ManifestError::NameTwice { parent, name: name.clone() });
                }
                if !is_entry_name(name) {
                    return Err(ManifestError::BadName { parent, name: name.clone() });
                }
                if !self.is_dir(parent) {
                    return Err(ManifestError::NotDir { id: parent });
                }
                if !self.files.contains_key(id) {
                    return Err(ManifestError::Unknown { id: *id });
                }
                touched.insert(*id);
                touched.extend(self.change_name(parent, name, Some(*id), undo));
            }
        }
        let gone: HashSet<FileId> = changes.gone.iter().copied().collect();
        let mut good = HashSet::new();
        for id in touched {
            self.check_place(id, gone.contains(&id), &mut good)?;
        }
        if self.is_dir(FileId::ROOT) { Ok(()) } else { Err(ManifestError::SourceDir) }
    }

    fn change_name(&mut self, parent: FileId, name: &[u8], id: Option<FileId>, undo: &mut Vec<Undo>) -> Option<FileId> {
        let old = self.set_name(parent, name, id);
        undo.push(Undo::Name { parent, name: name.to_vec(), old });
        old
    }

    fn revert(&mut self, undo: Vec<Undo>) {
        for step in undo.into_iter().rev() {
            match step {
                Undo::Inserted(id) => {
                    self.files.remove(&id);
                }
                Undo::Name { parent, name, old } => {
                    self.set_name(parent, &name, old);
                }
            }
        }
    }

    /// Checks that the file has a valid place: it has a name below the source directory, or is gone without names and
    /// entries.
    fn check_place(&self, id: FileId, gone: bool, good: &mut HashSet<FileId>) -> Result<(), ManifestError> {
        let Some(file) = self.files.get(&id) else { return Err(ManifestError::Unknown { id }) };
        if id == FileId::ROOT {
            let fits = !gone && file.links.is_empty() && file.meta.kind == Kind::Dir;
            return if fits { Ok(()) } else { Err(ManifestError::SourceDir) };
        }
        match (gone, file.links.len()) {
            (true, 0) if self.dirs.contains_key(&id) => Err(ManifestError::GoneFull { id }),
            (true, 0) => Ok(()),
            (true, _) => Err(ManifestError::GoneNamed { id }),
            (false, 0) => Err(ManifestError::Nameless { id }),
            (false, links) if file.meta.kind == Kind::Dir && links != 1 => Err(ManifestError::DirLinks { id, links }),
            (false, _) if file.meta.kind == Kind::Dir => self.check_above(id, good),
            _ => Ok(()),
        }
    }

    /// Walks up to the source directory, or to a directory already known to be below it.
    fn check_above(&self, id: FileId, good: &mut HashSet<FileId>) -> Result<(), ManifestError> {
        let mut way = HashSet::new();
        let mut at = id;
        while at != FileId::ROOT && !good.contains(&at) {
            if !way.insert(at) {
                return Err(ManifestError::Cycle { id });
            }
            let link = self.files.get(&at).and_then(|f| f.links.first()).ok_or(ManifestError::Nameless { id: at })?;
            at = link.parent;
        }
        good.extend(way);
        Ok(())
    }

    /// Builds a state from parts (of a checkpoint), and checks the whole tree.
    pub fn from_parts(
        position: Position,
        files: impl IntoIterator<Item = (FileId, super::FileParts)>,
        names: impl IntoIterator<Item = (FileId, Vec<u8>, FileId)>,
    ) -> Result<Manifest, ManifestError> {
        let mut manifest = Manifest { position, files: BTreeMap::new(), dirs: BTreeMap::<FileId, Entries>::new() };
        for (id, parts) in files {
            let kind = parts.meta.kind;
            if parts.root.is_some() != (kind == Kind::File) || (kind != Kind::File && parts.extent_map.size() > 0) {
                return Err(ManifestError::NotRegular { id, kind });
            }
            let file = File { meta: parts.meta, root: parts.root, extent_map: parts.extent_map, links: Vec::new() };
            if manifest.files.insert(id, file).is_some() {
                return Err(ManifestError::Twice { id });
            }
        }
        for (parent, name, id) in names {
            if !is_entry_name(&name) {
                return Err(ManifestError::BadName { parent, name });
            }
            if !manifest.is_dir(parent) {
                return Err(ManifestError::NotDir { id: parent });
            }
            if !manifest.files.contains_key(&id) {
                return Err(ManifestError::Unknown { id });
            }
            if manifest.set_name(parent, &name, Some(id)).is_some() {
                return Err(ManifestError::NameTwice { parent, name });
            }
        }
        let ids: Vec<FileId> = manifest.files.keys().copied().collect();
        let mut good = HashSet::new();
        for id in ids {
            manifest.check_place(id, false, &mut good)?;
        }
        if manifest.position.seq > Seq::NONE && !manifest.is_dir(FileId::ROOT) {
            return Err(ManifestError::SourceDir);
        }
        Ok(manifest)
    }
}

fn of(id: FileId) -> impl Fn(RopeError) -> ManifestError {
    move |source| ManifestError::Content { id, source }
}

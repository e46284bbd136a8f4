//! Attributes of what a flush saw: new files of every kind, and known ones whose marks or listing differ.

use std::collections::BTreeSet;

use super::commit::Builder;
use super::names::Gathered;
use super::world::{Attributes, FileError, Record, Stat, World, Xattrs};
use super::xattrs::{self, Flags, ReadXattrs};
use super::{FlushFacts, Report, now_ns};
use crate::dirty::{DirtySet, Marks};
use crate::format::limits;
use crate::model::{FileChange, FileId, Kind, Meta};
use crate::reconcile::NewFile;

/// Bytes of attributes in one commit, a quarter of what a commit object may have.
const META_BYTES_MAX: usize = limits::COMMIT / 4;
/// Files that one commit changes.
const FILES_MAX: usize = limits::CHANGES / 2;
/// Ops of one commit: a literal that crosses into another frame becomes two.
pub(super) const OPS_MAX: usize = limits::OPS - limits::FRAMES;

/// `Meta` of what was read of an inode.
fn meta_of(stat: &Stat, target: Vec<u8>, xattrs: Xattrs, flags: Flags) -> Meta {
    let Stat { kind, mode, uid, gid, mtime, rdev, .. } = *stat;
    Meta { kind, mode, uid, gid, mtime, rdev, target, xattrs, flags: flags.bits, project: flags.project }
}

/// Refuses attributes of which no restore could make the file.
fn makeable(meta: Meta) -> Result<Meta, FileError> {
    match meta.unmakeable() {
        Some(why) => Err(FileError::Unreadable { cause: why.into() }),
        None => Ok(meta),
    }
}

impl Builder {
    /// `Meta` of a regular file; what is left out of its attributes is noted.
    pub(super) fn meta_of_file(&mut self, id: FileId, record: Option<&Record>, stat: &Stat, read: ReadXattrs) -> Meta {
        let stat = Stat { kind: Kind::File, rdev: 0, ..stat.clone() };
        self.meta_of(id, record, &stat, Vec::new(), read)
    }

    fn meta_of(&mut self, id: FileId, record: Option<&Record>, stat: &Stat, target: Vec<u8>, read: ReadXattrs) -> Meta {
        let (xattrs, flags, left_out) = xattrs::settle(read, record.map(|record| &record.meta));
        if !left_out.is_empty() {
            self.left_out.insert(id, (stat.inode.ino, left_out));
        }
        meta_of(stat, target, xattrs, flags)
    }

    /// Reads the attributes of a new file that is no regular one. Where that fails it has no entry in this commit: a name
    /// without its symlink's target, or a directory without its mode, would be another thing than what was there.
    pub(super) fn read_other<W: World>(&mut self, world: &mut W, new: &NewFile) -> Result<(), FileError> {
        // The listing saw it before it was watched; attributes are taken after.
        let Attributes { stat, target, xattrs } = world.attributes(new.id, new.stat.inode)?;
        if stat.kind != new.stat.kind {
            return Err(FileError::Moved);
        }
        let meta = makeable(self.meta_of(new.id, None, &stat, target, xattrs))?;
        self.has_room(&meta, 0)?;
        self.others.insert(new.id, (stat, meta));
        Ok(())
    }

    /// What a flush must not do: the entry with what the listing told of it. For the simulation, which must notice.
    pub(super) fn take_plain(&mut self, new: &NewFile) {
        self.others.insert(new.id, (new.stat.clone(), meta_of(&new.stat, Vec::new(), Vec::new(), Flags::default())));
    }

    /// Everything but regular files: new ones, and known ones with a mark (with `compare`, also those that a listing
    /// shows to differ).
    pub(super) fn add_names<W: World>(
        &mut self,
        world: &mut W,
        names: &Gathered,
        taken: &DirtySet,
        facts: &FlushFacts,
        report: &mut Report,
        kept: &mut DirtySet,
    ) -> Result<(), W::Error> {
        for new in names.plan.new.iter().filter(|new| new.stat.kind != Kind::File) {
            // What could not be read was taken out of the plan.
            if let Some((stat, meta)) = self.others.remove(&new.id) {
                self.add_other(new.id, &stat, meta, None);
            }
        }
        let gone: BTreeSet<FileId> = names.plan.gone.iter().copied().collect();
        let mut seen: Vec<FileId> = Vec::new();
        for (ino, _) in taken.iter() {
            seen.extend(world.by_inode(ino)?.into_iter().map(|record| record.id));
        }
        if facts.compare {
            seen.extend(names.plan.seen.iter().map(|(id, _)| *id));
        }
        for id in seen {
            let Some(record) = world.record(id)? else { continue };
            if record.meta.kind == Kind::File || gone.contains(&id) || self.ids.contains(&id) {
                continue;
            }
            let read = world.attributes(id, record.inode).and_then(|Attributes { stat, target, xattrs }| {
                // Without generations another kind of file may have the number by now.
                if stat.kind != record.meta.kind {
                    return Err(super::world::FileError::Moved);
                }
                let meta = makeable(self.meta_of(id, Some(&record), &stat, target, xattrs))?;
                if meta != record.meta {
                    self.has_room(&meta, 0)?;
                }
                Ok((stat, meta))
            });
            match read {
                Ok((stat, meta)) if meta != record.meta || record.ctime != Some(stat.ctime) => {
                    self.add_other(id, &stat, meta, Some(&record));
                }
                Ok(_) => {}
                Err(error) => {
                    let ino = record.inode.ino;
                    let since = taken.get(ino).map_or(now_ns(facts), |waiting| waiting.since_ns);
                    kept.add(ino, &Marks { meta: true, ..Marks::default() }, since);
                    match error {
                        // It moved since it was listed: its marks wait until the catalog knows where it is.
                        FileError::Moved => {}
                        FileError::NoRoom => report.carried += 1,
                        error => report.failed(id, ino, error),
                    }
                }
            }
        }
        Ok(())
    }

    fn add_other(&mut self, id: FileId, stat: &Stat, meta: Meta, old: Option<&Record>) {
        if !self.ids.insert(id) {
            return;
        }
        let ctime = Some(stat.ctime);
        if old.is_none_or(|old| old.meta != meta) {
            self.meta_bytes += xattrs::bytes_of(&meta.xattrs);
            self.changes.files.push(FileChange { id, meta: Some(meta.clone()), content: None });
        }
        self.records.push(Record {
            id,
            inode: stat.inode,
            meta,
            size: 0,
            root: None,
            hole_bytes: 0,
            signed: false,
            ctime,
        });
    }

    /// Whether a file with these attributes and that many ops has a place in this commit.
    pub(super) fn has_room(&self, meta: &Meta, ops: usize) -> Result<(), FileError> {
        if ops > OPS_MAX {
            let cause = format!("its content has {ops} pieces, a commit holds {OPS_MAX}");
            return Err(FileError::Beyond { cause });
        }
        let fits = self.meta_bytes + xattrs::bytes_of(&meta.xattrs) <= META_BYTES_MAX
            && self.changes.files.len() + self.others.len() < FILES_MAX
            && self.ops + ops <= OPS_MAX;
        if fits { Ok(()) } else { Err(FileError::NoRoom) }
    }
}

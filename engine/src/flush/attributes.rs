//! Attributes: those of new files of every kind, and of known files whose marks or listing differ.

use std::collections::BTreeSet;

use super::builder::{Builder, Entry};
use super::gathered::Gathered;
use super::running::Flush;
use super::world::{SourceTree, World};
use crate::catalog::Record;
use crate::dirty::Marks;
use crate::format::limits;
use crate::model::{FileChange, FileId, Kind, Meta, Xattrs};
use crate::reconcile::NewFile;
use crate::signature::SignatureWrites;
use crate::source::{Attributes, FileError, Stat};
use crate::tree::NodeWrites;
use crate::xattrs::{self, Flags, ReadXattrs};

/// Bytes of attributes in one commit, a quarter of what a commit object may have.
const META_BYTES_MAX: usize = limits::COMMIT / 4;
/// Files that one commit changes.
const FILES_MAX: usize = limits::CHANGES / 2;
/// Ops of one commit: a literal that crosses into another frame becomes two.
pub(super) const OPS_MAX: usize = limits::OPS - limits::FRAMES;

/// Builds `Meta` from what was read of an inode.
fn meta_of(stat: &Stat, target: Vec<u8>, xattrs: Xattrs, flags: Flags) -> Meta {
    let Stat { kind, mode, uid, gid, mtime, rdev, .. } = *stat;
    Meta { kind, mode, uid, gid, mtime, rdev, target, xattrs, flags: flags.bits, project: flags.project }
}

/// Refuses attributes from which a restore could not create the file.
fn makeable(meta: Meta) -> Result<Meta, FileError> {
    match meta.unmakeable() {
        Some(why) => Err(FileError::Unreadable { cause: why.into() }),
        None => Ok(meta),
    }
}

impl Builder {
    /// Builds the `Meta` of a regular file and records which attributes are left out of it.
    pub(super) fn meta_of_file(&mut self, id: FileId, record: Option<&Record>, stat: &Stat, read: ReadXattrs) -> Meta {
        let stat = Stat { kind: Kind::File, rdev: 0, ..stat.clone() };
        self.meta_of(id, record, &stat, Vec::new(), read)
    }

    fn meta_of(&mut self, id: FileId, record: Option<&Record>, stat: &Stat, target: Vec<u8>, read: ReadXattrs) -> Meta {
        let (xattrs, flags, left_out) = xattrs::settle(read, record.map(|record| &record.meta));
        if !left_out.is_empty() {
            self.files.entry(id).or_default().left_out = Some((stat.inode.ino, left_out));
        }
        meta_of(stat, target, xattrs, flags)
    }

    /// Adds a file that has no content to the commit; `old` is its record, if it has one.
    fn add_other(&mut self, id: FileId, stat: &Stat, meta: Meta, old: Option<&Record>) {
        if self.was_read(id) {
            return;
        }
        let mut change = None;
        if old.is_none_or(|old| old.meta != meta) {
            self.meta_bytes += xattrs::bytes_of(&meta.xattrs);
            change = Some(FileChange { id, meta: Some(meta.clone()), content: None });
        }
        let record = Record {
            id,
            inode: stat.inode,
            meta,
            size: 0,
            root: None,
            hole_bytes: 0,
            signed: false,
            ctime: Some(stat.ctime),
        };
        self.add(id, Entry { record, change, nodes: NodeWrites::new(), signatures: SignatureWrites::new() });
    }

    /// Checks that a file with these attributes and that many ops fits into this commit.
    pub(super) fn has_room(&self, meta: &Meta, ops: usize) -> Result<(), FileError> {
        if ops > OPS_MAX {
            let cause = format!("its content has {ops} pieces, a commit holds {OPS_MAX}");
            return Err(FileError::Beyond { cause });
        }
        let fits = self.meta_bytes + xattrs::bytes_of(&meta.xattrs) <= META_BYTES_MAX
            && self.changes < FILES_MAX
            && self.ops + ops <= OPS_MAX;
        if fits { Ok(()) } else { Err(FileError::NoRoom) }
    }
}

/// Reads the attributes of a new file that is not a regular file. If that fails, the file gets no entry in this commit: a
/// symlink without its target or a directory without its mode would be committed as something that never existed.
pub(super) fn read_other<W: SourceTree>(builder: &mut Builder, world: &mut W, new: &NewFile) -> Result<(), FileError> {
    // The listing saw the file before it was watched, so read its attributes again.
    let Attributes { stat, target, xattrs } = world.attributes(new.id, new.stat.inode)?;
    if stat.kind != new.stat.kind {
        return Err(FileError::Moved);
    }
    let meta = makeable(builder.meta_of(new.id, None, &stat, target, xattrs))?;
    builder.has_room(&meta, 0)?;
    builder.add_attributes(new.id, stat, meta);
    Ok(())
}

/// A deliberate mistake for the simulator to find: adds the entry with the attributes from the listing.
pub(super) fn take_plain(builder: &mut Builder, new: &NewFile) {
    let meta = meta_of(&new.stat, Vec::new(), Vec::new(), Flags::default());
    builder.add_attributes(new.id, new.stat.clone(), meta);
}

/// Adds everything but regular files: new ones, and known ones with a mark. With `compare`, also known ones whose listing
/// differs from their record.
pub(super) fn add_others<W: World>(
    flush: &mut Flush<'_, W>,
    builder: &mut Builder,
    names: &Gathered,
) -> Result<(), W::Error> {
    for new in names.plan.new.iter().filter(|new| new.stat.kind != Kind::File) {
        // Files that could not be read have already been taken out of the plan.
        if let Some((stat, meta)) = builder.take_attributes(new.id) {
            builder.add_other(new.id, &stat, meta, None);
        }
    }
    let gone: BTreeSet<FileId> = names.plan.gone.iter().copied().collect();
    let mut seen: Vec<FileId> = Vec::new();
    for (ino, _) in flush.taken.iter() {
        seen.extend(flush.world.by_inode(ino)?.into_iter().map(|record| record.id));
    }
    if flush.facts.compare {
        seen.extend(names.plan.seen.iter().map(|(id, _)| *id));
    }
    for id in seen {
        let Some(record) = flush.world.record(id)? else { continue };
        if record.meta.kind == Kind::File || gone.contains(&id) || builder.was_read(id) {
            continue;
        }
        match read_known(builder, flush.world, &record) {
            Ok((stat, meta)) if meta != record.meta || record.ctime != Some(stat.ctime) => {
                builder.add_other(id, &stat, meta, Some(&record));
            }
            Ok(_) => {}
            Err(error) => {
                let ino = record.inode.ino;
                flush.keep(ino, &Marks::meta());
                match error {
                    // The file moved after it was listed. Its marks wait until the catalog knows its new place.
                    FileError::Moved => {}
                    FileError::NoRoom => flush.report.carried += 1,
                    error => flush.report.failed(id, ino, error),
                }
            }
        }
    }
    Ok(())
}

/// Reads the attributes of a known file that is not a regular file.
fn read_known<W: SourceTree>(builder: &mut Builder, world: &mut W, record: &Record) -> Result<(Stat, Meta), FileError> {
    let Attributes { stat, target, xattrs } = world.attributes(record.id, record.inode)?;
    // Without inode generations, a file of another kind may have the number by now.
    if stat.kind != record.meta.kind {
        return Err(FileError::Moved);
    }
    let meta = makeable(builder.meta_of(record.id, Some(record), &stat, target, xattrs))?;
    if meta != record.meta {
        builder.has_room(&meta, 0)?;
    }
    Ok((stat, meta))
}

//! Attributes of what a flush saw: new files of every kind, and known ones whose marks or listing differ.

use super::commit::Builder;
use super::names::Gathered;
use super::world::{Record, Stat, World, Xattrs};
use super::{Facts, Report};
use crate::dirty::{DirtySet, Marks};
use crate::model::{FileChange, FileId, Kind, Meta};

/// `Meta` of a regular file.
pub(super) fn meta_of_file(stat: &Stat, xattrs: Xattrs) -> Meta {
    Meta {
        kind: Kind::File,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        rdev: 0,
        target: Vec::new(),
        xattrs,
        flags: 0,
        project: 0,
    }
}

impl Builder {
    /// Everything but regular files: new ones, and known ones with a mark (with `compare`, also those that a listing
    /// shows to differ).
    pub(super) fn add_names<W: World>(
        &mut self,
        world: &mut W,
        names: &Gathered,
        taken: &DirtySet,
        facts: &Facts,
        report: &mut Report,
        kept: &mut DirtySet,
    ) -> Result<(), W::Error> {
        for new in names.plan.new.iter().filter(|new| new.stat.kind != Kind::File) {
            // The listing saw it before it was watched; attributes are taken after.
            let now = world.stat(new.id)?.filter(|now| now.inode == new.stat.inode);
            let meta = match &now {
                Some(now) => world.meta_of(new.id, now),
                None => Err(super::world::FileError::Moved),
            };
            match meta {
                Ok(meta) => self.add_other(new.id, now.as_ref().unwrap_or(&new.stat), meta, None),
                Err(error) => {
                    // It moved or went between listing and now. Its name cannot be committed without attributes, so
                    // plain ones stand for it until the directory, which that change marked, is listed again.
                    let mut meta = meta_of_file(&new.stat, Vec::new());
                    meta.kind = new.stat.kind;
                    meta.rdev = new.stat.rdev;
                    self.add_other(new.id, &new.stat, meta, None);
                    kept.add(new.stat.inode.ino, &Marks { meta: true, ..Marks::default() }, 0);
                    report.errors.push((new.id, error));
                }
            }
        }
        let gone: std::collections::BTreeSet<FileId> = names.plan.gone.iter().copied().collect();
        let mut seen: Vec<(FileId, Option<Stat>)> = Vec::new();
        for (ino, _) in taken.iter() {
            for record in world.by_inode(ino)? {
                seen.push((record.id, None));
            }
        }
        if facts.compare {
            seen.extend(names.plan.seen.iter().map(|(id, stat)| (*id, Some(stat.clone()))));
        }
        for (id, stat) in seen {
            let Some(record) = world.record(id)? else { continue };
            if record.meta.kind == Kind::File || gone.contains(&id) {
                continue;
            }
            let stat = match stat {
                Some(stat) => stat,
                None => match world.stat(id)? {
                    Some(stat) if stat.inode == record.inode => stat,
                    // It moved since it was listed: its marks wait until the catalog knows where it is.
                    _ => {
                        let ino = record.inode.ino;
                        kept.add(
                            ino,
                            &Marks { meta: true, ..Marks::default() },
                            taken.get(ino).map_or(0, |w| w.since_ns),
                        );
                        continue;
                    }
                },
            };
            match world.meta_of(id, &stat) {
                Ok(meta) if meta != record.meta || record.ctime != Some(stat.ctime) => {
                    self.add_other(id, &stat, meta, Some(&record));
                }
                Ok(_) => {}
                Err(error) => {
                    let waiting = taken.get(record.inode.ino);
                    let since = waiting.map_or(0, |waiting| waiting.since_ns);
                    kept.add(record.inode.ino, &Marks { meta: true, ..Marks::default() }, since);
                    report.errors.push((id, error));
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
}

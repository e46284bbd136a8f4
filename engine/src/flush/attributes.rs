//! Attributes of what a flush saw: new files of every kind, and known ones whose marks or listing differ.

use super::commit::Builder;
use super::names::Gathered;
use super::world::{FileError, Record, Stat, World, Xattrs};
use super::{Facts, Report};
use crate::dirty::{DirtySet, Marks};
use crate::model::{FileChange, FileId, Kind, Meta};
use crate::reconcile::NewFile;

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

/// Refuses attributes of which no restore could make the file.
fn makeable(meta: Result<Meta, FileError>) -> Result<Meta, FileError> {
    let meta = meta?;
    match meta.unmakeable() {
        Some(why) => Err(FileError::Unreadable { cause: why.into() }),
        None => Ok(meta),
    }
}

impl Builder {
    /// Reads the attributes of a new file that is no regular one. Where that fails it has no entry in this commit: a name
    /// without its symlink's target, or a directory without its mode, would be another thing than what was there.
    pub(super) fn read_other<W: World>(
        &mut self,
        world: &mut W,
        new: &NewFile,
    ) -> Result<Result<(), FileError>, W::Error> {
        // The listing saw it before it was watched; attributes are taken after.
        let Some(now) = world.stat(new.id)?.filter(|now| now.inode == new.stat.inode) else {
            return Ok(Err(FileError::Moved));
        };
        Ok(makeable(world.meta_of(new.id, &now)).map(|meta| {
            self.others.insert(new.id, (now, meta));
        }))
    }

    /// What a flush must not do: the entry with what the listing told of it. For the simulation, which must notice.
    pub(super) fn take_plain(&mut self, new: &NewFile) {
        let Stat { kind, rdev, .. } = new.stat;
        let meta = Meta { kind, rdev, ..meta_of_file(&new.stat, Vec::new()) };
        self.others.insert(new.id, (new.stat.clone(), meta));
    }

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
            // What could not be read was taken out of the plan.
            if let Some((stat, meta)) = self.others.remove(&new.id) {
                self.add_other(new.id, &stat, meta, None);
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
            match makeable(world.meta_of(id, &stat)) {
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

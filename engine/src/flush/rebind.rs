//! Finds again which inodes carry the files of a volume, by their committed names. Needed after a mount that may have
//! reassigned inode numbers, and when the catalog was rebuilt from a store, which has no inode numbers.
//!
//! The file at a name now need not be the one that was there. So every bound file counts as changed: the following
//! comparison reads it, compares it with the committed content of that name, and sends what differs.

use std::collections::HashSet;

use super::world::{CommittedState, SourceTree};
use crate::catalog::Record;
use crate::identity::Span;
use crate::model::{FileId, Ino, InodeId, Kind};
use crate::source::Listed;

/// How many files one transaction binds.
const AT_ONCE: usize = 4096;

/// An inode that no file has, for a file whose inode is not known.
pub fn nowhere(id: FileId) -> InodeId {
    InodeId { ino: Ino::NONE, generation: id.0 }
}

/// Whether the file's inode number proves nothing after another mount.
pub fn is_void(inode: InodeId) -> bool {
    inode.ino == Ino::NONE || Span::of(inode) == Span::Mount
}

/// Binds every file for which `which` holds, except the root, to what is at its name, from the root down. A file that is
/// absent or of another kind is bound to no inode, and its name is then handled as removed. Returns how many were found. If
/// interrupted, it starts again from the beginning.
pub fn rebind<W>(world: &mut W, which: impl Fn(&Record) -> bool) -> Result<u64, W::Error>
where
    W: SourceTree + CommittedState,
{
    let mut directories = vec![FileId::ROOT];
    let (mut found, mut absent): (HashSet<FileId>, HashSet<FileId>) = Default::default();
    let mut bound = Vec::new();
    while let Some(dir) = directories.pop() {
        let mut there = Vec::new();
        if let Listed::Entries(entries) = world.list(dir)? {
            there = entries;
        }
        there.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for (name, id) in world.children(dir)? {
            let Some(record) = world.record(id)? else { continue };
            let at = there.binary_search_by(|entry| entry.name.cmp(&name)).ok();
            let seen = at.and_then(|at| there.get(at)).filter(|entry| entry.stat.kind == record.meta.kind);
            if record.meta.kind == Kind::Dir {
                directories.push(id);
            }
            if !which(&record) || found.contains(&id) {
                continue;
            }
            match seen {
                Some(entry) => {
                    absent.remove(&id);
                    found.insert(id);
                    bound.push((id, entry.stat.inode));
                }
                None => drop(absent.insert(id)),
            }
        }
        // Bind before listing below: a directory is listed only if its inode is the known one.
        if bound.len() >= AT_ONCE || directories.last().is_some_and(|dir| found.contains(dir)) {
            world.bind(&std::mem::take(&mut bound))?;
        }
    }
    world.bind(&bound)?;
    let absent: Vec<(FileId, InodeId)> = absent.into_iter().map(|id| (id, nowhere(id))).collect();
    for some in absent.chunks(AT_ONCE) {
        world.bind(some)?;
    }
    Ok(found.len() as u64)
}

//! Finding anew which inodes carry the files of a volume, by the names that are committed: after a mount that may have given
//! the numbers anew, and when the catalog was made from a store, which has none.
//!
//! What lies at a name now need not be the file that lay there. So every file that is bound counts as changed, and the
//! comparison that follows reads it: its content is compared with that of the name, and sent where it differs.

use std::collections::HashSet;

use super::world::{CommittedState, SourceTree};
use crate::catalog::Record;
use crate::identity::Span;
use crate::model::{FileId, Ino, InodeId, Kind};
use crate::source::Listed;

/// How many are bound in one transaction.
const AT_ONCE: usize = 4096;

/// The inode of a file of which none is known: no file has it.
pub fn nowhere(id: FileId) -> InodeId {
    InodeId { ino: Ino::NONE, generation: id.0 }
}

/// Whether a file's inode says nothing of what lies at its name after another mount.
pub fn is_void(inode: InodeId) -> bool {
    inode.ino == Ino::NONE || Span::of(inode) == Span::Mount
}

/// Binds every file for which `which` holds to what lies at its name, from the root down, the root itself excepted. One that
/// is not there, or is of another kind, is bound to nothing: its name is decided about as any that vanished. Returns how
/// many were found. Made again from the start if it is cut off.
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
        // Before what is below is listed: a directory is listed only if it is the one that is known.
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

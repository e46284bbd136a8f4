//! Adopts another directory in place of the source that a catalog describes: one that was restored, moved or created again.
//!
//! The committed files keep their ids, block values and signatures; only their inodes change. Names decide that, once: a
//! file that has the name and kind of a committed file is taken for it. All of it is read and compared afterwards, so that
//! only differences are uploaded. A committed name that is not there counts as a removal like any other, and a file under
//! no committed name is new.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use engine::catalog::{CatalogChange, Record};
use engine::model::{FileId, InodeId, Kind};
use engine::source::Stat;

use crate::catalog::{Catalog, Handles};
use crate::source::SourceRoot;
use crate::volume::world::WorldError;

/// How many committed files were found in the new directory, and how many not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rebound {
    pub found: u64,
    pub absent: u64,
}

/// Gives every committed file the inode that has its name in `root` now, or none if there is no such file. If the process
/// dies in between, fewer files have an inode; the caller notes before that it must be repeated.
///
/// # Errors
/// The catalog's. If a directory cannot be listed its files stay as committed; the flush reports it.
pub(crate) fn rebind(catalog: &Catalog, root: &SourceRoot) -> Result<Rebound, WorldError> {
    catalog.forget_inodes()?;
    let mut bound: HashSet<FileId> = HashSet::new();
    let mut used: HashSet<InodeId> = HashSet::new();
    let mut queue = VecDeque::from([(FileId::ROOT, PathBuf::new())]);
    while let Some((dir, path)) = queue.pop_front() {
        let children = catalog.children(dir)?;
        if children.is_empty() {
            continue;
        }
        let listed = match root.entries(&path) {
            Ok(listed) => listed.entries,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a directory of the new source cannot be listed");
                continue;
            }
        };
        let seen: HashMap<&[u8], &Stat> = listed.iter().map(|entry| (entry.name.as_slice(), &entry.stat)).collect();
        let (mut records, mut handles) = (Vec::new(), Handles::new());
        for (name, id) in children {
            let Some(stat) = seen.get(name.as_slice()) else { continue };
            let Some(record) = catalog.file(id)? else { continue };
            // The flush tells a second name of a file, here or there, from its first.
            if record.meta.kind != stat.kind || bound.contains(&id) || !used.insert(stat.inode) {
                continue;
            }
            let at = path.join(OsStr::from_bytes(&name));
            handles.extend(root.handle(&at, stat.inode).ok().flatten().map(|handle| (id, handle)));
            // Without a change time the record proves nothing about the content: the file is read.
            records.push(Record { inode: stat.inode, ctime: None, ..record });
            bound.insert(id);
            if stat.kind == Kind::Dir {
                queue.push_back((id, at));
            }
        }
        catalog.apply_with(&CatalogChange { records, ..CatalogChange::default() }, &handles)?;
    }
    let found = bound.len() as u64;
    let files = catalog.counts()?.files;
    // The source itself is a file of the catalog too, and arming binds it.
    Ok(Rebound { found, absent: files.saturating_sub(found + 1) })
}

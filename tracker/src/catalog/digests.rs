//! Digests of the names in large directories, in memory: a listing of 300,000 known names can be compared without reading
//! as many rows. A digest represents one name with its inode and kind, as 128 bits of BLAKE3, so that two different ones
//! never collide.
//!
//! They are computed at the first listing of a directory, and updated with every change of the catalog from then on.

use std::collections::{BTreeMap, BTreeSet};

use engine::catalog::{CatalogChange, Known};
use engine::model::{FileId, InodeId, Kind, NameChange};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::Result;
use super::{names, row};

/// From this many names on a directory gets digests: reading the rows would take about 10 ms.
const MANY: usize = 8192;
/// Most digests held in total, of 24 bytes each.
const MOST: usize = 2_000_000;

pub(super) type Digest = [u64; 2];

pub(super) fn digest(name: &[u8], inode: InodeId, kind: Kind) -> Digest {
    let mut bytes = Vec::with_capacity(name.len() + 24);
    for word in [inode.ino.0, inode.generation, row::kind_code(kind) as u64] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(name);
    let hash = blake3::hash(&bytes);
    let word = |at: usize| hash.as_bytes().iter().skip(at).take(8).fold(0, |word, byte| word << 8 | u64::from(*byte));
    [word(0), word(8)]
}

/// The digests of one directory, sorted.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) digests: Vec<(Digest, FileId)>,
    /// The number of the listing that last used it.
    pub(super) used: u64,
}

impl Names {
    pub(super) fn find(&self, digest: Digest) -> Option<usize> {
        self.digests.binary_search_by_key(&digest, |(one, _)| *one).ok()
    }
}

/// The digests of all directories that have any.
#[derive(Debug)]
pub(super) struct ListedNames {
    pub(super) directories: BTreeMap<FileId, Names>,
    pub(super) listings: u64,
    /// [`MANY`], outside of tests.
    pub(super) many: usize,
}

impl Default for ListedNames {
    fn default() -> Self {
        ListedNames { directories: BTreeMap::new(), listings: 0, many: MANY }
    }
}

/// The effect of one change of the catalog on digests, read before and after it.
#[derive(Debug, Default)]
pub(super) struct Update {
    names: BTreeSet<(FileId, Vec<u8>)>,
    removed: Vec<(FileId, Digest)>,
    added: Vec<(FileId, Digest, FileId)>,
}

impl ListedNames {
    pub(super) fn clear(&mut self) {
        self.directories.clear();
    }

    /// The first half: what `change` touches, before it is made.
    pub(super) fn before(&self, conn: &Connection, change: &CatalogChange) -> Result<Update> {
        let mut update = Update::default();
        if self.directories.is_empty() {
            return Ok(update);
        }
        for change in &change.names {
            let (NameChange::Set { parent, name, .. } | NameChange::Unset { parent, name }) = change;
            if self.directories.contains_key(parent) {
                update.names.insert((*parent, name.clone()));
            }
        }
        for id in change.records.iter().map(|file| file.id).chain(change.gone.iter().copied()) {
            let names = names::names_of(conn, id)?;
            update.names.extend(names.into_iter().filter(|(parent, _)| self.directories.contains_key(parent)));
        }
        for (parent, name) in &update.names {
            update.removed.extend(known(conn, *parent, name)?.map(|(_, digest)| (*parent, digest)));
        }
        Ok(update)
    }

    /// The second half, in the same transaction after the change.
    pub(super) fn after(conn: &Connection, mut update: Update) -> Result<Update> {
        for (parent, name) in &update.names {
            update.added.extend(known(conn, *parent, name)?.map(|(id, digest)| (*parent, digest, id)));
        }
        Ok(update)
    }

    /// Applies an update once the transaction is committed.
    pub(super) fn follow(&mut self, update: Update) {
        for (parent, digest) in update.removed {
            if let Some(names) = self.directories.get_mut(&parent)
                && let Some(at) = names.find(digest)
            {
                names.digests.remove(at);
            }
        }
        let mut sorted = BTreeSet::new();
        for (parent, digest, id) in update.added {
            if let Some(names) = self.directories.get_mut(&parent) {
                names.digests.push((digest, id));
                sorted.insert(parent);
            }
        }
        for parent in sorted {
            // Sorting costs one pass if it is sorted already.
            self.directories.get_mut(&parent).into_iter().for_each(|names| names.digests.sort());
        }
    }

    pub(super) fn make(&mut self, dir: FileId, known: &[(Vec<u8>, Known)]) {
        let mut digests: Vec<_> =
            known.iter().map(|(name, known)| (digest(name, known.inode, known.kind), known.id)).collect();
        digests.sort_unstable();
        self.directories.insert(dir, Names { digests, used: self.listings });
        while self.directories.values().map(|names| names.digests.len()).sum::<usize>() > MOST {
            let oldest = self.directories.iter().min_by_key(|(_, names)| names.used).map(|(dir, _)| *dir);
            if oldest.and_then(|dir| self.directories.remove(&dir)).is_none() {
                break;
            }
        }
    }
}

/// File and digest of one name in the catalog.
fn known(conn: &Connection, parent: FileId, name: &[u8]) -> Result<Option<(FileId, Digest)>> {
    let mut statement = conn.prepare_cached(
        "SELECT n.id, f.kind, f.ino, f.generation FROM names n JOIN files f ON f.id = n.id \
         WHERE n.parent = ?1 AND n.name = ?2",
    )?;
    let found = statement
        .query_row(params![parent.0 as i64, name], |found| {
            Ok((found.get::<_, i64>(0)?, found.get::<_, i64>(1)?, found.get(2)?, found.get(3)?))
        })
        .optional()?;
    let Some((id, kind, ino, generation)) = found else { return Ok(None) };
    Ok(Some((FileId(id as u64), digest(name, row::inode(ino, generation), row::kind_of(kind)?))))
}

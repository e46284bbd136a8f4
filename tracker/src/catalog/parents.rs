//! By which name each directory is reached, in memory: the path of a file takes one question to the database for each directory
//! of it that no other path had, not one for each directory above each file.
//!
//! Held across flushes; what a change of the catalog touches is forgotten with it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use engine::model::{FileId, NameChange};
use rusqlite::{Connection, OptionalExtension};

use super::{Catalog, CatalogChange, CatalogError, Result};

/// Directories above one another; a longer chain means a cycle, which only a damaged catalog has. Linux paths end at
/// 4,096 bytes, so a chain reachable by one path is shorter; deeper trees exist, and are walked up to this bound.
pub const MAX_DEPTH: usize = 65_536;
/// Bytes of names and entries held altogether.
const MOST: usize = 16 << 20;
/// Bytes of an entry beside its name.
const ENTRY: usize = 64;

/// A directory's parent and its name there.
pub type Place = (FileId, Arc<[u8]>);

/// Of what has files below it.
#[derive(Debug, Default)]
pub(super) struct Parents {
    places: HashMap<FileId, Place>,
    bytes: usize,
    /// Questions to the database so far.
    asked: u64,
    /// Grows with every change of names.
    version: u64,
}

impl Parents {
    /// What is held may not be what the catalog has.
    pub(super) fn clear(&mut self) {
        self.version += 1;
        self.drop_all();
    }

    fn drop_all(&mut self) {
        self.places.clear();
        self.bytes = 0;
    }

    /// The first name of a file; `None` if it has none. `above`: a file below it was asked for, others may follow.
    fn of(&mut self, conn: &Connection, id: FileId, above: bool) -> Result<Option<Place>> {
        if let Some(place) = self.places.get(&id) {
            return Ok(Some(place.clone()));
        }
        self.asked += 1;
        let mut statement =
            conn.prepare_cached("SELECT parent, name FROM names WHERE id = ?1 ORDER BY parent, name LIMIT 1")?;
        let found = statement
            .query_row([id.0 as i64], |row| Ok((FileId(row.get::<_, i64>(0)? as u64), row.get::<_, Vec<u8>>(1)?)))
            .optional()?;
        let Some((parent, name)) = found else { return Ok(None) };
        let place: Place = (parent, name.into());
        if above {
            if self.bytes + ENTRY + place.1.len() > MOST {
                self.drop_all();
            }
            self.bytes += ENTRY + place.1.len();
            self.places.insert(id, place.clone());
        }
        Ok(Some(place))
    }

    /// Once `change` is made.
    pub(super) fn follow(&mut self, change: &CatalogChange) {
        if change.names.is_empty() && change.gone.is_empty() {
            return;
        }
        self.version += 1;
        if self.places.is_empty() {
            return;
        }
        let mut touched: HashSet<(FileId, &[u8])> = HashSet::new();
        let mut ids: HashSet<FileId> = change.gone.iter().copied().collect();
        for change in &change.names {
            let (NameChange::Set { parent, name, .. } | NameChange::Unset { parent, name }) = change;
            touched.insert((*parent, name));
            if let NameChange::Set { id, .. } = change {
                ids.insert(*id);
            }
        }
        let bytes = &mut self.bytes;
        self.places.retain(|id, (parent, name)| {
            let stays = !ids.contains(id) && !touched.contains(&(*parent, &**name));
            if !stays {
                *bytes -= ENTRY + name.len();
            }
            stays
        });
    }
}

impl Catalog {
    /// The first name of a file and the directory that has it, in the order of ids and bytes; `None` for the source directory
    /// and for a file without a name. `above`: it is asked for as a directory on the way to another file.
    ///
    /// # Errors
    /// The database's.
    pub fn place_of(&self, id: FileId, above: bool) -> Result<Option<Place>> {
        let mut parents = self.parents();
        let conn = self.lock();
        parents.of(&conn, id, above)
    }

    /// The path of a file below the source directory, by one of its names; empty for the source directory itself,
    /// `None` for a file without a name. `Damaged` when the chain of parents does not end.
    pub fn path_of(&self, id: FileId) -> Result<Option<PathBuf>> {
        let mut parents = self.parents();
        let conn = self.lock();
        let mut names: Vec<Arc<[u8]>> = Vec::new();
        let mut at = id;
        while at != FileId::ROOT {
            if names.len() == MAX_DEPTH {
                return Err(CatalogError::Damaged { table: "names", what: "parents form a cycle" });
            }
            let Some((parent, name)) = parents.of(&conn, at, at != id)? else { return Ok(None) };
            names.push(name);
            at = parent;
        }
        Ok(Some(names.iter().rev().map(|name| OsStr::from_bytes(name)).collect()))
    }

    /// Another number than before when names may have changed in between.
    pub fn names_version(&self) -> u64 {
        self.parents().version
    }

    /// How many questions about names the database was asked by [`Catalog::place_of`] and [`Catalog::path_of`] so far.
    pub fn places_asked(&self) -> u64 {
        self.parents().asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::{fresh, row, set, unset};
    use engine::model::Kind;

    fn apply(catalog: &Catalog, ids: &[u64], names: Vec<NameChange>, gone: &[u64]) {
        let files = ids.iter().map(|id| row(*id, Kind::Dir)).collect();
        let gone = gone.iter().map(|id| FileId(*id)).collect();
        catalog.apply(&CatalogChange { files, names, gone, ..CatalogChange::default() }).unwrap();
    }

    fn path(catalog: &Catalog, id: u64) -> Option<String> {
        catalog.path_of(FileId(id)).unwrap().map(|path| path.to_str().unwrap().to_owned())
    }

    /// Two questions for each directory, as itself and as one above, not one for each above each: however often paths are asked
    /// for.
    #[test]
    fn paths_of_a_deep_tree_cost_one_question_a_directory() {
        const LEVELS: u64 = 1500;
        let (_dir, _path, catalog) = fresh();
        let ids: Vec<u64> = (2..LEVELS + 2).collect();
        apply(&catalog, &ids, ids.iter().map(|id| set(id - 1, b"d", *id)).collect(), &[]);
        for _ in 0..2 {
            for id in &ids {
                assert_eq!(path(&catalog, *id).unwrap().len() as u64, (id - 1) * 2 - 1);
            }
        }
        let asked = catalog.places_asked();
        assert!(asked <= 2 * LEVELS + 1, "{asked} questions for {LEVELS} directories");
        // A commit that touches one of them has that one asked for again, and the lowest is never held.
        apply(&catalog, &[], vec![unset(1, b"d"), set(1, b"e", 2)], &[]);
        assert!(path(&catalog, LEVELS).unwrap().starts_with("e/d/d/"));
        assert!(catalog.places_asked() <= asked + 3);
    }

    #[test]
    fn a_path_is_that_of_the_last_change() {
        let (_dir, _path, catalog) = fresh();
        apply(&catalog, &[2, 3, 4], vec![set(1, b"a", 2), set(2, b"b", 3), set(3, b"c", 4)], &[]);
        assert_eq!(path(&catalog, 4).as_deref(), Some("a/b/c"));
        // Two names exchanged, one moved, one that another took, one removed.
        apply(&catalog, &[5], vec![set(1, b"x", 5), set(5, b"b", 3), unset(2, b"b")], &[]);
        assert_eq!(path(&catalog, 4).as_deref(), Some("x/b/c"));
        apply(&catalog, &[], vec![set(1, b"a", 5), set(1, b"x", 2)], &[]);
        assert_eq!((path(&catalog, 4).as_deref(), path(&catalog, 2).as_deref()), (Some("a/b/c"), Some("x")));
        apply(&catalog, &[6], vec![set(3, b"c", 6)], &[4]);
        assert_eq!((path(&catalog, 4), path(&catalog, 6).as_deref()), (None, Some("a/b/c")));
        // A name that sorts before the one that was the first.
        apply(&catalog, &[], vec![set(1, b"0", 6)], &[]);
        assert_eq!(path(&catalog, 6).as_deref(), Some("0"));
        catalog.wipe_for_rebuild().unwrap();
        assert_eq!(path(&catalog, 6), None);
    }

    #[test]
    fn what_is_held_has_a_bound() {
        let (_dir, _path, catalog) = fresh();
        let name = "n".repeat(255);
        let each = (ENTRY + name.len()) as u64;
        let levels = MOST as u64 / each + 50;
        let ids: Vec<u64> = (2..levels + 2).collect();
        apply(&catalog, &ids, ids.iter().map(|id| set(id - 1, name.as_bytes(), *id)).collect(), &[]);
        for id in ids {
            catalog.place_of(FileId(id), true).unwrap();
            let parents = catalog.parents();
            assert!(parents.bytes <= MOST && parents.bytes as u64 == parents.places.len() as u64 * each);
        }
    }
}

//! Paths of files below the source directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use engine::model::FileId;

use super::database::Catalog;
use super::error::{CatalogError, Result};
use super::parents::{MAX_DEPTH, Place};

impl Catalog {
    /// The first name of a file and the directory that contains it, in the order of ids and bytes; `None` for the source
    /// directory and for a file without a name. `above`: this is a directory above the requested file.
    ///
    /// # Errors
    /// The database's.
    pub fn place_of(&self, id: FileId, above: bool) -> Result<Option<Place>> {
        let mut parents = self.parents();
        let conn = self.lock();
        parents.of(&conn, id, above)
    }

    /// The path of a file below the source directory, by one of its names; empty for the source directory itself, `None`
    /// for a file without a name. `Damaged` if the chain of parents does not end.
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

    /// Changes whenever names may have changed.
    pub fn names_version(&self) -> u64 {
        self.parents().version
    }

    /// How many queries about names [`Catalog::place_of`] and [`Catalog::path_of`] have made so far.
    pub fn places_asked(&self) -> u64 {
        self.parents().asked
    }
}

#[cfg(test)]
mod tests {
    use engine::catalog::CatalogChange;
    use engine::model::NameChange;

    use super::super::parents::{ENTRY, MOST};
    use super::*;
    use crate::catalog::tests::{fresh, row, set, unset};
    use engine::model::Kind;

    fn apply(catalog: &Catalog, ids: &[u64], names: Vec<NameChange>, gone: &[u64]) {
        let records = ids.iter().map(|id| row(*id, Kind::Dir)).collect();
        let gone = gone.iter().map(|id| FileId(*id)).collect();
        catalog.apply(&CatalogChange { records, names, gone, ..CatalogChange::default() }).unwrap();
    }

    fn path(catalog: &Catalog, id: u64) -> Option<String> {
        catalog.path_of(FileId(id)).unwrap().map(|path| path.to_str().unwrap().to_owned())
    }

    /// Two queries for each directory, as the file itself and as one above, not one for each directory above each file,
    /// however often paths are requested.
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
        // A commit that touches one of them causes one new query for it; the lowest one is never cached.
        apply(&catalog, &[], vec![unset(1, b"d"), set(1, b"e", 2)], &[]);
        assert!(path(&catalog, LEVELS).unwrap().starts_with("e/d/d/"));
        assert!(catalog.places_asked() <= asked + 3);
    }

    #[test]
    fn a_path_is_that_of_the_last_change() {
        let (_dir, _path, catalog) = fresh();
        apply(&catalog, &[2, 3, 4], vec![set(1, b"a", 2), set(2, b"b", 3), set(3, b"c", 4)], &[]);
        assert_eq!(path(&catalog, 4).as_deref(), Some("a/b/c"));
        // Two names exchanged, one moved, one taken by another file, one removed.
        apply(&catalog, &[5], vec![set(1, b"x", 5), set(5, b"b", 3), unset(2, b"b")], &[]);
        assert_eq!(path(&catalog, 4).as_deref(), Some("x/b/c"));
        apply(&catalog, &[], vec![set(1, b"a", 5), set(1, b"x", 2)], &[]);
        assert_eq!((path(&catalog, 4).as_deref(), path(&catalog, 2).as_deref()), (Some("a/b/c"), Some("x")));
        apply(&catalog, &[6], vec![set(3, b"c", 6)], &[4]);
        assert_eq!((path(&catalog, 4), path(&catalog, 6).as_deref()), (None, Some("a/b/c")));
        // A name that sorts before the previous first one.
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

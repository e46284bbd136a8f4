//! A cache of each directory's parent and name. Without it, the path of every file would cost one query for each directory above
//! it; with it, each directory is queried once.
//!
//! Kept across flushes. A change of the catalog drops the entries that it touches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use engine::catalog::CatalogChange;
use engine::model::{FileId, NameChange};
use rusqlite::{Connection, OptionalExtension};

use super::error::Result;

/// Longest chain of directories; a longer one means a cycle, which only a damaged catalog has. Linux paths end at 4,096
/// bytes, so a chain reachable by one path is shorter; deeper trees exist, and are walked up to this limit.
pub const MAX_DEPTH: usize = 65_536;
/// Most bytes of names and entries held in total.
pub(super) const MOST: usize = 16 << 20;
/// Bytes of an entry besides its name.
pub(super) const ENTRY: usize = 64;

/// A directory's parent and its name there.
pub type Place = (FileId, Arc<[u8]>);

/// Parent and name of the directories above files.
#[derive(Debug, Default)]
pub(super) struct Parents {
    pub(super) places: HashMap<FileId, Place>,
    pub(super) bytes: usize,
    /// Queries to the database so far.
    pub(super) asked: u64,
    /// Increases with every change of names.
    pub(super) version: u64,
}

impl Parents {
    /// Forgets everything, because it may not match the catalog.
    pub(super) fn clear(&mut self) {
        self.version += 1;
        self.drop_all();
    }

    fn drop_all(&mut self) {
        self.places.clear();
        self.bytes = 0;
    }

    /// The first name of a file; `None` if it has none. `above`: this is a directory above the requested file, so others
    /// may ask for it too.
    pub(super) fn of(&mut self, conn: &Connection, id: FileId, above: bool) -> Result<Option<Place>> {
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

    /// Updates the cache after `change` was made.
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

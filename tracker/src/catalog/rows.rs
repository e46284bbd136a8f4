//! The rows of block values and signatures that were read of late.
//!
//! A flush reads each row that it changes: for its new values, and when it writes what changed. The next flush of the same file reads it
//! again. These reads were the largest part of what a flush of scattered blocks costs.

use std::num::NonZeroUsize;

use engine::model::FileId;
use engine::signature::ENTRY_BYTES;
use engine::tree::VALUE_BYTES;
use lru::LruCache;
use rusqlite::{Connection, OptionalExtension, params};

use super::error::Result;

/// A table of rows of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Table {
    Nodes,
    Sigs,
}

impl Table {
    pub(super) fn width(self) -> usize {
        match self {
            Table::Nodes => VALUE_BYTES,
            Table::Sigs => ENTRY_BYTES,
        }
    }
}

/// A row: file, table, level (0 for signatures) and index. The file is first, so that its rows lie together.
pub(super) type Key = (FileId, Table, u8, u64);

/// Rows of 16 KiB at most: 4 MiB of one volume, enough for writes all over a file of 256 MiB.
const MOST: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// What the tables have, as long as the catalog's lock of `late` is held: nobody else writes these.
#[derive(Debug)]
pub(super) struct Rows(LruCache<Key, Vec<u8>>);

impl Default for Rows {
    fn default() -> Self {
        Rows(LruCache::new(MOST))
    }
}

impl Rows {
    /// A row as its table has it.
    pub(super) fn stored(&mut self, conn: &Connection, key: Key) -> Result<Option<&[u8]>> {
        if !self.0.contains(&key) {
            let Some(row) = read(conn, key)? else { return Ok(None) };
            self.0.put(key, row);
        }
        Ok(self.0.get(&key).map(Vec::as_slice))
    }

    /// Writes or deletes a row.
    pub(super) fn put(&mut self, conn: &Connection, key: Key, blob: Option<&[u8]>) -> Result<()> {
        self.0.pop(&key);
        write(conn, key, blob)
    }

    /// All rows of a file were deleted.
    pub(super) fn gone(&mut self, file: FileId) {
        let of_file: Vec<Key> = self.0.iter().map(|(key, _)| *key).filter(|key| key.0 == file).collect();
        for key in of_file {
            self.0.pop(&key);
        }
    }

    /// A transaction did not take effect, or that is not known.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn read(conn: &Connection, (file, table, level, index): Key) -> Result<Option<Vec<u8>>> {
    let (file, index) = (file.0 as i64, index as i64);
    Ok(match table {
        Table::Nodes => conn
            .prepare_cached("SELECT blob FROM nodes WHERE file = ?1 AND level = ?2 AND idx = ?3")?
            .query_row(params![file, level, index], |row| row.get(0)),
        Table::Sigs => conn
            .prepare_cached("SELECT blob FROM sigs WHERE file = ?1 AND grp = ?2")?
            .query_row(params![file, index], |row| row.get(0)),
    }
    .optional()?)
}

fn write(conn: &Connection, (file, table, level, index): Key, blob: Option<&[u8]>) -> Result<()> {
    let (file, index) = (file.0 as i64, index as i64);
    match (table, blob) {
        (Table::Nodes, Some(blob)) => conn
            .prepare_cached("INSERT OR REPLACE INTO nodes(file, level, idx, blob) VALUES(?1, ?2, ?3, ?4)")?
            .execute(params![file, level, index, blob]),
        (Table::Nodes, None) => conn
            .prepare_cached("DELETE FROM nodes WHERE file = ?1 AND level = ?2 AND idx = ?3")?
            .execute(params![file, level, index]),
        (Table::Sigs, Some(blob)) => conn
            .prepare_cached("INSERT OR REPLACE INTO sigs(file, grp, blob) VALUES(?1, ?2, ?3)")?
            .execute(params![file, index, blob]),
        (Table::Sigs, None) => {
            conn.prepare_cached("DELETE FROM sigs WHERE file = ?1 AND grp = ?2")?.execute(params![file, index])
        }
    }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use engine::catalog::{CatalogChange, Missing};
    use engine::model::Kind;

    use super::super::tests::{fresh, row};
    use super::*;

    /// The transaction fails after a row was written in it, and read again.
    #[test]
    fn a_row_of_a_transaction_that_failed_is_not_kept() {
        let (_dir, _path, catalog) = fresh();
        let node = |values: Vec<u8>| ((FileId(3), 0, 0), Some(values));
        let (first, second) = (vec![1; 16384], vec![2; 16384]);
        let records = vec![row(1, Kind::Dir), row(3, Kind::File)];
        catalog.apply(&CatalogChange { records, nodes: vec![node(first.clone())], ..Default::default() }).unwrap();
        assert_eq!(catalog.node(FileId(3), 0, 0).unwrap(), Some(first.clone()));
        let refuse = "CREATE TEMP TRIGGER no BEFORE INSERT ON missing BEGIN SELECT RAISE(ABORT, 'no'); END";
        catalog.write(|conn| Ok(conn.execute_batch(refuse)?)).unwrap();
        let missing = Some(vec![Missing { parent: FileId(1), name: b"n".to_vec(), drain: 1 }]);
        let nodes = vec![node(second.clone()), node([&[3; 32], &second[32..]].concat())];
        catalog.apply(&CatalogChange { missing, nodes, ..Default::default() }).unwrap_err();
        assert_eq!(catalog.node(FileId(3), 0, 0).unwrap(), Some(first));
    }
}

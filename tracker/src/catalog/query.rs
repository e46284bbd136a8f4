//! Queries on the committed image.

use std::borrow::Cow;

use engine::catalog::{Known, Record};
use engine::model::{FileId, Ino, Kind};
use rusqlite::{Connection, OptionalExtension, params};

use super::database::Catalog;
use super::error::{CatalogError, Result};
use super::names::{known, names_of, select_known};
use super::row;
use super::rows::{Key, Table};

/// How much the catalog holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub files: u64,
    pub names: u64,
    /// Sum of the sizes of all committed images, in bytes.
    pub bytes: u64,
    /// Inodes with marks that are not committed.
    pub pending: u64,
    /// Names whose removal waits for proof.
    pub missing: u64,
}

impl Catalog {
    pub fn file(&self, id: FileId) -> Result<Option<Record>> {
        self.read(|conn| row::by_id(conn, id))
    }

    /// The file's `name_to_handle_at` result from when its inode was last seen.
    pub fn handle(&self, id: FileId) -> Result<Option<Vec<u8>>> {
        self.read(|conn| row::handle(conn, id))
    }

    /// All files whose inode had this number; more than one if the number was reused and the old file is not committed as
    /// removed yet.
    pub fn by_ino(&self, ino: Ino) -> Result<Vec<Record>> {
        self.read(|conn| {
            let sql = select_files("WHERE ino = ?1 ORDER BY id");
            let mut statement = conn.prepare_cached(&sql)?;
            let mut rows = statement.query([row::ino_column(ino)])?;
            let mut out = Vec::new();
            while let Some(found) = rows.next()? {
                out.push(row::read(found)?);
            }
            Ok(out)
        })
    }

    /// How many files there are, without directories. Scans all of them.
    pub fn files(&self) -> Result<u64> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT count(*) FROM files WHERE kind != ?1")?;
            let count: i64 = statement.query_row([row::kind_code(Kind::Dir)], |row| row.get(0))?;
            Ok(count as u64)
        })
    }

    pub fn child(&self, parent: FileId, name: &[u8]) -> Result<Option<FileId>> {
        self.read(|conn| {
            Ok(conn
                .prepare_cached("SELECT id FROM names WHERE parent = ?1 AND name = ?2")?
                .query_row(params![parent.0 as i64, name], |row| row.get::<_, i64>(0))
                .optional()?
                .map(|id| FileId(id as u64)))
        })
    }

    /// The names in a directory, sorted by their bytes.
    pub fn children(&self, parent: FileId) -> Result<Vec<(Vec<u8>, FileId)>> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT n.name, n.id FROM names n JOIN files f ON f.id = n.id WHERE n.parent = ?1 ORDER BY n.name",
            )?;
            let rows = statement
                .query_map([parent.0 as i64], |row| Ok((row.get(0)?, FileId(row.get::<_, i64>(1)? as u64))))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// The names in a directory, with what a listing of it is compared with, in no particular order.
    pub fn known_in(&self, parent: FileId) -> Result<Vec<(Vec<u8>, Known)>> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(&select_known("WHERE n.parent = ?1"))?;
            let mut rows = statement.query([parent.0 as i64])?;
            let mut out = Vec::new();
            while let Some(found) = rows.next()? {
                out.push((found.get(0)?, known(found)?));
            }
            Ok(out)
        })
    }

    /// Every (parent, name) of a file: several for hard links, none for the source directory.
    pub fn names_of(&self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>> {
        self.read(|conn| names_of(conn, id))
    }

    /// One opaque tree node of `engine::tree`.
    pub fn node(&self, file: FileId, level: u8, idx: u64) -> Result<Option<Vec<u8>>> {
        self.values((file, Table::Nodes, level, idx))
    }

    /// One opaque signature group of `engine::signature`.
    pub fn sig(&self, file: FileId, group: u64) -> Result<Option<Vec<u8>>> {
        self.values((file, Table::Sigs, 0, group))
    }

    fn values(&self, key: Key) -> Result<Option<Vec<u8>>> {
        // Held until the row is read, so that both are of the same time.
        let late = self.late()?;
        let mut rows = self.rows();
        let row = self.read(|conn| rows.stored(conn, key))?;
        Ok(late.lay_over(key, row).map(Cow::into_owned))
    }

    /// Up to `limit` files with an id above `after`, by id: start with `FileId(0)`, then pass the last id returned. An
    /// empty list is the end. Files committed between two calls may or may not be included.
    pub fn files_after(&self, after: FileId, limit: usize) -> Result<Vec<Record>> {
        self.read(|conn| {
            let sql = select_files("WHERE id > ?1 ORDER BY id LIMIT ?2");
            let mut statement = conn.prepare_cached(&sql)?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut rows = statement.query(params![after.0 as i64, limit])?;
            let mut out = Vec::new();
            while let Some(found) = rows.next()? {
                out.push(row::read(found)?);
            }
            Ok(out)
        })
    }

    /// Sum of the sizes of all committed images, in bytes.
    pub fn content_bytes(&self) -> Result<u64> {
        self.read(|conn| {
            let mut sum = conn.prepare_cached("SELECT coalesce(sum(size), 0) FROM files")?;
            Ok(sum.query_row([], |row| row.get::<_, i64>(0))? as u64)
        })
    }

    /// Passes every known inode number to `each`, many at a time.
    ///
    /// # Errors
    /// The catalog's, and those of `each`.
    pub fn each_inodes<E: From<CatalogError>>(
        &self,
        mut each: impl FnMut(&[Ino]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        const AT_ONCE: i64 = 65_536;
        let mut after = 0;
        loop {
            let rows: Vec<(i64, i64)> = self.read(|conn| {
                let mut some = conn.prepare_cached("SELECT id, ino FROM files WHERE id > ?1 ORDER BY id LIMIT ?2")?;
                let rows = some.query_map(params![after, AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            after = *last;
            // A file of a rebuilt catalog has no inode yet.
            let inodes: Vec<Ino> =
                rows.iter().map(|(_, ino)| row::ino_of(*ino)).filter(|ino| *ino != Ino::NONE).collect();
            each(&inodes)?;
        }
    }

    /// Inode numbers of files whose ctime, when their committed image was read, is in this second (since 1970) or later.
    pub fn files_changed_since(&self, second: i64) -> Result<Vec<Ino>> {
        self.read(|conn| {
            let mut some =
                conn.prepare_cached("SELECT ino FROM files WHERE ctime_sec >= ?1 AND kind = ?2 AND ino != 0")?;
            let rows = some.query_map(params![second, row::kind_code(Kind::File)], |row| row.get::<_, i64>(0))?;
            Ok(rows.map(|ino| ino.map(row::ino_of)).collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Whether any file except the root has no generation, or no inode at all.
    pub fn has_void_inodes(&self) -> Result<bool> {
        self.read(|conn| {
            let sql = "SELECT EXISTS(SELECT 1 FROM files WHERE (generation = 0 OR ino = 0) AND id != 1)";
            Ok(conn.query_row(sql, [], |row| row.get(0))?)
        })
    }

    pub fn counts(&self) -> Result<Counts> {
        self.read(|conn| {
            let count = |sql: &str| -> Result<u64> {
                Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0))? as u64)
            };
            Ok(Counts {
                files: count("SELECT count(*) FROM files")?,
                names: count("SELECT count(*) FROM names")?,
                bytes: count("SELECT coalesce(sum(size), 0) FROM files")?,
                pending: count("SELECT count(*) FROM pending")?,
                missing: count("SELECT count(*) FROM missing")?,
            })
        })
    }

    /// Contradictions between the tables, for tests, `doctor` and a suspicious operator; empty if there are none.
    pub fn inconsistencies(&self) -> Result<Vec<String>> {
        const CHECKS: [(&str, &str); 5] = [
            ("names without their file", "SELECT count(*) FROM names WHERE id NOT IN (SELECT id FROM files)"),
            (
                "names below what is no directory",
                "SELECT count(*) FROM names WHERE parent NOT IN (SELECT id FROM files WHERE kind = 2)",
            ),
            ("files without a name", "SELECT count(*) FROM files WHERE id != 1 AND id NOT IN (SELECT id FROM names)"),
            ("nodes without their file", "SELECT count(*) FROM nodes WHERE file NOT IN (SELECT id FROM files)"),
            ("signatures without their file", "SELECT count(*) FROM sigs WHERE file NOT IN (SELECT id FROM files)"),
        ];
        self.read(|conn| {
            let mut out = Vec::new();
            for (what, sql) in CHECKS {
                let count: i64 = conn.query_row(sql, [], |row| row.get(0))?;
                if count > 0 {
                    out.push(format!("{count} {what}"));
                }
            }
            out.extend(integrity(conn)?);
            Ok(out)
        })
    }
}

fn integrity(conn: &Connection) -> Result<Vec<String>> {
    let mut statement = conn.prepare("PRAGMA quick_check(16)")?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

fn select_files(tail: &str) -> String {
    format!("SELECT {} FROM files {tail}", row::COLUMNS)
}

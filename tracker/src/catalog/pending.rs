//! Marks that are not committed yet, and removals that wait for a second listing.

use engine::model::FileId;
use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Catalog, CatalogError, Result};

/// The marks of one inode.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingRow {
    pub ino: u64,
    /// Flag bits (size, meta, names, rescan, ..) as their owner defines them; the catalog only joins them.
    pub flags: u32,
    /// Hull of large ranges that were not marked block by block: bytes `from..end`.
    pub range: Option<(u64, u64)>,
    /// Marked block indexes.
    pub blocks: RoaringBitmap,
    /// When the oldest of these marks was drained, in nanoseconds of the caller's clock.
    pub since_ns: u64,
}

impl PendingRow {
    /// Takes the marks of `other` in too: never fewer marks than either had.
    pub fn join(&mut self, other: &PendingRow) {
        self.flags |= other.flags;
        self.range = match (self.range, other.range) {
            (Some((from, end)), Some((other_from, other_end))) => Some((from.min(other_from), end.max(other_end))),
            (one, None) => one,
            (None, one) => one,
        };
        self.blocks |= &other.blocks;
        self.since_ns = self.since_ns.min(other.since_ns);
    }
}

/// A committed name that a listing did not show, kept until a listing after a later swap agrees (section 4.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingRow {
    pub parent: FileId,
    pub name: Vec<u8>,
    /// The drain in which it was first missed.
    pub drain: u64,
}

impl Catalog {
    /// Adds marks to what is stored: a row that exists is joined, never narrowed, so a caller that knows less cannot
    /// lose a mark (I4). In one transaction, and safe from `kill -9` when it returns (I3).
    pub fn save_pending(&self, rows: &[PendingRow]) -> Result<()> {
        self.write(|conn| {
            for row in rows {
                match get(conn, row.ino)? {
                    None => put(conn, row)?,
                    Some(mut stored) => {
                        stored.join(row);
                        put(conn, &stored)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// All stored marks, by inode number.
    pub fn load_pending(&self) -> Result<Vec<PendingRow>> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(&format!("{SELECT} ORDER BY ino"))?;
            let mut rows = statement.query([])?;
            let mut out = Vec::new();
            while let Some(row) = rows.next()? {
                out.push(read(row)?);
            }
            Ok(out)
        })
    }

    /// Drops marks without a commit: only for inodes known to be outside the volume or gone from it.
    pub fn forget_pending(&self, inos: &[u64]) -> Result<()> {
        self.write(|conn| forget(conn, inos))
    }

    /// Drops and replaces marks without a commit, in one transaction: the `forget` rows go, then each row of `keep`
    /// takes the place of what was stored for its inode.
    pub fn replace_pending(&self, inos: &[u64], keep: &[PendingRow]) -> Result<()> {
        self.write(|conn| {
            forget(conn, inos)?;
            keep.iter().try_for_each(|row| put(conn, row))
        })
    }

    /// Records that names were missing in a listing. A name already recorded keeps its first drain.
    pub fn save_missing(&self, rows: &[MissingRow]) -> Result<()> {
        self.write(|conn| {
            for row in rows {
                put_missing(conn, row)?;
            }
            Ok(())
        })
    }

    /// The removals that wait, by parent and name.
    pub fn load_missing(&self) -> Result<Vec<MissingRow>> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT parent, name, drain FROM missing ORDER BY parent, name")?;
            let rows = statement.query_map([], |row| {
                Ok(MissingRow {
                    parent: FileId(row.get::<_, i64>(0)? as u64),
                    name: row.get(1)?,
                    drain: row.get::<_, i64>(2)? as u64,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// The names were seen again, or their removal is committed.
    pub fn forget_missing(&self, names: &[(FileId, Vec<u8>)]) -> Result<()> {
        self.write(|conn| {
            for (parent, name) in names {
                drop_missing(conn, *parent, name)?;
            }
            Ok(())
        })
    }
}

const SELECT: &str = "SELECT ino, flags, from_, end_, blocks, since_ns FROM pending";

fn get(conn: &Connection, ino: u64) -> Result<Option<PendingRow>> {
    conn.prepare_cached(&format!("{SELECT} WHERE ino = ?1"))?
        .query_row([ino as i64], |row| Ok(read(row)))
        .optional()?
        .transpose()
}

/// Stores a row as it is, in place of what was there.
pub(super) fn put(conn: &Connection, row: &PendingRow) -> Result<()> {
    let mut blocks = Vec::new();
    if !row.blocks.is_empty() {
        blocks.reserve_exact(row.blocks.serialized_size());
        row.blocks
            .serialize_into(&mut blocks)
            .map_err(|_| CatalogError::Damaged { table: "pending", what: "bitmap cannot be written" })?;
    }
    conn.prepare_cached(
        "INSERT OR REPLACE INTO pending(ino, flags, from_, end_, blocks, since_ns) VALUES(?1,?2,?3,?4,?5,?6)",
    )?
    .execute(params![
        row.ino as i64,
        row.flags,
        row.range.map(|(from, _)| from as i64),
        row.range.map(|(_, end)| end as i64),
        blocks,
        row.since_ns as i64,
    ])?;
    Ok(())
}

pub(super) fn forget(conn: &Connection, inos: &[u64]) -> Result<()> {
    let mut statement = conn.prepare_cached("DELETE FROM pending WHERE ino = ?1")?;
    for ino in inos {
        statement.execute([*ino as i64])?;
    }
    Ok(())
}

fn read(row: &Row<'_>) -> Result<PendingRow> {
    let bytes: Vec<u8> = row.get(4)?;
    let blocks = if bytes.is_empty() {
        RoaringBitmap::new()
    } else {
        RoaringBitmap::deserialize_from(&bytes[..])
            .map_err(|_| CatalogError::Damaged { table: "pending", what: "bitmap" })?
    };
    let range = match (row.get::<_, Option<i64>>(2)?, row.get::<_, Option<i64>>(3)?) {
        (Some(from), Some(end)) => Some((from as u64, end as u64)),
        (None, None) => None,
        _ => return Err(CatalogError::Damaged { table: "pending", what: "range" }),
    };
    Ok(PendingRow {
        ino: row.get::<_, i64>(0)? as u64,
        flags: row.get(1)?,
        range,
        blocks,
        since_ns: row.get::<_, i64>(5)? as u64,
    })
}

pub(super) fn put_missing(conn: &Connection, row: &MissingRow) -> Result<()> {
    conn.prepare_cached("INSERT OR IGNORE INTO missing(parent, name, drain) VALUES(?1, ?2, ?3)")?.execute(params![
        row.parent.0 as i64,
        row.name,
        row.drain as i64
    ])?;
    Ok(())
}

fn drop_missing(conn: &Connection, parent: FileId, name: &[u8]) -> Result<()> {
    conn.prepare_cached("DELETE FROM missing WHERE parent = ?1 AND name = ?2")?
        .execute(params![parent.0 as i64, name])?;
    Ok(())
}

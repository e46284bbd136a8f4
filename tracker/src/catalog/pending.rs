//! Marks that are not committed yet, and names whose removal waits for a second listing.

use engine::catalog::Missing;
use engine::dirty::{DirtySet, Marks, Waiting};
use engine::model::{FileId, Ino};
use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::database::Catalog;
use super::error::{CatalogError, Result};
use super::row::{ino_column, ino_of};

/// Bits of the column `flags`.
const META: u32 = 1;
const NAMES: u32 = 2;
const WHOLE: u32 = 4;
const RESCAN: u32 = 8;
const REMAPPED: u32 = 16;

impl Catalog {
    /// Adds marks to what is stored: an existing row is merged, never narrowed, so a caller that knows less cannot lose a
    /// mark (I4). One transaction; the marks survive `kill -9` when it returns (I3).
    pub fn save_pending(&self, marks: &DirtySet) -> Result<()> {
        self.write(|conn| {
            for (ino, waiting) in marks.iter() {
                let mut all = DirtySet::default();
                if let Some(stored) = get(conn, ino)? {
                    all.add(ino, &stored.marks, stored.since_ns);
                }
                all.add(ino, &waiting.marks, waiting.since_ns);
                put_all(conn, &all)?;
            }
            Ok(())
        })
    }

    /// All stored marks.
    pub fn load_pending(&self) -> Result<DirtySet> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(&format!("{SELECT} ORDER BY ino"))?;
            let mut rows = statement.query([])?;
            let mut out = DirtySet::default();
            while let Some(row) = rows.next()? {
                let Waiting { marks, since_ns } = read(row)?;
                out.add(ino_of(row.get(0)?), &marks, since_ns);
            }
            Ok(out)
        })
    }

    /// The removals that wait, by parent and name.
    pub fn load_missing(&self) -> Result<Vec<Missing>> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT parent, name, drain FROM missing ORDER BY parent, name")?;
            let rows = statement.query_map([], |row| {
                Ok(Missing {
                    parent: FileId(row.get::<_, i64>(0)? as u64),
                    name: row.get(1)?,
                    drain: row.get::<_, i64>(2)? as u64,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }
}

const SELECT: &str = "SELECT ino, flags, from_, end_, blocks, since_ns FROM pending";

fn get(conn: &Connection, ino: Ino) -> Result<Option<Waiting>> {
    conn.prepare_cached(&format!("{SELECT} WHERE ino = ?1"))?
        .query_row([ino_column(ino)], |row| Ok(read(row)))
        .optional()?
        .transpose()
}

/// Stores marks, replacing what was stored for their inodes.
pub(super) fn put_all(conn: &Connection, marks: &DirtySet) -> Result<()> {
    marks.iter().try_for_each(|(ino, waiting)| put(conn, ino, waiting))
}

fn put(conn: &Connection, ino: Ino, waiting: &Waiting) -> Result<()> {
    let mut marks = waiting.marks.clone();
    // A range with an end has no column: store its blocks.
    if let Some((start, end)) = marks.range.take() {
        marks.mark_bytes(start, end);
    }
    let mut blocks = Vec::new();
    if !marks.blocks.is_empty() {
        blocks.reserve_exact(marks.blocks.serialized_size());
        marks
            .blocks
            .serialize_into(&mut blocks)
            .map_err(|_| CatalogError::Damaged { table: "pending", what: "bitmap cannot be written" })?;
    }
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    let flags = bit(marks.meta, META)
        | bit(marks.names, NAMES)
        | bit(marks.whole, WHOLE)
        | bit(marks.rescan, RESCAN)
        | bit(marks.remapped, REMAPPED);
    conn.prepare_cached(
        "INSERT OR REPLACE INTO pending(ino, flags, from_, end_, blocks, since_ns) VALUES(?1,?2,?3,?4,?5,?6)",
    )?
    .execute(params![
        ino_column(ino),
        flags,
        marks.from.map(|from| from as i64),
        marks.from.map(|_| u64::MAX as i64),
        blocks,
        waiting.since_ns as i64,
    ])?;
    Ok(())
}

pub(super) fn forget(conn: &Connection, inos: &[Ino]) -> Result<()> {
    let mut statement = conn.prepare_cached("DELETE FROM pending WHERE ino = ?1")?;
    for ino in inos {
        statement.execute([ino_column(*ino)])?;
    }
    Ok(())
}

/// A row of [`SELECT`].
fn read(row: &Row<'_>) -> Result<Waiting> {
    let bytes: Vec<u8> = row.get(4)?;
    let blocks = if bytes.is_empty() {
        RoaringBitmap::new()
    } else {
        RoaringBitmap::deserialize_from(&bytes[..])
            .map_err(|_| CatalogError::Damaged { table: "pending", what: "bitmap" })?
    };
    let from = match (row.get::<_, Option<i64>>(2)?, row.get::<_, Option<i64>>(3)?) {
        (Some(from), Some(_)) => Some(from as u64),
        (None, None) => None,
        _ => return Err(CatalogError::Damaged { table: "pending", what: "range" }),
    };
    let flags: u32 = row.get(1)?;
    let has = |bit: u32| flags & bit != 0;
    let marks = Marks {
        blocks,
        from,
        range: None,
        meta: has(META),
        names: has(NAMES),
        whole: has(WHOLE),
        rescan: has(RESCAN),
        remapped: has(REMAPPED),
    };
    Ok(Waiting { marks, since_ns: row.get::<_, i64>(5)? as u64 })
}

pub(super) fn put_missing(conn: &Connection, missing: &Missing) -> Result<()> {
    conn.prepare_cached("INSERT OR IGNORE INTO missing(parent, name, drain) VALUES(?1, ?2, ?3)")?.execute(params![
        missing.parent.0 as i64,
        missing.name,
        missing.drain as i64
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::{fresh, marks, set_of};

    #[test]
    fn saved_marks_are_joined_and_never_narrowed() {
        let (_dir, path, catalog) = fresh();
        let mut wide = marks(&[1, 2, 70_000]);
        (wide.marks.from, wide.marks.range) = (Some(8192), Some((16384, 20480)));
        catalog.save_pending(&set_of([(5, wide), (6, marks(&[]))])).unwrap();
        let mut later = marks(&[3]);
        (later.marks.whole, later.marks.from, later.since_ns) = (true, Some(4096), 60);
        catalog.save_pending(&set_of([(5, later)])).unwrap();
        drop(catalog);
        let catalog = Catalog::open(&path).unwrap();
        let mut joined = marks(&[1, 2, 3, 4, 70_000]);
        (joined.marks.whole, joined.marks.from) = (true, Some(4096));
        assert_eq!(
            catalog.load_pending().unwrap(),
            set_of([(5, joined), (6, marks(&[]))]),
            "a range is kept as blocks"
        );
    }

    /// Each mark has a column, or a bit, of its own.
    #[test]
    fn every_kind_of_mark_comes_back() {
        let (_dir, _path, catalog) = fresh();
        let none = Marks::default;
        let kinds = [
            Marks { meta: true, ..none() },
            Marks { names: true, ..none() },
            Marks { whole: true, ..none() },
            Marks { rescan: true, ..none() },
            Marks { remapped: true, ..none() },
            Marks { from: Some(1 << 50), ..none() },
            Marks { blocks: [7].into_iter().collect(), ..none() },
        ];
        let set = set_of((1..).zip(kinds.map(|marks| Waiting { marks, since_ns: u64::MAX })));
        catalog.save_pending(&set).unwrap();
        assert_eq!(catalog.load_pending().unwrap(), set);
    }

    #[test]
    fn a_damaged_bitmap_is_an_error() {
        let (_dir, _path, catalog) = fresh();
        catalog.save_pending(&set_of([(5, marks(&[1]))])).unwrap();
        catalog.lock().execute("UPDATE pending SET blocks = x'00ff00ff'", []).unwrap();
        assert!(matches!(catalog.load_pending(), Err(CatalogError::Damaged { table: "pending", .. })));
    }

    #[test]
    fn an_empty_bitmap_is_no_bytes() {
        let (_dir, _path, catalog) = fresh();
        catalog.save_pending(&set_of([(1, marks(&[]))])).unwrap();
        let bytes: Vec<u8> = catalog.lock().query_row("SELECT blocks FROM pending", [], |row| row.get(0)).unwrap();
        assert!(bytes.is_empty());
        assert_eq!(catalog.load_pending().unwrap().get(Ino(1)).unwrap().marks.blocks, RoaringBitmap::new());
    }
}

//! Statements about names that several queries share.

use engine::catalog::Known;
use engine::model::{FileId, Time};
use rusqlite::{Connection, Row, params};

use super::error::Result;
use super::row;

pub(super) fn select_known(which: &str) -> String {
    format!(
        "SELECT n.name, n.id, f.kind, f.ino, f.generation, f.size, f.mtime_sec, f.mtime_nsec, f.ctime_sec, f.ctime_nsec \
         FROM names n JOIN files f ON f.id = n.id {which}"
    )
}

pub(super) fn known(found: &Row<'_>) -> Result<Known> {
    let ctime = match (found.get::<_, Option<i64>>(8)?, found.get::<_, Option<u32>>(9)?) {
        (Some(sec), Some(nsec)) => Some(Time { sec, nsec }),
        _ => None,
    };
    Ok(Known {
        id: FileId(found.get::<_, i64>(1)? as u64),
        kind: row::kind_of(found.get(2)?)?,
        inode: row::inode(found.get(3)?, found.get(4)?),
        size: found.get::<_, i64>(5)? as u64,
        mtime: Time { sec: found.get(6)?, nsec: found.get(7)? },
        ctime,
    })
}

/// One entry of `Catalog::known_in`.
pub(super) fn known_as(conn: &Connection, parent: FileId, name: &[u8]) -> Result<Option<Known>> {
    let mut statement = conn.prepare_cached(&select_known("WHERE n.parent = ?1 AND n.name = ?2"))?;
    let mut rows = statement.query(params![parent.0 as i64, name])?;
    rows.next()?.map(known).transpose()
}

/// As `Catalog::names_of`.
pub(super) fn names_of(conn: &Connection, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>> {
    let mut statement = conn.prepare_cached("SELECT parent, name FROM names WHERE id = ?1 ORDER BY parent, name")?;
    let rows = statement
        .query_map([id.0 as i64], |row| Ok((FileId(row.get::<_, i64>(0)? as u64), row.get::<_, Vec<u8>>(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

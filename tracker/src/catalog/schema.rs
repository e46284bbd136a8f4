//! The tables of the catalog and their version. Nothing else creates or alters a table.

use std::path::Path;

use rusqlite::Connection;

use super::error::{CatalogError, Result};

/// `user_version` of the tables below.
const VERSION: i64 = 2;
/// `application_id`, so that another program's database is not taken for a catalog: "trkr".
const APPLICATION: i64 = 0x7472_6b72;

const TABLES: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

-- ctime is NULL while the committed image may be older than the file (I3).
CREATE TABLE files(
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    ino INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    handle BLOB,
    size INTEGER NOT NULL,
    root_kind INTEGER NOT NULL,
    root BLOB,
    hole_bytes INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    mtime_sec INTEGER NOT NULL,
    mtime_nsec INTEGER NOT NULL,
    rdev INTEGER NOT NULL,
    target BLOB NOT NULL,
    xattrs BLOB NOT NULL,
    ctime_sec INTEGER,
    ctime_nsec INTEGER,
    flags INTEGER NOT NULL
);
CREATE INDEX files_ino ON files(ino);

CREATE TABLE names(
    parent INTEGER NOT NULL, name BLOB NOT NULL, id INTEGER NOT NULL,
    PRIMARY KEY(parent, name)
) WITHOUT ROWID;
CREATE INDEX names_id ON names(id);

CREATE TABLE nodes(
    file INTEGER NOT NULL, level INTEGER NOT NULL, idx INTEGER NOT NULL, blob BLOB NOT NULL,
    PRIMARY KEY(file, level, idx)
) WITHOUT ROWID;
CREATE TABLE sigs(
    file INTEGER NOT NULL, grp INTEGER NOT NULL, blob BLOB NOT NULL,
    PRIMARY KEY(file, grp)
) WITHOUT ROWID;

-- What changed in rows of nodes and sigs since they were written, in this order.
CREATE TABLE late(id INTEGER PRIMARY KEY, records BLOB NOT NULL);

CREATE TABLE pending(
    ino INTEGER PRIMARY KEY,
    flags INTEGER NOT NULL,
    from_ INTEGER, end_ INTEGER,
    blocks BLOB NOT NULL,
    since_ns INTEGER NOT NULL
);
CREATE TABLE missing(
    parent INTEGER NOT NULL, name BLOB NOT NULL, drain INTEGER NOT NULL,
    PRIMARY KEY(parent, name)
) WITHOUT ROWID;

CREATE TABLE intent(
    only_row INTEGER PRIMARY KEY CHECK(only_row = 1),
    seq INTEGER NOT NULL, commit_id BLOB NOT NULL, hash BLOB NOT NULL,
    time_sec INTEGER NOT NULL, time_nsec INTEGER NOT NULL, bytes BLOB NOT NULL
);
";

/// Creates all tables in one transaction that also writes the version, so a partly created file has version 0.
pub(super) fn create(conn: &Connection) -> Result<()> {
    conn.execute_batch(&format!(
        "BEGIN IMMEDIATE;{TABLES}PRAGMA application_id = {APPLICATION};PRAGMA user_version = {VERSION};COMMIT;"
    ))?;
    Ok(())
}

/// What version 2 adds to version 1.
const SINCE_VERSION_1: &str = "
BEGIN IMMEDIATE;
CREATE TABLE late(id INTEGER PRIMARY KEY, records BLOB NOT NULL);
PRAGMA user_version = 2;
COMMIT;
";

/// Refuses a file that is not a catalog of this version. Completes a creation that was interrupted (version 0, no table).
pub(super) fn check(conn: &Connection, path: &Path) -> Result<()> {
    let found: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let application: i64 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if found == VERSION && application == APPLICATION {
        return Ok(());
    }
    if found == 1 && application == APPLICATION {
        conn.execute_batch(SINCE_VERSION_1)?;
        return Ok(());
    }
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if found == 0 && application == 0 && tables == 0 {
        return create(conn);
    }
    if application != APPLICATION {
        return Err(CatalogError::Foreign { path: path.to_path_buf() });
    }
    Err(CatalogError::Version { path: path.to_path_buf(), found, known: VERSION })
}

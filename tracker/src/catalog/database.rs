//! The open database: its file, its connection, its transactions, and its caches in memory.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags};

use super::digests::ListedNames;
use super::error::{CatalogError, Result};
use super::late::Late;
use super::parents::Parents;
use super::rows::Rows;
use super::schema;

/// The open catalog of one volume. Every method is one short transaction; calls from several threads take turns.
#[derive(Debug)]
pub struct Catalog {
    conn: Mutex<Connection>,
    /// Locked before `conn` if both are.
    listed: Mutex<ListedNames>,
    /// Locked after `listed` and before `late`.
    parents: Mutex<Parents>,
    /// Locked before `conn`.
    late: Mutex<Late>,
    /// Only used while `late` is locked.
    rows: Mutex<Rows>,
    pub(super) attempts: Mutex<Range<u32>>,
}

/// How long a call waits for another process that locks the file (a backup, an operator's `sqlite3`).
const BUSY: std::time::Duration = std::time::Duration::from_secs(5);
/// Prepared statements that are kept; more than this module uses, so that none is prepared twice.
const STATEMENTS: usize = 96;

impl Catalog {
    /// The path of the catalog of volume `name` below the state directory.
    pub fn location(state: &Path, name: &str) -> PathBuf {
        state.join("volumes").join(name).join("catalog.db")
    }

    /// Creates a new catalog with its directory. Fails with `Exists` if there is a file already.
    pub fn create(path: &Path) -> Result<Catalog> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)
                .map_err(|source| CatalogError::Directory { path: dir.to_path_buf(), source })?;
        }
        if path.exists() {
            return Err(CatalogError::Exists { path: path.to_path_buf() });
        }
        let conn = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        configure(&conn)?;
        schema::create(&conn)?;
        Ok(Catalog::of(conn))
    }

    /// Opens an existing catalog. A file of another version is an error, and is left unchanged.
    pub fn open(path: &Path) -> Result<Catalog> {
        if !path.exists() {
            return Err(CatalogError::Absent { path: path.to_path_buf() });
        }
        let conn =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        schema::check(&conn, path)?;
        configure(&conn)?;
        Ok(Catalog::of(conn))
    }

    /// [`Catalog::open`], or [`Catalog::create`] if there is none. A file whose creation was interrupted (no table yet)
    /// counts as none.
    pub fn open_or_create(path: &Path) -> Result<Catalog> {
        match Catalog::open(path) {
            Err(CatalogError::Absent { .. }) => Catalog::create(path),
            other => other,
        }
    }

    fn of(conn: Connection) -> Catalog {
        let (listed, parents) = (Mutex::default(), Mutex::default());
        let (late, rows) = (Mutex::default(), Mutex::default());
        Catalog { conn: Mutex::new(conn), listed, parents, late, rows, attempts: Mutex::new(0..0) }
    }

    /// If a thread panicked with the lock, its transaction was rolled back, so the connection is still sound.
    pub(super) fn lock(&self) -> MutexGuard<'_, Connection> {
        self.conn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` as one transaction: all of it is stored, or nothing.
    pub(super) fn write<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let mut conn = self.lock();
        let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let out = work(&tx)?;
        tx.commit()?;
        Ok(out)
    }

    pub(super) fn listed(&self) -> MutexGuard<'_, ListedNames> {
        self.listed.lock().unwrap_or_else(|poisoned| {
            // A panic may have left it partly changed.
            let mut listed = poisoned.into_inner();
            listed.clear();
            listed
        })
    }

    pub(super) fn parents(&self) -> MutexGuard<'_, Parents> {
        self.parents.lock().unwrap_or_else(|poisoned| {
            let mut parents = poisoned.into_inner();
            parents.clear();
            parents
        })
    }

    pub(super) fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(|poisoned| {
            let mut rows = poisoned.into_inner();
            rows.clear();
            rows
        })
    }

    /// The values that are not in their rows.
    pub(super) fn late(&self) -> Result<MutexGuard<'_, Late>> {
        let mut late = self.late.lock().unwrap_or_else(|poisoned| {
            let mut late = poisoned.into_inner();
            late.clear();
            late
        });
        if !late.is_read() {
            *late = self.read(Late::read)?;
        }
        Ok(late)
    }

    /// As [`Catalog::write`], and durable when it returns.
    pub(super) fn write_durably<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let mut conn = self.lock();
        conn.pragma_update(None, "synchronous", "FULL")?;
        let done = (|| {
            let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let out = work(&tx)?;
            tx.commit()?;
            Ok(out)
        })();
        conn.pragma_update(None, "synchronous", "NORMAL")?;
        done
    }

    /// Runs `work` on one consistent snapshot.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let mut conn = self.lock();
        let tx = conn.transaction()?;
        work(&tx)
    }
}

fn configure(conn: &Connection) -> Result<()> {
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    // Otherwise SQLite plans a statement anew for each other value that a range begins with.
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    // Bounds the log after a checkpoint; otherwise it keeps the size of the largest transaction ever.
    conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
    conn.pragma_update(None, "cache_size", -32_768)?;
    Ok(())
}

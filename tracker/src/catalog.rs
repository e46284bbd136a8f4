//! The catalog: what this host knows of one volume, in one SQLite file (`<state>/volumes/<name>/catalog.db`).
//!
//! It holds the committed image (files, names, block hashes, signatures), the marks not yet committed, and the commit
//! whose outcome is not known yet. It knows nothing of the kernel, of the store or of the rules of a flush.
//!
//! Durability: write-ahead log with `synchronous = NORMAL`. Invariant I3 asks that pending marks survive the death of
//! the daemon (`kill -9`), and for that the page cache is enough: an fsync at every flush would buy nothing. After a
//! crash of the host the tail of the log may be missing, but never torn: the catalog is then one of its own earlier
//! states. That is safe, because the reboot rule hashes every file again, and a store head beyond the catalog's throws
//! the catalog away. The two facts that must not be older than they say, the clean-shutdown mark and the writer
//! identity, are written with a full sync ([`Catalog::set_clean_shutdown`], [`Catalog::set_writer`]).
//!
//! Integers: SQLite has signed 64-bit integers only. Unsigned values are stored as the same 64 bits, so equality and
//! keys are exact; only values known to stay below 2^63 (file ids, node indexes) are compared by order.

mod commit;
mod identity;
mod listed;
mod parents;
mod pending;
mod query;
mod row;
mod schema;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags};
use thiserror::Error;

pub use commit::{CatalogChange, Intent, NodeWrite, SigWrite};
pub use identity::{Head, Writer};
pub use parents::{MAX_DEPTH, Place};
pub use pending::{MissingRow, PendingRow};
pub use query::{ChildRow, Counts};
pub use row::FileRow;

/// Why the catalog could not do what was asked. After any of these nothing of the failed call has been stored.
#[derive(Debug, Error)]
pub enum CatalogError {
    #[error("no catalog at {}", path.display())]
    Absent { path: PathBuf },
    #[error("a catalog exists already at {}", path.display())]
    Exists { path: PathBuf },
    #[error("catalog {} has version {found}, this program knows {known}", path.display())]
    Version { path: PathBuf, found: i64, known: i64 },
    #[error("{} is an SQLite file, but not a catalog of tracker", path.display())]
    Foreign { path: PathBuf },
    #[error("catalog row of {table} is damaged: {what}")]
    Damaged { table: &'static str, what: &'static str },
    #[error("an intent for seq {seq} is still unsettled")]
    Unsettled { seq: u64 },
    #[error("settling seq {seq}, but the intent is {found:?}")]
    WrongIntent { seq: u64, found: Option<u64> },
    #[error("all {} numbers for packs are given", u32::MAX)]
    AttemptsUsedUp,
    #[error("catalog cannot write to {}: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("catalog database: {source}")]
    Sqlite {
        #[from]
        source: rusqlite::Error,
    },
}

/// Result of a catalog call.
pub type Result<T> = std::result::Result<T, CatalogError>;

/// The open catalog of one volume. Every method is one short transaction; calls from several threads take turns.
#[derive(Debug)]
pub struct Catalog {
    conn: Mutex<Connection>,
    /// Taken before `conn` where both are.
    listed: Mutex<listed::ListedNames>,
    /// Taken after `listed` and before `conn`.
    parents: Mutex<parents::Parents>,
    attempts: Mutex<std::ops::Range<u32>>,
}

/// How long a call waits for another process that holds the file (a backup, an operator's `sqlite3`).
const BUSY: std::time::Duration = std::time::Duration::from_secs(5);
/// Statements kept prepared; above the number this module uses, so that none is ever prepared twice.
const STATEMENTS: usize = 96;

impl Catalog {
    /// Where the catalog of volume `name` lies below the state directory.
    pub fn location(state: &Path, name: &str) -> PathBuf {
        state.join("volumes").join(name).join("catalog.db")
    }

    /// Makes a new catalog; its directory is made too. Fails with `Exists` when there is a file already.
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

    /// Opens an existing catalog. A file of another version is a clear error and is left as it is.
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

    /// [`Catalog::open`], or [`Catalog::create`] when there is none. A file whose creation was cut short (no table
    /// yet) counts as none.
    pub fn open_or_create(path: &Path) -> Result<Catalog> {
        match Catalog::open(path) {
            Err(CatalogError::Absent { .. }) => Catalog::create(path),
            other => other,
        }
    }

    fn of(conn: Connection) -> Catalog {
        let (listed, parents, attempts) = (Mutex::default(), Mutex::default(), Mutex::new(0..0));
        Catalog { conn: Mutex::new(conn), listed, parents, attempts }
    }

    /// A panic while the lock was held rolled its transaction back, so the connection behind it is still sound.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.conn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` as one transaction: all of it is stored, or nothing.
    fn write<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let mut conn = self.lock();
        let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let out = work(&tx)?;
        tx.commit()?;
        Ok(out)
    }

    /// As [`Catalog::write`], with a change of the committed image after `work`; what is held in memory follows.
    fn write_change(&self, change: &CatalogChange, work: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
        let mut listed = self.listed();
        let mut parents = self.parents();
        let written = self.write(|conn| {
            let before = listed.before(conn, change)?;
            work(conn)?;
            commit::apply(conn, change)?;
            listed::ListedNames::after(conn, before)
        });
        match written {
            Ok(update) => {
                listed.follow(update);
                parents.follow(change);
            }
            Err(error) => {
                // Whether it took effect is not known of every error.
                listed.clear();
                parents.clear();
                return Err(error);
            }
        }
        Ok(())
    }

    fn listed(&self) -> MutexGuard<'_, listed::ListedNames> {
        self.listed.lock().unwrap_or_else(|poisoned| {
            // A panic may have left it half changed.
            let mut listed = poisoned.into_inner();
            listed.clear();
            listed
        })
    }

    fn parents(&self) -> MutexGuard<'_, parents::Parents> {
        self.parents.lock().unwrap_or_else(|poisoned| {
            let mut parents = poisoned.into_inner();
            parents.clear();
            parents
        })
    }

    /// As [`Catalog::write`], and on the disk when it returns.
    fn write_durably<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
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

    /// Runs `work` on one unchanging view.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let mut conn = self.lock();
        let tx = conn.transaction()?;
        work(&tx)
    }
}

fn configure(conn: &Connection) -> Result<()> {
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    // A bound on what a checkpoint leaves behind: without it the log keeps the size of the largest transaction ever.
    conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
    conn.pragma_update(None, "cache_size", -32_768)?;
    Ok(())
}

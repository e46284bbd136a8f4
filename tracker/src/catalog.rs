//! The catalog: what this host knows of one volume, in one SQLite file (`<state>/volumes/<name>/catalog.db`).
//!
//! It holds the committed image (files, names, block hashes, signatures), the marks not yet committed, and the commit whose
//! outcome is not known yet, as the engine's own types (`engine::catalog`, `engine::dirty`). It knows nothing of the
//! kernel, of the store or of the rules of a flush.
//!
//! Durability: write-ahead log with `synchronous = NORMAL`. Invariant I3 requires that pending marks survive the death of
//! the daemon (`kill -9`). The page cache is enough for that, and an fsync at every flush would gain nothing. After a crash
//! of the host the tail of the log may be missing, but never torn: the catalog is then one of its own earlier states. That
//! is safe, because the reboot rule hashes every file again, and the catalog is discarded if the store's head is beyond its
//! own. One fact must never be set back, the writer's identity: it is written with a full sync ([`Catalog::set_writer`]).
//!
//! Integers: SQLite has only signed 64-bit integers. Unsigned values are stored as the same 64 bits, so equality and keys
//! are exact; only values known to stay below 2^63 (file ids, node indexes) are compared by order.

mod commit;
mod database;
mod digests;
mod error;
mod identity;
mod late;
mod listed;
mod names;
mod parents;
mod paths;
mod pending;
mod query;
mod row;
mod rows;
mod schema;
#[cfg(test)]
mod tests;

pub use database::Catalog;
pub use error::{CatalogError, Result};
pub use identity::Writer;
pub use parents::{MAX_DEPTH, Place};
pub use query::Counts;
pub use row::Handles;

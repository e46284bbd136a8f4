//! Where volumes are kept: one small contract over a local directory, an S3 bucket, or memory.
//!
//! A store holds immutable objects under keys (`volume/commits/00000000000000000001`). It never decodes them, never decides what to do
//! about a failure, and never relies on a listing. Everything else (metering, faults, a key prefix) is a `Store` around a
//! `Store`. Calls block and are made from ordinary threads, never from inside an async task.

mod contract;
pub mod error;
mod exact;
pub mod fault;
pub mod key;
pub mod local;
pub mod mem;
pub mod meter;
mod open;
mod options;
pub mod prefixed;
pub mod probe;
pub mod s3;
pub mod url;

pub use contract::{Created, Entry, MAX_OBJECT_BYTES, Page, Properties, Store, list_all};
pub use error::{ErrorKind, Op, StoreError};
pub use exact::{Checked, CreateOutcome, create_exact, get_checked};
pub use open::{open, open_for_writing};
pub use options::{Make, StaticCredentials, StoreOptions};
pub use prefixed::Prefixed;
pub use url::{StoreUrl, UrlError};

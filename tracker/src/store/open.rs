//! Opens a store from its URL.

use std::sync::Arc;

use super::contract::Store;
use super::error::StoreError;
use super::local::Local;
use super::options::StoreOptions;
use super::probe;
use super::s3::S3;
use super::url::StoreUrl;

/// Opens a store for reading: nothing is written, except that a local directory is created as `options.make` says.
pub fn open(url: &StoreUrl, options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    match url {
        StoreUrl::Local(path) => Ok(Arc::new(Local::open(path, options.make)?)),
        StoreUrl::S3 { bucket, prefix } => Ok(Arc::new(S3::open(bucket, prefix, options)?)),
    }
}

/// Opens a store for writing: probes that it keeps two writers apart ([`probe::admit`]).
///
/// # Errors
/// As [`open`], and `Unfenced` if the probe fails without `options.single_writer`.
pub fn open_for_writing(url: &StoreUrl, options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    probe::admit(open(url, options)?, options.single_writer)
}

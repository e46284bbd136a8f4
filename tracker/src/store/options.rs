//! How a store is opened.

use std::fmt;
use std::time::Duration;

/// What opening a local store creates if its directory is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Make {
    #[default]
    Nothing,
    /// The last part of the path. Its parent must exist: if a disk is not mounted, the parent is usually missing, and a
    /// store created there would fill the wrong disk.
    Last,
    /// The whole path.
    Parents,
}

/// Keys that are given explicitly instead of by the standard chain.
#[derive(Clone)]
pub struct StaticCredentials {
    pub access_key: String,
    pub secret_key: String,
    pub session_token: Option<String>,
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticCredentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// How a store is opened. The default is right for reading an existing store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Local: what is created if the directory is absent.
    pub make: Make,
    /// The operator guarantees that no other host writes: a store that fails the probe is accepted.
    pub single_writer: bool,
    /// S3: URL of a server other than AWS. Else `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, profile.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub profile: Option<String>,
    /// S3: whether the bucket is in the path and not in the host name. Default: yes with an endpoint.
    pub path_style: Option<bool>,
    pub credentials: Option<StaticCredentials>,
    /// S3: attempts per call, where retrying is right.
    pub attempts: u32,
    /// S3: time for one attempt, not counting the transfer (which may be as slow as 32 KiB/s).
    pub timeout: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            make: Make::Nothing,
            single_writer: false,
            endpoint: None,
            region: None,
            profile: None,
            path_style: None,
            credentials: None,
            attempts: 5,
            timeout: Duration::from_secs(30),
        }
    }
}

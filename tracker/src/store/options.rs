//! How a store is opened.

use std::fmt;
use std::time::Duration;

/// What opening a local store makes of a directory that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Make {
    #[default]
    Nothing,
    /// The last part of the path. Its parent has to be there: where a disk is not mounted, the parent most often is not, and a
    /// store made there would fill the wrong disk.
    Last,
    /// The whole path.
    Parents,
}

/// Keys given by hand instead of by the standard chain.
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

/// How a store is opened. The default is right for reading a store that exists.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Local: what of the directory is made when it is absent.
    pub make: Make,
    /// The operator's word that no other host writes: a store that fails the probe is taken all the same.
    pub single_writer: bool,
    /// S3: URL of a server that is not AWS. Else `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, profile.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub profile: Option<String>,
    /// S3: bucket in the path and not in the host name. Default: when there is an endpoint.
    pub path_style: Option<bool>,
    pub credentials: Option<StaticCredentials>,
    /// S3: attempts per call, where another attempt is right.
    pub attempts: u32,
    /// S3: time for one attempt, without that for its bytes (these may go as slowly as 32 KiB/s).
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

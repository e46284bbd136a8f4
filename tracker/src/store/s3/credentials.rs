//! Credentials that may change while the process runs.
//!
//! The SDK's chain reads a file once and keeps the result forever; credentials without an expiry are never read again. But
//! keys are rotated by rewriting the file. So the chain is run again when one of its files has changed, when the
//! credentials are about to expire, and when the server rejects them. Environment variables keep their values: nobody can
//! change those of a running process.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_sdk_s3::config::{Credentials, ProvideCredentials, Region, SharedHttpClient};
use tokio::sync::Mutex;

/// Credentials that expire sooner are replaced before use.
const ENDING: Duration = Duration::from_secs(60);
/// Least time between two fruitless requests for credentials: each may be a request to a server.
const GAP: Duration = Duration::from_secs(1);
/// The same while the present credentials are valid: a file that is being written must not slow down every request.
const GAP_WHILE_GOOD: Duration = Duration::from_secs(5);

/// Identifies a version of a file; `None` if the file does not exist.
type Stamp = Option<(u64, u64, u64, i64, i64, i64)>;

/// The standard chain, run as often as needed. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: SharedHttpClient,
    region: Option<Region>,
    profile: Option<String>,
    files: Vec<PathBuf>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    credentials: Option<Credentials>,
    /// Stamps of the files when they were read.
    stamps: Vec<Stamp>,
    /// Counts changes of the credentials.
    version: u64,
    /// When the chain last returned nothing new.
    fruitless: Option<Instant>,
}

impl Keys {
    pub(super) fn new(http: SharedHttpClient, region: Option<Region>, profile: Option<String>) -> Keys {
        Keys(Arc::new(Inner { http, region, profile, files: files(), held: Mutex::default() }))
    }

    /// The version of the credentials that sign a request that starts now; for [`Keys::renew`].
    pub(super) async fn version(&self) -> u64 {
        self.0.held.lock().await.version
    }

    /// Called after credentials of `version` were rejected: whether there are others now, so that another try is worth it.
    pub(super) async fn renew(&self, version: u64) -> bool {
        let mut held = self.0.held.lock().await;
        if held.version != version {
            return true;
        }
        if held.fruitless.is_some_and(|at| at.elapsed() < GAP) {
            return false;
        }
        // If this fails too, the rejection says more.
        self.0.ask(&mut held).await.is_ok() && held.version != version
    }

    /// Credentials for a request.
    async fn current(&self) -> Result<Credentials, CredentialsError> {
        let mut held = self.0.held.lock().await;
        let good = held.credentials.clone().filter(|credentials| !ends_within(credentials, ENDING));
        if let Some(good) = good {
            let waits = held.fruitless.is_some_and(|at| at.elapsed() < GAP_WHILE_GOOD);
            if waits || self.0.stamps() == held.stamps {
                return Ok(good);
            }
        }
        let asked = self.0.ask(&mut held).await;
        match (asked, held.credentials.clone()) {
            (Ok(()), Some(credentials)) => Ok(credentials),
            // The file is half written, or a server is away: the old credentials are still valid.
            (Err(error), Some(old)) if !ends_within(&old, Duration::ZERO) => {
                tracing::debug!(%error, "no new credentials, those from before are used");
                held.fruitless = Some(Instant::now());
                Ok(old)
            }
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(CredentialsError::not_loaded("the chain gave none")),
        }
    }
}

impl Inner {
    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |path: &PathBuf| {
            // Follows symbolic links: Kubernetes changes a secret by replacing one.
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec()))
        };
        self.files.iter().map(stamp).collect()
    }

    /// Runs the whole chain again, and stores the result.
    async fn ask(&self, held: &mut Held) -> Result<(), CredentialsError> {
        // Before the files are read: a change meanwhile causes another read.
        let stamps = self.stamps();
        let config = ProviderConfig::default().with_http_client(self.http.clone()).with_region(self.region.clone());
        let mut chain = DefaultCredentialsChain::builder().configure(config).region(self.region.clone());
        if let Some(profile) = &self.profile {
            chain = chain.profile_name(profile);
        }
        let found = chain.build().await.provide_credentials().await?;
        let parts = |c: &Credentials| {
            (c.access_key_id().to_owned(), c.secret_access_key().to_owned(), c.session_token().map(str::to_owned))
        };
        let same = held.credentials.as_ref().is_some_and(|before| parts(before) == parts(&found));
        if same {
            held.fruitless = Some(Instant::now());
        } else {
            if held.credentials.is_some() {
                tracing::info!("the credentials of the store have changed and are used from now on");
            }
            held.version += 1;
            held.fruitless = None;
        }
        held.credentials = Some(found);
        held.stamps = stamps;
        Ok(())
    }
}

impl ProvideCredentials for Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.current())
    }
}

fn ends_within(credentials: &Credentials, time: Duration) -> bool {
    credentials.expiry().is_some_and(|end| end <= SystemTime::now() + time)
}

/// The files that the chain may read, whether they exist or not.
fn files() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let named = |variable: &str| {
        let path = PathBuf::from(std::env::var_os(variable).filter(|path| !path.is_empty())?);
        match (path.strip_prefix("~"), &home) {
            (Ok(rest), Some(home)) => Some(home.join(rest)),
            _ => Some(path),
        }
    };
    let at_home = |name: &str| home.as_ref().map(|home| home.join(".aws").join(name));
    let all = [
        named("AWS_SHARED_CREDENTIALS_FILE").or_else(|| at_home("credentials")),
        named("AWS_CONFIG_FILE").or_else(|| at_home("config")),
        named("AWS_WEB_IDENTITY_TOKEN_FILE"),
        named("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    ];
    all.into_iter().flatten().collect()
}

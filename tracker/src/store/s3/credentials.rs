//! Credentials that may change while the process runs.
//!
//! The SDK's chain reads a file once and keeps what it found for good; what has no end of its own is never asked for again.
//! Keys are rotated by writing the file anew, though, so here the chain is made anew when one of its files has changed, when the
//! credentials are about to end, and when the server refuses them. Environment variables stay as they were at the start: nobody
//! can change those of a running process.

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

/// Credentials that end sooner are replaced before they are used.
const ENDING: Duration = Duration::from_secs(60);
/// Least time between two requests for credentials that did not bring others: each may be a request to a server.
const GAP: Duration = Duration::from_secs(1);
/// The same while the ones that are held are good: a file that is just being written must not slow every request down.
const GAP_WHILE_GOOD: Duration = Duration::from_secs(5);

/// What tells one version of a file from another; `None` where there is none.
type Stamp = Option<(u64, u64, u64, i64, i64, i64)>;

/// The standard chain, asked as often as needed. Cheap to clone.
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
    /// Of the files when they were read.
    stamps: Vec<Stamp>,
    /// Counts the credentials that differed from the ones before.
    version: u64,
    /// When the chain last brought nothing new.
    fruitless: Option<Instant>,
}

impl Keys {
    pub(super) fn new(http: SharedHttpClient, region: Option<Region>, profile: Option<String>) -> Keys {
        Keys(Arc::new(Inner { http, region, profile, files: files(), held: Mutex::default() }))
    }

    /// Which credentials a request that begins now is signed with; for [`Keys::renew`].
    pub(super) async fn version(&self) -> u64 {
        self.0.held.lock().await.version
    }

    /// After a refusal of credentials of `version`: whether there are others now, so that another try is worth it.
    pub(super) async fn renew(&self, version: u64) -> bool {
        let mut held = self.0.held.lock().await;
        if held.version != version {
            return true;
        }
        if held.fruitless.is_some_and(|at| at.elapsed() < GAP) {
            return false;
        }
        // Whatever it fails with, the refusal says more.
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
            // A file that is half written, a server that is away: the old ones are as good as they were.
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
            // Through symbolic links: a secret of Kubernetes is changed by replacing one.
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec()))
        };
        self.files.iter().map(stamp).collect()
    }

    /// Asks the whole chain anew, and notes what it gives.
    async fn ask(&self, held: &mut Held) -> Result<(), CredentialsError> {
        // Before the files are read: what changes meanwhile is read once more.
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

/// The files that the chain may read, whether they are there or not.
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

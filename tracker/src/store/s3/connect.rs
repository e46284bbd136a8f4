//! Creates the S3 client: the standard AWS chain for credentials, region and endpoint, an HTTP client on rustls and ring,
//! and no retries of the SDK.

use std::path::PathBuf;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, IdentityCache, ProvideCredentials, Region, SharedCredentialsProvider, SharedHttpClient,
};

use super::super::options::StoreOptions;
use super::super::{ErrorKind, Op, StoreError};
use super::credentials::Keys;
use super::http::Http;
use super::site::{self, Place};
use super::trust;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A region that most servers other than AWS accept.
const ANY_REGION: &str = "us-east-1";

/// The parts of a store in S3.
pub(super) struct Connected {
    pub client: Client,
    pub place: Place,
    /// `None` if the keys were given explicitly and do not change.
    pub keys: Option<Keys>,
}

/// Creates the client. Requests credentials, and nothing else. `url`: `s3://bucket/prefix`.
///
/// # Errors
/// `Denied` without credentials; `Misconfigured` without a region, or with an endpoint, a proxy or a certificate file that
/// cannot be used.
pub(super) async fn connect(url: &str, options: &StoreOptions) -> Result<Connected, StoreError> {
    let misconfigured = || StoreError::new(Op::Open, url, ErrorKind::Misconfigured);
    let bundle = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()).map(PathBuf::from);
    let tls = trust::tls(bundle.as_deref()).map_err(|e| {
        misconfigured().code("AWS_CA_BUNDLE").with(e).advise("AWS_CA_BUNDLE names a file of certificates in PEM form")
    })?;
    let http = Http::new(tls);
    let client = SharedHttpClient::new(http.clone());
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(client.clone()).no_credentials();
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    let by_variable = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].into_iter().any(site::is_set);
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    } else if options.endpoint.is_some() || by_variable {
        // The full chain would ask Amazon's metadata service for the region of a server that is not Amazon's.
        let mut profile = ProfileFileRegionProvider::builder();
        if let Some(name) = &options.profile {
            profile = profile.profile_name(name);
        }
        let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new());
        loader = loader.region(chain.or_else(profile.build()).or_else(Region::new(ANY_REGION)));
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let shared = loader.load().await;
    // The SDK reads this variable only while building the S3 part, and does not show the result.
    let endpoint = options
        .endpoint
        .clone()
        .or_else(|| std::env::var("AWS_ENDPOINT_URL_S3").ok().filter(|e| !e.is_empty()))
        .or_else(|| shared.endpoint_url().filter(|e| !e.is_empty()).map(str::to_owned));
    if let Some(endpoint) = &endpoint
        && !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme))
    {
        return Err(
            misconfigured().detail(format!("the endpoint {endpoint:?} does not begin with http:// or https://"))
        );
    }
    let mut config = Builder::from(&shared)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
        .force_path_style(options.path_style.unwrap_or(endpoint.is_some()));
    // Service managers and compose files set variables to an empty value for "unset"; the SDK would take that for an
    // address.
    if ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|e| e.is_empty()))
    {
        config.set_endpoint_url(endpoint.clone());
    }
    let region = match (shared.region(), &endpoint) {
        (Some(region), _) => region.clone(),
        (None, Some(_)) => Region::new(ANY_REGION),
        (None, None) => {
            let error =
                misconfigured().code("NoRegion").detail("no region: set AWS_REGION, or `region` in the profile");
            let hint = site::mistaken(None).map(site::not_an_endpoint);
            return Err(error.advise(hint.unwrap_or_else(|| NO_REGION.to_owned())));
        }
    };
    let place = Place::new(url, endpoint.as_deref(), region.as_ref(), &http);
    if let Some(scheme) = place.unknown_proxy() {
        let error = misconfigured().code("Proxy").detail(format!("{scheme}:// is no kind of proxy that is spoken"));
        return Err(error.advise("name a proxy of the form http://host:port in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"));
    }
    let keys = options.credentials.is_none().then(|| Keys::new(client, Some(region.clone()), options.profile.clone()));
    let provider = match (&options.credentials, &keys) {
        (Some(given), _) => {
            let token = given.session_token.clone();
            let fixed = Credentials::new(&given.access_key, &given.secret_key, token, None, "tracker store options");
            SharedCredentialsProvider::new(fixed)
        }
        (None, Some(keys)) => SharedCredentialsProvider::new(keys.clone()),
        (None, None) => return Err(place.tell(StoreError::new(Op::Open, url, ErrorKind::Denied).code("NoCredentials"))),
    };
    // Requested here, so that a host without credentials is told at once and clearly.
    let asked = provider.provide_credentials().await;
    asked.map_err(|e| place.tell(StoreError::new(Op::Open, url, ErrorKind::Denied).code("NoCredentials").with(e)))?;
    // Each request asks for credentials: the provider knows which may be kept, and for how long.
    let config = config.region(region).credentials_provider(provider).identity_cache(IdentityCache::no_cache());
    Ok(Connected { client: Client::from_conf(config.build()), place, keys })
}

const NO_REGION: &str = "set AWS_REGION to the bucket's region; for a server that is not AWS, set AWS_ENDPOINT_URL to its address (then any region will do)";

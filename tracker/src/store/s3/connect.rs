//! Makes the S3 client: the standard AWS chain for credentials, region and endpoint, an HTTP client on rustls and ring,
//! no retries of the SDK.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, Credentials, ProvideCredentials, Region, SharedHttpClient};
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};

use super::super::url::StoreOptions;
use super::super::{ErrorKind, Op, StoreError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than the time after which S3 and usual proxies close idle connections, so that a flush after a pause does
/// not send its commit into one that is just being closed.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);

/// The client, and the endpoint when it is not AWS's own.
pub(super) async fn client(place: &str, options: &StoreOptions) -> Result<(Client, Option<String>), StoreError> {
    let fail = |kind| StoreError::new(Op::Open, place, kind);
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http(place)?);
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(keys) = &options.credentials {
        let token = keys.session_token.clone();
        loader = loader.credentials_provider(Credentials::new(
            &keys.access_key,
            &keys.secret_key,
            token,
            None,
            "tracker store options",
        ));
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
        return Err(fail(ErrorKind::Misconfigured).detail("the endpoint must begin with http:// or https://"));
    }
    let mut config = Builder::from(&shared)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
        .force_path_style(options.path_style.unwrap_or(endpoint.is_some()));
    // Service managers and compose files set variables to nothing for "unset"; the SDK takes that for an address.
    if ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|e| e.is_empty()))
    {
        config.set_endpoint_url(endpoint.clone());
    }
    if shared.region().is_none() {
        if endpoint.is_none() {
            return Err(fail(ErrorKind::Misconfigured).detail("no region: set AWS_REGION, or `region` in the profile"));
        }
        // Servers that are not AWS mostly take this one.
        config = config.region(Region::new("us-east-1"));
    }
    // Asked here, so that a host without credentials is told at once and in clear words.
    let Some(provider) = shared.credentials_provider() else {
        return Err(fail(ErrorKind::Denied).code("NoCredentials"));
    };
    provider.provide_credentials().await.map_err(|e| fail(ErrorKind::Denied).code("NoCredentials").with(e))?;
    Ok((Client::from_conf(config.build()), endpoint))
}

/// HTTP and HTTPS; `AWS_CA_BUNDLE` names certificates that are trusted besides the system's.
fn http(place: &str) -> Result<SharedHttpClient, StoreError> {
    let fail = || StoreError::new(Op::Open, place, ErrorKind::Misconfigured);
    let mut trust = TrustStore::default();
    if let Some(path) = std::env::var_os("AWS_CA_BUNDLE").filter(|p| !p.is_empty()) {
        let pem = std::fs::read(&path).map_err(|e| fail().code("AWS_CA_BUNDLE").with(e))?;
        trust = trust.with_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(trust).build().map_err(|e| fail().with(e))?;
    Ok(aws_smithy_http_client::Builder::new()
        .pool_idle_timeout(IDLE_CONNECTION)
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .tls_context(context)
        .build_https())
}

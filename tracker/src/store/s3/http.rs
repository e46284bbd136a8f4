//! HTTP for the S3 client: hyper over rustls, directly or through a proxy from the environment.
//!
//! Not the SDK's own client (aws-smithy-http-client): it allows no certificate check but its own, which no self-signed
//! certificate passes. The parts are the same: hyper-util's pooled client, its parsing of the proxy variables,
//! hyper-rustls.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector as SdkConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http::uri::Scheme;
use http::{Uri, header};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{
    CaptureConnection, Connected, Connection, HttpConnector, capture_connection,
};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than the time after which S3 and common proxies close idle connections, so that a flush after a pause does not
/// send its commit on a connection that is just being closed.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);

type Cause = Box<dyn std::error::Error + Send + Sync>;
/// To the server or to a proxy, with or without TLS.
type First = MaybeHttpsStream<TokioIo<TcpStream>>;

/// The client. Cheap to clone; clones share its connections.
#[derive(Clone)]
pub(super) struct Http {
    client: Client<Connector, SdkBody>,
    proxies: Arc<Matcher>,
}

impl Http {
    pub(super) fn new(tls: ClientConfig) -> Http {
        let tls = Arc::new(tls);
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let proxies = Arc::new(proxies());
        let first = HttpsConnector::from((tcp, Arc::clone(&tls)));
        let connector = Connector { first, tls: TlsConnector::from(tls), proxies: Arc::clone(&proxies) };
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_CONNECTION);
        Http { client: builder.build(connector), proxies }
    }

    /// The proxy for a URL, without its password.
    pub(super) fn proxy(&self, url: &str) -> Option<Uri> {
        let intercept = self.proxies.intercept(&url.parse().ok()?)?;
        Some(intercept.uri().clone())
    }
}

/// The proxies from the environment. An asterisk for all names does not cover addresses in the library, but does in curl
/// and AWS's tools.
fn proxies() -> Matcher {
    let all = |name: &str| std::env::var(name).is_ok_and(|list| list.split(',').any(|item| item.trim() == "*"));
    if all("NO_PROXY") || all("no_proxy") { Matcher::builder().build() } else { Matcher::from_env() }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").finish_non_exhaustive()
    }
}

/// The client with the time limits of one use: the lookup of a role contacts an address that usually does not exist.
#[derive(Debug)]
struct Limited {
    http: Http,
    limit: Option<Duration>,
}

impl HttpClient for Http {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let limit = settings.read_timeout().map(|read| read + settings.connect_timeout().unwrap_or(CONNECT_TIMEOUT));
        SharedHttpConnector::new(Limited { http: self.clone(), limit })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("HTTP {what} timeout: nothing came within {} s", .limit.as_secs_f32())]
struct Late {
    what: &'static str,
    limit: Duration,
}

impl SdkConnector for Limited {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };
        // In a tunnel, the request for the tunnel has this header.
        if request.uri().scheme() == Some(&Scheme::HTTP)
            && let Some(intercept) = self.http.proxies.intercept(request.uri())
            && let Some(authorization) = intercept.basic_auth()
        {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization.clone());
        }
        // The SDK closes a connection on which a server failed, so that the next try does not use the same one.
        let captured = capture_connection(&mut request);
        if let Some(asked) = request.extensions().get::<CaptureSmithyConnection>() {
            asked.set_connection_retriever(move || connection(&captured));
        }
        let answer = self.http.client.request(request);
        let limit = self.limit;
        HttpConnectorFuture::new(async move {
            let answer = match limit {
                None => answer.await,
                Some(limit) => tokio::time::timeout(limit, answer)
                    .await
                    .map_err(|_| ConnectorError::timeout(Box::new(Late { what: "request", limit })))?,
            };
            let answer = answer.map_err(|error| ConnectorError::io(error.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// The connection of a request, once it has one.
fn connection(captured: &CaptureConnection) -> Option<ConnectionMetadata> {
    let proxied = captured.connection_metadata().as_ref()?.is_proxied();
    let captured = captured.clone();
    let close = move || {
        if let Some(connected) = captured.connection_metadata().as_ref() {
            connected.poison();
        }
    };
    Some(ConnectionMetadata::builder().proxied(proxied).poison_fn(close).build())
}

/// Makes connections.
#[derive(Clone)]
struct Connector {
    first: HttpsConnector<HttpConnector>,
    tls: TlsConnector,
    proxies: Arc<Matcher>,
}

impl Connector {
    async fn connect(mut self, dst: Uri) -> Result<Conn, Cause> {
        poll_fn(|context| self.first.poll_ready(context)).await?;
        match self.proxies.intercept(&dst) {
            None => Ok(Conn { stream: MaybeHttpsStream::Http(self.first.call(dst).await?), forwarded: false }),
            Some(proxy) => self.by_proxy(dst, &proxy).await.map_err(|cause| ProxyError::of(&proxy, cause).into()),
        }
    }

    async fn by_proxy(mut self, dst: Uri, proxy: &Intercept) -> Result<Conn, Cause> {
        if dst.scheme() != Some(&Scheme::HTTPS) {
            let stream = MaybeHttpsStream::Http(self.first.call(proxy.uri().clone()).await?);
            return Ok(Conn { stream, forwarded: true });
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.first);
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        let host = dst.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let stream = tunnel.call(dst).await?;
        let stream = self.tls.connect(ServerName::try_from(host)?, TokioIo::new(stream)).await?;
        Ok(Conn { stream: MaybeHttpsStream::Https(TokioIo::new(stream)), forwarded: false })
    }
}

/// A connection through a proxy could not be made.
#[derive(Debug, thiserror::Error)]
#[error("by the proxy {proxy}")]
struct ProxyError {
    proxy: Uri,
    source: Cause,
}

impl ProxyError {
    fn of(proxy: &Intercept, source: Cause) -> ProxyError {
        ProxyError { proxy: proxy.uri().clone(), source }
    }
}

impl Service<Uri> for Connector {
    type Response = Conn;
    type Error = Cause;
    type Future = Pin<Box<dyn Future<Output = Result<Conn, Cause>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, dst: Uri) -> Self::Future {
        let connecting = self.clone().connect(dst);
        Box::pin(async move {
            let late = |_| Late { what: "connect", limit: CONNECT_TIMEOUT };
            tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(late)?
        })
    }
}

/// A connection, with or without TLS inside a tunnel.
struct Conn {
    stream: MaybeHttpsStream<First>,
    /// Requests on it name the whole URL, since a proxy reads them.
    forwarded: bool,
}

impl Connection for Conn {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.forwarded)
    }
}

impl Read for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

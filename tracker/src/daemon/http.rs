//! The HTTP endpoints: `/metrics`, `/healthz`, `/readyz`, `/debug/kernel-counters`. Read only. A daemon serves them on the loopback
//! address unless they are switched off, `protect` only where a listen address is given.
//!
//! Runs in its own thread with its own event loop, so that a busy volume delays no scrape and a scrape delays no volume.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::oneshot;

use crate::daemon::control::Control;
use crate::daemon::metrics;
use crate::daemon::metrics::Process;
use crate::error::{AppError, ExitCode};

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Listens at `address` (port 0: any free one) and serves there.
    ///
    /// # Errors
    /// As [`HttpServer::bind`] and [`HttpServer::serve`].
    pub fn start(
        address: SocketAddr,
        control: Arc<dyn Control>,
        process: Arc<Process>,
    ) -> Result<HttpServer, AppError> {
        HttpServer::serve(HttpServer::bind(address)?, control, process)
    }

    /// Binds `address` before there is anything to serve.
    ///
    /// # Errors
    /// If it is taken or does not belong to this host; names it.
    pub fn bind(address: SocketAddr) -> Result<TcpListener, AppError> {
        let listener = TcpListener::bind(address).map_err(|error| failed(address, &error))?;
        listener.set_nonblocking(true).map_err(|error| failed(address, &error))?;
        Ok(listener)
    }

    /// Serves requests at `listener`, which must not block.
    ///
    /// # Errors
    /// If the thread or event loop cannot be started.
    pub fn serve(
        listener: TcpListener,
        control: Arc<dyn Control>,
        process: Arc<Process>,
    ) -> Result<HttpServer, AppError> {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = listener.local_addr().map_err(|error| failed(unknown, &error))?;
        let failed = |error: std::io::Error| failed(address, &error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let app = router(control, process);
        let thread = std::thread::Builder::new().name("http".to_string()).spawn(move || {
            let served = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::select! {
                    served = async { axum::serve(listener, app).await } => served,
                    // A dropped sender means the same as a message.
                    _ = stopped => Ok(()),
                }
            });
            if let Err(error) = served {
                tracing::error!(%error, "the metrics server has ended");
            }
        });
        Ok(HttpServer { address, stop: Some(stop), thread: Some(thread.map_err(failed)?) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that the thread has ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // The thread panics only through a bug, which the panic hook has already printed.
            let _ = thread.join();
        }
    }
}

fn failed(address: SocketAddr, error: &std::io::Error) -> AppError {
    AppError::new(ExitCode::Error, format_args!("cannot serve metrics at {address}: {error}"))
        .hint("name another address with --metrics-listen or [metrics] listen")
}

#[derive(Clone)]
struct App {
    control: Arc<dyn Control>,
    process: Arc<Process>,
}

fn router(control: Arc<dyn Control>, process: Arc<Process>) -> Router {
    Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/debug/kernel-counters", get(kernel_counters))
        .with_state(App { control, process })
}

async fn serve_metrics(State(app): State<App>) -> Response {
    match metrics::render(&app.control, &app.process) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Counters of the kernel programs by volume, as JSON: some eighty, named after the programs. For bug reports, not worth a
/// time series each.
async fn kernel_counters(State(app): State<App>) -> Response {
    let volumes = app.control.status();
    let counters: BTreeMap<&str, &BTreeMap<String, u64>> =
        volumes.iter().map(|v| (v.volume.as_str(), &v.kernel_counters)).collect();
    match serde_json::to_string(&counters) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// 200 only if every volume is armed, has its baseline, and its last commit is fresh or nothing waits.
async fn readyz(State(app): State<App>) -> Response {
    let volumes = app.control.status();
    let mut reasons: Vec<String> =
        volumes.iter().flat_map(|v| v.not_ready().into_iter().map(|why| format!("{}: {why}\n", v.volume))).collect();
    if volumes.is_empty() {
        reasons.push("no volume has been started\n".to_string());
    }
    if reasons.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.concat()).into_response()
    }
}

#[cfg(test)]
mod tests;

//! Where `/metrics`, `/healthz` and `/readyz` are served: nowhere, or at one address, which can change while the process runs.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::daemon::control::Control;
use crate::daemon::http::HttpServer;
use crate::daemon::metrics::Process;
use crate::error::AppError;

/// The endpoint of a process.
pub struct Endpoint {
    process: Arc<Process>,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    /// Bound before there was anything to serve.
    bound: Option<TcpListener>,
    /// The volumes being served, from `serve` to `close`.
    control: Option<Arc<dyn Control>>,
    server: Option<HttpServer>,
}

impl Endpoint {
    /// Binds the address before there is anything to serve.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub fn bind(address: Option<SocketAddr>, process: Arc<Process>) -> Result<Endpoint, AppError> {
        let bound = address.map(HttpServer::bind).transpose()?;
        Ok(Endpoint { process, place: Mutex::new(Place { bound, ..Place::default() }) })
    }

    /// Serves `control` until `close`.
    ///
    /// # Errors
    /// If the thread or event loop cannot be started.
    pub fn serve(&self, control: &Arc<dyn Control>) -> Result<(), AppError> {
        let mut place = self.place.lock();
        place.control = Some(Arc::clone(control));
        if let Some(listener) = place.bound.take() {
            place.server = Some(HttpServer::serve(listener, Arc::clone(control), Arc::clone(&self.process))?);
        }
        Ok(())
    }

    /// Serves at another address from now on, or nowhere. If that fails, the old one stays.
    ///
    /// # Errors
    /// If the new address cannot be bound.
    pub fn move_to(&self, address: Option<SocketAddr>) -> Result<(), AppError> {
        let mut place = self.place.lock();
        let Some(control) = place.control.clone() else { return Ok(()) };
        let serve = |address: SocketAddr| {
            HttpServer::serve(HttpServer::bind(address)?, Arc::clone(&control), Arc::clone(&self.process))
        };
        let Some(address) = address else {
            place.server = None;
            return Ok(());
        };
        let before = place.server.as_ref().map(HttpServer::address);
        let begun = match (serve(address), before) {
            // Two addresses may exclude each other, as 127.0.0.1 and 0.0.0.0 with the same port.
            (Err(error), Some(before)) if before.port() == address.port() => {
                place.server = None;
                serve(address).map_err(|_| (error, serve(before).ok()))
            }
            (begun, _) => begun.map_err(|error| (error, place.server.take())),
        };
        match begun {
            Ok(server) => {
                place.server = Some(server);
                Ok(())
            }
            Err((error, still)) => {
                place.server = still;
                Err(error)
            }
        }
    }

    /// The present address.
    pub fn address(&self) -> Option<SocketAddr> {
        self.place.lock().server.as_ref().map(HttpServer::address)
    }

    /// Stops serving.
    pub fn close(&self) {
        *self.place.lock() = Place::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::control::fake::Fake;

    fn free() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn it_moves_and_stays_where_it_is_when_it_cannot() {
        let (one, two) = (free(), free());
        let endpoint = Endpoint::bind(Some(one), Arc::new(Process::new())).unwrap();
        let control: Arc<dyn Control> = Arc::new(Fake::default());
        endpoint.serve(&control).unwrap();
        endpoint.move_to(Some(two)).unwrap();
        assert_eq!(endpoint.address(), Some(two));
        let taken = TcpListener::bind(one).expect("the first address is free again");
        assert!(endpoint.move_to(Some(one)).unwrap_err().message.contains(&one.to_string()));
        assert_eq!(endpoint.address(), Some(two));
        drop(taken);
        let all = SocketAddr::from(([0, 0, 0, 0], two.port()));
        endpoint.move_to(Some(all)).unwrap();
        assert_eq!(endpoint.address(), Some(all), "the same port at more addresses");
        endpoint.move_to(None).unwrap();
        assert_eq!(endpoint.address(), None);
        endpoint.move_to(Some(one)).unwrap();
        endpoint.close();
        TcpListener::bind(one).expect("it is free again");
    }
}

//! The daemon's control interface: the requests to a running tracker (`protocol`), and the socket that carries them.
//!
//! One JSON object per line in each direction over a Unix socket in the state directory. `server` answers, `client` asks.

mod client;
#[cfg(test)]
pub(crate) mod fake;
mod protocol;
mod server;

pub use client::Client;
pub use protocol::{Control, ControlError, REQUEST_MAX, Reply, Request, socket_path};
pub use server::Server;

#[cfg(test)]
mod tests;

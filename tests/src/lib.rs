//! What the cases in `tests/` share: real servers, proxies, suites.

pub mod compare;
pub mod s3_server;
pub mod store_conformance;
pub mod tcp_proxy;

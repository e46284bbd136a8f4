//! What the cases in `tests/` share: real servers, proxies, suites.

pub mod capture_rig;
pub mod compare;
pub mod capture_mounts;
pub mod raw_io;
pub mod s3_server;
pub mod store_conformance;
pub mod tcp_proxy;

//! Shared by the cases in `tests/`: real servers, proxies, suites, file systems, daemons, loads.

pub mod bench;
pub mod capture_mounts;
pub mod capture_rig;
pub mod compare;
pub mod daemon;
pub mod databases;
pub mod docker;
pub mod ext4_calls;
pub mod held;
pub mod http_proxy;
pub mod load;
pub mod loads;
pub mod matrix;
pub mod mounts;
pub mod powercut;
pub mod prefix;
pub mod race_bed;
pub mod raw_calls;
pub mod raw_io;
pub mod s3_server;
pub mod stop;
pub mod store_conformance;
pub mod tcp_proxy;
pub mod tenants;
pub mod tls_front;
pub mod unit_file;

//! The conformance suite of stores, for stores that need no server. `tests/tests/store_s3.rs` runs it for S3.

use std::sync::Arc;

use tracker::store::{local::Local, mem::Mem};

#[path = "../../tests/src/store_conformance.rs"]
#[expect(unreachable_pub, reason = "public in the tests crate, which this file is also part of")]
mod store_conformance;

#[test]
fn mem_conforms() {
    store_conformance::run(Arc::new(Mem::new()));
}

#[test]
fn local_conforms() {
    let dir = tempfile::tempdir().unwrap();
    store_conformance::run(Arc::new(
        Local::open(&dir.path().join("made/at/open"), tracker::store::Make::Parents).unwrap(),
    ));
}

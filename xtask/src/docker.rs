//! A Docker daemon for the tests: Debian's packages, unpacked below `target/tools/docker` and nowhere else. An installed package
//! would start a daemon on the host and change its firewall, which nobody asked for.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::apt;
use crate::sh;

/// Daemon with client, what it starts containers with, and what runs them. About 60 MB to fetch, 250 MB on disk.
const PACKAGES: [&str; 3] = ["docker.io", "containerd", "runc"];

/// Where the packages are unpacked: programs in `usr/bin` and `usr/sbin`.
pub(crate) fn folder() -> PathBuf {
    sh::root().join("target/tools/docker")
}

/// Fetches and unpacks what is not there yet.
pub(crate) fn ensure() -> Result<()> {
    if folder().join("usr/sbin/dockerd").is_file() {
        return Ok(());
    }
    println!("setup: fetching and unpacking {} into target/tools/docker (about 60 MB)", PACKAGES.join(" "));
    apt::unpack(&PACKAGES, &folder(), |packages, root| {
        let extract = |package| sh::output(Command::new("dpkg-deb").arg("--extract").arg(package).arg(root)).map(drop);
        packages.iter().try_for_each(extract)
    })
}

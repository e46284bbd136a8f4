//! A Docker daemon for the tests: Debian's packages, unpacked below `target/tools/docker` and nowhere else. An installed package
//! would start a daemon on the host and change its firewall, which nobody asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt;
use crate::sh::{self, Error};

/// Daemon with client, what it starts containers with, and what runs them. About 60 MB to fetch, 250 MB on disk.
const PACKAGES: [&str; 3] = ["docker.io", "containerd", "runc"];

/// Where the packages are unpacked: programs in `usr/bin` and `usr/sbin`.
pub(crate) fn folder() -> PathBuf {
    sh::root().join("target/tools/docker")
}

/// Fetches and unpacks what is not there yet. It gets its name last, so that half of it is never used.
pub(crate) fn ensure() -> Result<(), Error> {
    let to = folder();
    if to.join("usr/sbin/dockerd").is_file() {
        return Ok(());
    }
    println!("setup: fetching and unpacking {} into target/tools/docker (about 60 MB)", PACKAGES.join(" "));
    let work = to.with_extension(format!("new-{}", std::process::id()));
    let root = work.join("root");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&root).map_err(Error::io(format!("cannot create {}", root.display())))?;
    let result = fetch(&work, &root).and_then(|()| {
        let _ = fs::remove_dir_all(&to);
        fs::rename(&root, &to).map_err(Error::io(format!("cannot rename {} to {}", root.display(), to.display())))
    });
    fs::remove_dir_all(&work).map_err(Error::io(format!("cannot remove {}", work.display())))?;
    result
}

fn fetch(work: &Path, root: &Path) -> Result<(), Error> {
    for package in apt::download(&PACKAGES, work)? {
        sh::output(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(root))?;
    }
    Ok(())
}

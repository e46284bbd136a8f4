//! A Docker daemon for the tests: Debian's packages, unpacked below `target/tools/docker` and nowhere else. An installed package
//! would start a daemon on the host and change its firewall, which nobody asked for.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::setup;
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

fn fetch(work: &PathBuf, root: &PathBuf) -> Result<(), Error> {
    let get = || sh::output(Command::new("apt-get").args(["download", "-q"]).args(PACKAGES).current_dir(work));
    if get().is_err() {
        // The index may be empty, or name a package that was replaced since.
        setup::refresh_index()?;
        get()?;
    }
    let names = fs::read_dir(work).map_err(Error::io(format!("cannot list {}", work.display())))?;
    for path in names.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension() == Some("deb".as_ref()) {
            sh::output(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(root))?;
        }
    }
    Ok(())
}

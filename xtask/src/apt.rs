//! Debian's packages: what is installed, installing more, and fetching some without installing them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sh::{self, Error};

/// Those of `wanted` that are not installed, in one query.
pub(crate) fn missing(wanted: &[&str]) -> Result<Vec<String>, Error> {
    // dpkg-query fails if it knows none of a name, and still lists the others: only its stdout counts.
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"]).args(wanted);
    let output = command.output().map_err(|source| Error::Spawn { command: sh::show(&command), source })?;
    Ok(not_listed(&String::from_utf8_lossy(&output.stdout), wanted))
}

fn not_listed(listing: &str, wanted: &[&str]) -> Vec<String> {
    let installed: Vec<&str> = listing.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    wanted.iter().filter(|name| !installed.contains(name)).map(|name| (*name).to_owned()).collect()
}

/// Installs Debian packages; a no-op for an empty list.
pub(crate) fn install(packages: &[String]) -> Result<(), Error> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("setup: installing with apt-get: {}", packages.join(" "));
    if !sh::is_root() && !sh::succeeds(Command::new("sudo").args(["-n", "true"])) {
        return Err(Error::Missing {
            what: "packages are missing, and only root can install them".into(),
            help: format!(
                "run: sudo apt-get update && sudo apt-get install --no-install-recommends {}",
                packages.join(" ")
            ),
        });
    }
    refresh_index()?;
    let fixed = ["install", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"];
    let names: Vec<&str> = packages.iter().map(String::as_str).collect();
    sh::output(&mut apt(&[&fixed[..], &names].concat()))?;
    Ok(())
}

/// Has apt read its sources anew.
pub(crate) fn refresh_index() -> Result<(), Error> {
    sh::output(&mut apt(&["update", "-q"])).map(drop)
}

fn apt(args: &[&str]) -> Command {
    let root = sh::is_root();
    let mut command = Command::new(if root { "env" } else { "sudo" });
    // The variable goes through env, since sudo may drop it.
    command.args(if root { &[][..] } else { &["-n", "env"][..] });
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(args);
    command
}

/// Fetches `packages` into `folder`, without installing them.
pub(crate) fn download(packages: &[&str], folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let get = || sh::output(Command::new("apt-get").args(["download", "-q"]).args(packages).current_dir(folder));
    if get().is_err() {
        // The index may be empty, or name a package that was replaced since.
        refresh_index()?;
        get()?;
    }
    let names = std::fs::read_dir(folder).map_err(Error::io(format!("cannot list {}", folder.display())))?;
    let files = names.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(files.filter(|path| path.extension() == Some("deb".as_ref())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let listing = "installed gcc\nconfig-files fio\n";
        assert_eq!(not_listed(listing, &["gcc", "fio", "rsync"]), ["fio", "rsync"]);
    }
}

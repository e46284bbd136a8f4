//! Debian's packages: what is installed, installing more, and fetching some without installing them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use fs_err as fs;

use crate::sh;

/// Those of `wanted` that are not installed, in one query.
pub(crate) fn missing(wanted: &[&str]) -> Result<Vec<String>> {
    // dpkg-query fails if it knows none of a name, and still lists the others: only its stdout counts.
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"]).args(wanted);
    let output = command.output();
    let output = sh::of(&command, output)?;
    Ok(not_listed(&String::from_utf8_lossy(&output.stdout), wanted))
}

fn not_listed(listing: &str, wanted: &[&str]) -> Vec<String> {
    let installed: Vec<&str> = listing.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    wanted.iter().filter(|name| !installed.contains(name)).map(|name| (*name).to_owned()).collect()
}

/// Installs Debian packages; a no-op for an empty list.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("setup: installing with apt-get: {}", packages.join(" "));
    if !sh::is_root() && !sh::succeeds(Command::new("sudo").args(["-n", "true"])) {
        return Err(sh::missing(
            "packages are missing, and only root can install them",
            format!("run: sudo apt-get update && sudo apt-get install --no-install-recommends {}", packages.join(" ")),
        ));
    }
    refresh_index()?;
    let fixed = ["install", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"];
    let names: Vec<&str> = packages.iter().map(String::as_str).collect();
    sh::output(&mut apt(&[&fixed[..], &names].concat()))?;
    Ok(())
}

/// Has apt read its sources anew.
pub(crate) fn refresh_index() -> Result<()> {
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

/// Fetches `packages` without installing them, and has `fill` make a folder of them. It gets its name `to` last, so that half of
/// it is never used.
pub(crate) fn unpack(packages: &[&str], to: &Path, fill: impl FnOnce(&[PathBuf], &Path) -> Result<()>) -> Result<()> {
    let work = to.with_file_name(format!("new-{}", std::process::id()));
    let root = work.join("root");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&root)?;
    let result = download(packages, &work).and_then(|files| fill(&files, &root)).and_then(|()| {
        let _ = fs::remove_dir_all(to);
        Ok(fs::rename(&root, to)?)
    });
    fs::remove_dir_all(&work)?;
    result
}

fn download(packages: &[&str], folder: &Path) -> Result<Vec<PathBuf>> {
    let get = || sh::output(Command::new("apt-get").args(["download", "-q"]).args(packages).current_dir(folder));
    if get().is_err() {
        // The index may be empty, or name a package that was replaced since.
        refresh_index()?;
        get()?;
    }
    let files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
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

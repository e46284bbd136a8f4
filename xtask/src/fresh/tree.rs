//! The Debian tree: how it is filled, what of the host goes into it, how a command runs in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::sh;

/// The release the project is developed on.
const RELEASE: &str = "bookworm";
/// What the README asks for beside rustup: a C compiler and git.
const PREREQUISITES: &str = "build-essential,ca-certificates,git";
/// Where the clone is, and the home of the user, both seen from inside.
const CLONE: &str = "/srv/tracker";
const HOME: &str = "/home/fresh";

/// What makes registries reachable from this host: sources, keys, proxies, certificates. Copied where present.
const CONFIGURATION: [&str; 14] = [
    "/etc/apt/apt.conf",
    "/etc/apt/apt.conf.d",
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d",
    "/etc/apt/keyrings",
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d",
    "/etc/apt/trusted.gpg.d",
    "/etc/hosts",
    "/etc/pip.conf",
    "/etc/resolv.conf",
    "/etc/ssl/certs",
    "/usr/local/share/ca-certificates",
    "/usr/share/keyrings",
];

/// Variables that say how to reach registries, by prefix.
const VARIABLES: [&str; 9] = [
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CURL_CA_BUNDLE",
    "GIT_SSL_",
    "PIP_",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_",
];

/// One Debian tree below target/fresh.
pub(super) struct Tree {
    pub(super) root: PathBuf,
}

impl Tree {
    /// Fills the tree from the cached archive, which is made at the first run.
    pub(super) fn unpack_base(&self) -> Result<()> {
        let archive = self.root.with_file_name(format!("base-{RELEASE}.tar"));
        remove(&self.root)?;
        create(&self.root)?;
        if !archive.is_file() {
            let mut command = Command::new("debootstrap");
            command.args(["--variant=minbase", &format!("--include={PREREQUISITES}"), RELEASE]).arg(&self.root);
            // Without a mirror of its own the host uses debootstrap's default.
            command.args(mirror(&read_sources()));
            sh::output(&mut command)?;
            let part = archive.with_extension("part");
            sh::output(Command::new("tar").arg("-C").arg(&self.root).arg("-cf").arg(&part).arg("."))?;
            return Ok(fs_err::rename(&part, &archive)?);
        }
        sh::output(Command::new("tar").arg("-C").arg(&self.root).arg("-xf").arg(&archive)).map(drop)
    }

    pub(super) fn copy_configuration(&self) -> Result<()> {
        for path in CONFIGURATION.into_iter().filter(|path| Path::new(path).exists()) {
            self.copy_same_place(path)?;
        }
        for (_, value) in variables().filter(|(_, value)| value.starts_with('/') && Path::new(value).is_file()) {
            self.copy_same_place(&value)?;
        }
        // Packages must not start their servers: the tree has no init, and shares the host's network.
        let policy = self.root.join("usr/sbin/policy-rc.d");
        fs_err::write(&policy, "#!/bin/sh\nexit 101\n")?;
        sh::output(Command::new("chmod").arg("755").arg(policy)).map(drop)
    }

    /// The active toolchain and rustup itself, but no program that `cargo install` put beside them.
    pub(super) fn copy_toolchain(&self) -> Result<()> {
        let sysroot = PathBuf::from(sh::output(Command::new("rustc").args(["--print", "sysroot"]))?.trim());
        let name = sysroot.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (cargo_home, rustup_home) = (home("CARGO_HOME", ".cargo"), home("RUSTUP_HOME", ".rustup"));
        if !sysroot.starts_with(&rustup_home) {
            return Err(sh::missing(
                format!("{} is no toolchain of rustup", sysroot.display()),
                "fresh copies rustup and its active toolchain: install rustup",
            ));
        }
        let inside = self.root.join(HOME.trim_start_matches('/'));
        let toolchains = inside.join(".rustup/toolchains");
        create(&toolchains)?;
        copy(&sysroot, &toolchains.join(&name))?;
        let settings = format!("version = \"12\"\ndefault_toolchain = \"{name}\"\nprofile = \"minimal\"\n");
        fs_err::write(inside.join(".rustup/settings.toml"), settings)?;

        let bin = inside.join(".cargo/bin");
        create(&bin)?;
        for program in ["cargo", "cargo-clippy", "cargo-fmt", "clippy-driver", "rustc", "rustdoc", "rustfmt", "rustup"]
        {
            copy(&cargo_home.join("bin").join(program), &bin.join(program))?;
        }
        // Configuration says which registry to use; the cache spares it.
        for part in ["config.toml", "registry/cache", "registry/index"] {
            let (from, to) = (cargo_home.join(part), inside.join(".cargo").join(part));
            if from.exists() {
                create(to.parent().unwrap_or(&inside))?;
                copy(&from, &to)?;
            }
        }
        Ok(())
    }

    /// A clone of what is committed; what is not is none of a new user's business.
    pub(super) fn clone_repository(&self) -> Result<()> {
        let to = self.root.join(CLONE.trim_start_matches('/'));
        sh::output(Command::new("git").args(["clone", "-q", "--no-hardlinks"]).arg(sh::root()).arg(&to)).map(drop)
    }

    /// Kernel file systems. bpffs is a new instance: pins made inside vanish with the namespace.
    pub(super) fn mount(&self) -> Result<()> {
        self.mount_one(&["-t", "proc", "proc"], "proc")?;
        self.mount_one(&["--rbind", "/dev"], "dev")?;
        self.mount_one(&["--bind", "/sys"], "sys")?;
        self.mount_one(&["--rbind", "/sys/fs/cgroup"], "sys/fs/cgroup")?;
        self.mount_one(&["-t", "bpf", "bpf"], "sys/fs/bpf")?;
        self.mount_one(&["-t", "tracefs", "tracefs"], "sys/kernel/tracing")
    }

    fn mount_one(&self, what: &[&str], place: &str) -> Result<()> {
        sh::output(Command::new("mount").args(what).arg(self.root.join(place))).map(drop)
    }

    /// A command line that runs in the clone, inside the tree, as root of a machine with this network.
    pub(super) fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.root).args(["/usr/bin/env", "-i", "LANG=C.UTF-8", "TERM=dumb"]);
        command.arg(format!("HOME={HOME}"));
        command.arg(format!("PATH={HOME}/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
        command.args(variables().map(|(name, value)| format!("{name}={value}")));
        // exec: a signal reaches the program itself.
        command.args(["bash", "-c", &format!("cd {CLONE} && {script}")]);
        command
    }

    /// A path of the clone, seen from outside.
    pub(super) fn in_clone(&self, path: &str) -> PathBuf {
        self.root.join(CLONE.trim_start_matches('/')).join(path)
    }

    fn copy_same_place(&self, path: &str) -> Result<()> {
        let to = self.root.join(path.trim_start_matches('/'));
        create(to.parent().unwrap_or(&self.root))?;
        // Links are followed: their targets may lie outside of what is copied.
        let mut command = Command::new("cp");
        command.args(["-rL", "--preserve=mode", "--remove-destination", "-T"]).arg(path).arg(&to);
        sh::output(&mut command).map(drop)
    }
}

/// Variables of the host that say how to reach registries.
fn variables() -> impl Iterator<Item = (String, String)> {
    let is_proxy = |name: &str| name.to_ascii_lowercase().ends_with("_proxy");
    let texts =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(move |(name, _)| is_proxy(name) || VARIABLES.iter().any(|prefix| name.starts_with(prefix)))
}

fn home(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable)
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(default), PathBuf::from)
}

/// All apt sources of the host in one text.
fn read_sources() -> String {
    let folder = fs_err::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    let mut files: Vec<PathBuf> = folder.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.push("/etc/apt/sources.list".into());
    files.retain(|file| file.extension().is_some_and(|ending| ending == "list" || ending == "sources"));
    files.iter().filter_map(|file| fs_err::read_to_string(file).ok()).collect::<Vec<_>>().join("\n\n")
}

/// The address of the first source for the release itself, in either notation of apt.
fn mirror(sources: &str) -> Option<String> {
    sources.split("\n\n").find_map(|stanza| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if let (Some(uris), Some(suites)) = (field("URIs:"), field("Suites:")) {
            let right = suites.split_whitespace().any(|suite| suite == RELEASE);
            return uris.split_whitespace().next().filter(|_| right).map(str::to_owned);
        }
        let lines = stanza.lines().filter(|line| line.starts_with("deb "));
        let mut words = lines.map(|line| line.split_whitespace().filter(|word| !word.starts_with('[')));
        words.find_map(|mut words| {
            let (uri, suite) = (words.nth(1)?, words.next()?);
            (suite == RELEASE).then(|| uri.to_owned())
        })
    })
}

fn create(folder: &Path) -> Result<()> {
    Ok(fs_err::create_dir_all(folder)?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    sh::output(Command::new("cp").args(["-aT"]).arg(from).arg(to)).map(drop)
}

/// Removes the tree of an earlier run. It holds no mounts: those died with that run's namespace.
fn remove(tree: &Path) -> Result<()> {
    sh::output(Command::new("rm").args(["-rf", "--one-file-system"]).arg(tree)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_from_both_notations() {
        let new = "Types: deb\nURIs: http://one.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(mirror(new).as_deref(), Some("http://one.example/debian"));
        let old = "deb [arch=amd64] http://two.example/debian bookworm main\n";
        assert_eq!(mirror(old).as_deref(), Some("http://two.example/debian"));
        assert_eq!(mirror("deb http://two.example/security bookworm-security main\n"), None);
    }
}

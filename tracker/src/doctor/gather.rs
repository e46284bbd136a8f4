//! Reads the facts from /proc and /sys. Decides nothing. Writes only one byte to an unnamed file, if a directory on ext4 is
//! checked: only that shows whether small files are kept in inodes.

use std::fs;
use std::path::Path;
use std::process::Command;

use common::fields::{FIELDS, Kind};
use common::functions::FUNCTIONS;
use common::hooks::HOOKS;

use super::directory::{self, Upper};
use super::{Facts, Kernel};
use crate::capture::layout::KernelTypes;
use crate::capture::{mount_of, object};
use crate::source::{SourceError, SourceRoot};
use crate::units::PathField;
use crate::volume::startup::eligibility;

/// Facts about the running kernel and this process.
#[must_use]
pub fn machine(state_dir: &Path) -> Facts {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let securityfs = |name: &str| fs::read_to_string(Path::new("/sys/kernel/security").join(name)).ok();
    Facts {
        btf: fs::metadata("/sys/kernel/btf/vmlinux").ok().map(|meta| meta.len()),
        kernel: kernel(),
        bpffs: mounts().into_iter().find(|(_, kind)| kind == "bpf").map(|(at, _)| at),
        object: object().is_some(),
        state_dir: state_dir.display().to_string(),
        state_problem: writable(state_dir).err(),
        capabilities: capabilities(),
        lockdown: securityfs("lockdown"),
        modules: securityfs("lsm"),
        config: config(&release),
        release,
    }
}

fn kernel() -> Kernel {
    let file_systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let file_systems =
        file_systems.lines().filter_map(|line| line.split('\t').next_back()).map(str::to_owned).collect();
    let Ok(types) = KernelTypes::running() else {
        let absent = FIELDS.iter().map(|field| field.global).collect();
        return Kernel { absent, file_systems, ..Kernel::default() };
    };
    let tracepoints = HOOKS.iter().map(|hook| hook.tracepoint).filter(|name| types.has_tracepoint(name)).collect();
    let functions = FUNCTIONS.iter().map(|function| function.name).filter(|name| types.function(name).is_some());
    let functions = functions.collect();
    // A field for which BTF has no single number counts as absent here; `choose` says why.
    let has = |container: &str, member: &str, kind| {
        types.blobs().any(|btf| match kind {
            Kind::Offset => matches!(btf.member_offset(container, member), Ok(Some(_))),
            Kind::Constant => matches!(btf.constant(container, member), Ok(Some(_))),
        })
    };
    let absent = FIELDS.iter().filter(|field| !field.members.iter().any(|name| has(field.container, name, field.kind)));
    Kernel { tracepoints, functions, absent: absent.map(|field| field.global).collect(), file_systems }
}

/// The build configuration, from where distributions put it.
fn config(release: &str) -> Option<String> {
    let plain = [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")];
    plain.iter().find_map(|path| fs::read_to_string(path).ok()).or_else(|| {
        let output = Command::new("gzip").args(["-dc", "/proc/config.gz"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

/// Mount points and types.
fn mounts() -> Vec<(String, String)> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let lines = table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    });
    lines.collect()
}

/// Whether the directory, or its nearest existing parent, can be written.
fn writable(dir: &Path) -> Result<(), String> {
    use rustix::fs::{Access, access};
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    access(existing, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| format!("{}: {e}", existing.display()))
}

/// The effective capabilities of this process.
fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Facts about a directory.
///
/// # Errors
/// When it cannot be opened.
pub fn directory(dir: &Path) -> Result<directory::DirectoryFacts, SourceError> {
    let root = SourceRoot::open(dir)?;
    let path = root.path();
    let mount = root.mount();
    let upper = root.upper().map(|upper| {
        let fs = upper.reachable().then(|| mount_of(&upper.path).map(|mount| mount.fs_type).ok()).flatten();
        Upper {
            dir: upper.upperdir.display().to_string(),
            fs,
            volatile: upper.volatile,
            metacopy_hidden: upper.metacopy_hidden,
        }
    });
    // The table escapes blanks: below a path with one this list may be incomplete; the volume's `status` is not.
    let below = |at: &str| Path::new(at) != path && Path::new(at).starts_with(path);
    let mut inside: Vec<String> = mounts().into_iter().map(|(at, _)| at).filter(|at| below(at)).collect();
    inside.dedup();
    Ok(directory::DirectoryFacts {
        path: PathField::new(path.as_os_str().as_encoded_bytes()),
        fs: mount.fs_type.clone(),
        mount_point: mount.mount_point.display().to_string(),
        upper,
        in_inodes: eligibility::keeps_content_in_inodes(&root),
        inside,
    })
}

//! One run of one guest: its files in a folder of its own, QEMU, the answer. The folder goes with the run, and so does QEMU,
//! also when this process is killed; a folder that a killed one left is removed by the next run.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use fs_err as fs;
use tempfile::TempDir;

use super::counter;
use super::disk::Disk;
use super::guest;
use super::kernel::{self, Kernel};
use crate::programs;
use crate::sh;
use crate::stream::{self, Chosen, Limits};

const QEMU: &str = "qemu-system-x86_64";
const BUSYBOX: &str = "/bin/busybox";
/// The signals of a process that ended by a fault of its own.
const SIGABRT: i32 = 6;
const SIGSEGV: i32 = 11;
/// Lines of the kernel's log that are shown when the guest gave no answer.
const CONSOLE_LINES: usize = 30;

/// What is to be run in a guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// Of a shell.
    pub(crate) script: &'a str,
    /// From the start of QEMU to its end.
    pub(crate) limit: Duration,
    /// Disks of the guest, `/dev/vda` and on.
    pub(crate) disks: &'a [Disk],
    /// The guest loses its power at this moment.
    pub(crate) cut: Option<&'a Chosen>,
}

/// Why no guest can run here, if so: what setup installs and what no setup can.
pub(crate) fn obstacle() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("guests are x86-64, and this machine is not".into());
    }
    let programs = [QEMU, "qemu-img", "setpriv", "dpkg-deb", "apt-get", "tar", "strip"];
    if let Some(name) = programs.iter().find(|name| sh::which(name).is_none()) {
        return Some(format!("no {name} (cargo xtask setup installs it on Debian)"));
    }
    if !Path::new(BUSYBOX).exists() {
        return Some(format!("no {BUSYBOX} (Debian's busybox-static, by cargo xtask setup)"));
    }
    None
}

/// Boots `kernel`, runs the request, hands on each line of its output (all are in `log`), and returns its exit code; none
/// where the power was cut.
pub(crate) fn run(kernel: &Kernel, request: Request<'_>, log: &Path, mut each: impl FnMut(&str)) -> Result<Option<u8>> {
    let folder = folder("run")?;
    let (path, shared) = (folder.path(), folder.path().join(guest::SHARED));
    fs::create_dir(&shared)?;
    fs::write(shared.join("boot"), include_str!("boot.sh"))?;
    let variables = std::env::vars().chain(programs::variables());
    fs::write(shared.join("command"), guest::command(sh::root(), variables, request.script))?;
    let console = path.join(guest::CONSOLE);
    let mut start = || {
        // QEMU dies with us: the kernel sees to it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", QEMU]).args(guest::qemu(path, kernel, request.disks, counter::khz()));
        let (mut silent, limits) = (true, Limits::guest(request.limit, request.cut));
        let (status, cut) = stream::limited(&mut command, log, limits, |line| {
            silent = false;
            each(line);
        })?;
        Ok::<_, anyhow::Error>((status, cut, silent && fs::metadata(&console).map_or(0, |meta| meta.len()) == 0))
    };
    let (mut status, mut cut, unbooted) = start()?;
    if unbooted && matches!(status.signal(), Some(SIGABRT | SIGSEGV)) {
        // Seen twice, on busy machines; nothing of the guest has run.
        println!("vm: QEMU crashed before the guest said anything ({status}): started once more");
        (status, cut, _) = start()?;
    }
    let code = fs::read_to_string(shared.join("code")).ok().and_then(|text| text.trim().parse().ok());
    if cut || code.is_some() {
        return Ok(code.filter(|_| !cut));
    }
    let text = fs::read(&console).unwrap_or_default();
    let lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
    let output = format!(
        "no exit code came from the guest within {} s; the end of its kernel's log:\n{}",
        request.limit.as_secs(),
        stream::tail(&lines, CONSOLE_LINES)
    );
    Err(sh::failed(format!("{QEMU} ({})", kernel.release), status, &output))
}

/// A folder of this process, removed when dropped.
pub(crate) fn folder(kind: &str) -> Result<TempDir> {
    let base = kernel::folder();
    sweep(&base);
    Ok(tempfile::Builder::new().prefix(&format!("{kind}-{}.", std::process::id())).tempdir_in(base)?)
}

/// Removes what processes that are gone have left.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let of = |kind: &&str| name.strip_prefix(*kind)?.strip_prefix('-')?.split('.').next()?.parse::<u32>().ok();
        // Of a run, of a fetch (`setup.sh`), of disks.
        if ["run", "new", "disks"].iter().find_map(of).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another run may be at it; what is left then is its affair.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

//! One run of one guest: its files in a folder of its own, QEMU, the answer. The folder goes with the run, and so does QEMU,
//! also when this process is killed; a folder that a killed one left is removed by the next run.

use std::io::Cursor;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use cpio::newc::ModeFileType;
use fs_err as fs;

use super::counter;
use super::disk::Disk;
use super::guest::{self, DISKS, Files, WANTED};
use super::kernel::{self, Kernel};
use crate::sh;
use crate::stream;

const QEMU: &str = "qemu-system-x86_64";
const BUSYBOX: &str = "/bin/busybox";
const CPUS: u32 = 2;
/// The guest's memory holds all that it writes: images of file systems as well.
const MEMORY: &str = "2G";
/// Folders that are named by a process: of a run, of a fetch, of disks.
const KINDS: [&str; 3] = ["run", "new", "disks"];
/// Lines of the kernel's log that are shown when the guest gave no answer.
const CONSOLE_LINES: usize = 30;

/// What is to be run in a guest.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) words: &'a [String],
    /// Beside the variables of the host that are passed on.
    pub(crate) variables: &'a [(String, String)],
    /// From the start of QEMU to its end.
    pub(crate) limit: Duration,
    /// Disks of the guest, `/dev/vda` and on.
    pub(crate) disks: &'a [Disk],
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With the exit code of its command.
    Code(u8),
    /// Its power was cut, as a line asked.
    Cut,
}

/// Why no guest can run here, if so: what setup installs and what no setup can.
pub(crate) fn obstacle() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("guests are x86-64, and this machine is not".into());
    }
    let programs = [QEMU, "setpriv", "dpkg-deb", "apt-get", "tar"];
    if let Some(name) = programs.iter().find(|name| sh::which(name).is_none()) {
        return Some(format!("no {name} (cargo xtask setup installs it on Debian)"));
    }
    if !Path::new(BUSYBOX).exists() {
        return Some(format!("no {BUSYBOX} (Debian's busybox-static, by cargo xtask setup)"));
    }
    None
}

/// Boots `kernel`, runs the request, hands on each line of its output (all are in `log`), and returns its exit code.
pub(crate) fn run(kernel: &Kernel, request: &Request<'_>, log: &Path, mut each: impl FnMut(&str)) -> Result<u8> {
    let mut each = |line: &str| {
        each(line);
        None
    };
    match boot(kernel, request, log, &mut each)? {
        End::Code(code) => Ok(code),
        // Nothing asked for it.
        End::Cut => Ok(u8::MAX),
    }
}

/// Like [`run`]; the first line for which `each` gives a duration has the guest's power cut so long after it.
pub(crate) fn boot(
    kernel: &Kernel,
    request: &Request<'_>,
    log: &Path,
    each: &mut dyn FnMut(&str) -> Option<Duration>,
) -> Result<End> {
    let folder = Folder::new("run")?;
    let shared = folder.path.join("shared");
    fs::create_dir(&shared)?;
    let mut variables: Vec<(String, String)> = std::env::vars().filter(|(name, _)| guest::is_passed_on(name)).collect();
    variables.extend_from_slice(request.variables);
    fs::write(shared.join(guest::BOOT), guest::boot())?;
    fs::write(shared.join(guest::COMMAND), guest::command(sh::root(), &variables, request.words))?;
    let (initramfs, console) = (folder.path.join("initramfs"), folder.path.join(guest::CONSOLE));
    fs::write(&initramfs, archive(kernel, request)?)?;

    let (image, code) = (unpacked_image(kernel, &folder.path)?, shared.join(guest::CODE));
    let files = Files {
        image: &image,
        initramfs: &initramfs,
        shared: &shared,
        console: &console,
        disks: request.disks,
        counter_khz: counter::khz(),
    };
    let mut start = || {
        // QEMU dies with us: the kernel sees to it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", QEMU]).args(guest::qemu(&files, CPUS, MEMORY));
        let mut silent = true;
        let end = stream::limited(&mut command, log, request.limit, &mut |line: &str| {
            silent = false;
            each(line)
        })?;
        Ok::<_, anyhow::Error>((end, silent))
    };
    let (mut end, silent) = start()?;
    let unbooted = silent && fs::metadata(&console).map_or(0, |meta| meta.len()) == 0;
    if unbooted && !end.cut && crashed(end.status) {
        // Seen twice, on busy machines; nothing of the guest has run.
        println!("vm: QEMU crashed before the guest said anything ({}): started once more", end.status);
        end = start()?.0;
    }
    if end.cut {
        return Ok(End::Cut);
    }
    let status = end.status;
    match fs::read_to_string(&code).ok().and_then(|text| guest::exit_code(&text)) {
        Some(code) => Ok(End::Code(code)),
        None => {
            let text = fs::read(&console).unwrap_or_default();
            let lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
            let tail = lines.get(lines.len().saturating_sub(CONSOLE_LINES)..).unwrap_or_default().join("\n");
            let output = format!(
                "no exit code came from the guest within {} s; the end of its kernel's log:\n{tail}",
                request.limit.as_secs()
            );
            Err(sh::failed(format!("{QEMU} ({})", kernel.release), status, &output))
        }
    }
}

/// Whether a process ended by a fault of its own.
fn crashed(status: ExitStatus) -> bool {
    const SIGABRT: i32 = 6;
    const SIGSEGV: i32 = 11;
    matches!(status.signal(), Some(SIGABRT | SIGSEGV))
}

/// What QEMU is to start. An image unpacks itself, and one that xz has packed takes translated code longer for that than all
/// the rest of its boot; QEMU starts an unpacked kernel as well (by its PVH entry), which is put into `folder`. Other packers are
/// fast enough.
fn unpacked_image(kernel: &Kernel, folder: &Path) -> Result<PathBuf> {
    const XZ: &[u8] = b"\xfd7zXZ\0";
    let path = kernel.image();
    let image = fs::read(&path)?;
    // As the kernel's own `extract-vmlinux`: by the mark of the packer, soon behind the code that sets up.
    let begin = image.windows(XZ.len()).take(1 << 20).position(|window| window == XZ);
    let Some(packed) = begin.and_then(|begin| image.get(begin..)) else { return Ok(path) };
    let (from, to) = (folder.join("kernel.xz"), folder.join("kernel"));
    fs::write(&from, packed)?;
    // What stands behind the kernel was not written by xz.
    fs::write(&to, sh::bytes(Command::new("xz").args(["-dc", "--single-stream"]).arg(&from))?)?;
    Ok(to)
}

/// The initramfs: busybox, the modules that a guest needs, and its first program.
fn archive(kernel: &Kernel, request: &Request<'_>) -> Result<Vec<u8>> {
    let wanted: Vec<&str> = WANTED.into_iter().chain(DISKS.into_iter().filter(|_| !request.disks.is_empty())).collect();
    let mut entries = Vec::new();
    // Directories come before what lies in them: the kernel makes no parents.
    for name in ["bin", "modules", "proc", "sys", "dev", "new", "lower", "upper"] {
        entries.push(entry(name, ModeFileType::Directory, Vec::new()));
    }
    entries.push(entry("bin/busybox", ModeFileType::Regular, fs::read(BUSYBOX)?));
    entries.push(entry("bin/sh", ModeFileType::Symlink, b"busybox".to_vec()));
    let mut names = Vec::new();
    for path in kernel.load_order(&wanted)? {
        let bytes = if path.extension() == Some("xz".as_ref()) {
            sh::bytes(Command::new("xz").arg("-dc").arg(&path))?
        } else {
            fs::read(&path)?
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().trim_end_matches(".xz").to_owned();
        entries.push(entry(&format!("modules/{name}"), ModeFileType::Regular, guest::unsigned(bytes)));
        names.push(name);
    }
    entries.push(entry("init", ModeFileType::Regular, guest::init(&names, &kernel.modules()).into()));
    Ok(cpio::write_cpio(entries.into_iter(), Vec::new())?)
}

fn entry(name: &str, kind: ModeFileType, content: Vec<u8>) -> (cpio::NewcBuilder, Cursor<Vec<u8>>) {
    (cpio::NewcBuilder::new(name).mode(0o755).set_mode_file_type(kind), Cursor::new(content))
}

/// A folder of this process, removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
}

impl Folder {
    /// `kind` is one of [`KINDS`].
    pub(crate) fn new(kind: &str) -> Result<Self> {
        let base = kernel::folder();
        sweep(&base);
        // Several guests of this process run at once.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{kind}-{}.{number}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("xtask: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Removes what processes that are gone have left.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = KINDS
            .iter()
            .find_map(|kind| name.strip_prefix(kind)?.strip_prefix('-')?.split('.').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another run may be at it; what is left then is its affair.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::crashed;

    #[test]
    fn a_crash_is_neither_an_exit_nor_a_kill() {
        for (script, expected) in [("kill -SEGV $$", true), ("kill -KILL $$", false), ("exit 11", false)] {
            assert_eq!(crashed(Command::new("sh").args(["-c", script]).status().unwrap()), expected, "{script}");
        }
    }
}

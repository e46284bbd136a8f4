//! Disks of guests whose power is cut: a plain image that holds what is durable, and an overlay that takes what one boot
//! writes. They lie in a folder of their own and never outlive it.
//!
//! The overlay is the disk's volatile cache. QEMU writes data into it at once, but the table that says where each 4 KiB block
//! lies is kept in QEMU's memory until the guest flushes the disk. When QEMU is killed, the first write to each block since
//! the boot is lost unless a flush came after it, in whatever order they were made; a further write to a block that
//! was flushed once in this boot lies in the image at once, as if the disk had written it of its own accord. A real disk may do both.

use fs_err::{self as fs, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::sh;

/// Options of the drive beside its file. `unsafe` spares the host's own disk: it is the guest that loses power, not the host.
/// The tables of a disk of up to 8 GiB fit into its cache, so that nothing is pushed out of it before a flush.
pub(super) const OPTIONS: &str = "format=qcow2,cache=unsafe,l2-cache-size=1M";

/// One table for each GiB of the disk: pieces of 128 KiB, each of which knows its 32 blocks.
const LAYOUT: &str = "cluster_size=128k,extended_l2=on";

/// One disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// A new, empty one of `bytes` in `folder`.
    pub(crate) fn new(folder: &Path, name: &str, bytes: u64) -> Result<Disk> {
        let disk = Disk { path: folder.join(name) };
        let file = File::create(&disk.path)?;
        file.set_len(bytes)?;
        Ok(disk)
    }

    /// Makes a file system on it, with a tool that takes the image as its last argument.
    pub(crate) fn format(&self, [program, options @ ..]: [&str; 3]) -> Result<()> {
        // They are not in the path of every user.
        let program = sh::which(program).unwrap_or_else(|| Path::new("/sbin").join(program));
        sh::output(Command::new(program).args(options).arg(&self.path)).map(drop)
    }

    /// What this boot writes.
    pub(super) fn overlay(&self) -> PathBuf {
        self.path.with_extension("boot")
    }

    /// Before a boot.
    pub(crate) fn power_on(&self) -> Result<()> {
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-o", LAYOUT, "-b"]).arg(&self.path);
        sh::output(command.arg(self.overlay())).map(drop)
    }

    /// After a boot, however it ended: what reached the disk stays, the rest is gone.
    pub(crate) fn power_off(&self) -> Result<()> {
        let overlay = self.overlay();
        sh::output(Command::new("qemu-img").args(["commit", "-q", "-d", "-f", "qcow2", "-t", "unsafe"]).arg(&overlay))?;
        Ok(fs::remove_file(&overlay)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::Disk;
    use crate::sh;

    /// The model of a power cut rests on this alone: a flush makes durable, a kill loses the rest.
    #[test]
    fn a_killed_disk_has_lost_what_was_not_flushed() {
        if sh::which("qemu-io").is_none() || sh::which("qemu-img").is_none() {
            println!("SKIP a_killed_disk_has_lost_what_was_not_flushed: no qemu-io or no qemu-img (cargo xtask setup)");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path(), "disk", 512 << 20).unwrap();
        disk.power_on().unwrap();
        // As OPTIONS, in the words of this program.
        let overlay = format!("driver=qcow2,l2-cache-size=1M,file.filename={}", disk.overlay().display());
        let mut qemu = Command::new("qemu-io");
        let commands = "write -P 1 0 4k\nflush\nwrite -P 4 0 4k\nwrite -P 2 8k 4k\nwrite -P 3 300M 1M\nsleep 60000\n";
        fs_err::write(folder.path().join("commands"), commands).unwrap();
        let input = std::fs::File::open(folder.path().join("commands")).unwrap();
        qemu.args(["-t", "unsafe", "--image-opts", &overlay]).stdin(input).stdout(Stdio::null());
        let mut child = qemu.spawn().unwrap();
        // Data goes into the image at once, the last of it behind all else.
        let until = Instant::now() + Duration::from_secs(30);
        let written = || fs_err::metadata(disk.overlay()).unwrap().len();
        while written() < 1_500_000 {
            assert!(Instant::now() < until, "{} bytes are in the image", written());
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        disk.power_off().unwrap();
        let file = std::fs::File::open(folder.path().join("disk")).unwrap();
        let byte = |at: u64| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            byte[0]
        };
        // The block that was written twice may have either content; this model keeps the second one.
        assert_eq!((byte(0), byte(8192), byte(300 << 20), byte((300 << 20) + 500_000)), (4, 0, 0, 0));
    }
}

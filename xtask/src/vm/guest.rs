//! What runs in a guest and how QEMU is asked for it. Pure: texts and arguments, no effect.

use std::path::Path;

use super::disk::{self, Disk};
use super::kernel::Kernel;
use crate::sh;

/// The script of the command: where, with what of the host's variables and of those of the tests, and the request itself.
pub(super) fn command(directory: &Path, variables: impl Iterator<Item = (String, String)>, script: &str) -> String {
    // How much of a panic is shown, too.
    let is_passed = |name: &str| name.starts_with("TRACKER_") || name == "RUST_BACKTRACE" || name == "RUST_LOG";
    let passed = variables.filter(|(name, _)| is_passed(name));
    let exports: String = passed.map(|(name, value)| format!("export {name}={}\n", sh::quote(&value))).collect();
    format!("cd {}\n{exports}{script}\n", sh::quote(&directory.display().to_string()))
}

/// Files of one run, in its folder on the host. The first is a folder that is shared with the guest.
pub(super) const SHARED: &str = "shared";
pub(super) const CONSOLE: &str = "console";

/// All that translation can do, but for what it does slowly: string instructions are translated into a loop over single bytes,
/// and kernels that see `erms` or `fsrm` copy and clear with nothing else (a tenth of the speed). A fifth level of page tables
/// makes each miss of the translated TLB longer; the guards against user memory keep a TLB of their own.
const CPU: &str = "max,-erms,-fsrm,-la57,-smap,-smep";

const LINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off tsc=reliable no_timer_check";

/// Guests with disks boot again and again, and are not asked about races: their grace periods are hurried, and their memory is
/// not cleared twice.
const LINE_DISKS: &str = " rcupdate.rcu_expedited=1 init_on_alloc=0";

/// Arguments of `qemu-system-x86_64`: translation only (so that it works where there is no /dev/kvm, and the same
/// everywhere), no network; the command's output on stdout. `counter_khz`: how fast the time stamp counter runs, if that is known.
pub(super) fn qemu(folder: &Path, kernel: &Kernel, disks: &[Disk], counter_khz: Option<u128>) -> Vec<String> {
    // A comma ends a value; doubled it stands for itself.
    let value = |path: &Path| path.display().to_string().replace(',', ",,");
    let console = value(&folder.join(CONSOLE));
    let mut line = LINE.to_owned();
    if let Some(khz) = counter_khz {
        line.push_str(&format!(" tsc_early_khz={khz}"));
    }
    if !disks.is_empty() {
        line.push_str(LINE_DISKS);
    }
    let mut all = Vec::new();
    let mut add = |words: &str| all.extend(words.split(' ').map(str::to_owned));
    add("-machine q35 -accel tcg,thread=multi -nodefaults -no-user-config -display none");
    // The memory holds all that the guest writes: images of file systems as well.
    add(&format!("-cpu {CPU} -no-reboot -smp 2 -m 2G"));
    add("-serial chardev:console -chardev stdio,id=output,signal=off -serial chardev:output");
    add("-device virtio-9p-pci,fsdev=r,mount_tag=root -device virtio-9p-pci,fsdev=s,mount_tag=shared");
    for (number, _) in disks.iter().enumerate() {
        add(&format!("-device virtio-blk-pci,drive=d{number}"));
    }
    let mut set = |option: &str, value: String| all.extend([option.to_owned(), value]);
    set("-kernel", kernel.image().display().to_string());
    set("-initrd", kernel.initramfs(!disks.is_empty()).display().to_string());
    set("-append", line);
    set("-chardev", format!("file,id=console,path={console}"));
    set("-fsdev", "local,id=r,path=/,security_model=none,readonly=on,multidevs=remap".into());
    set("-fsdev", format!("local,id=s,path={},security_model=none", value(&folder.join(SHARED))));
    for (number, disk) in disks.iter().enumerate() {
        set("-drive", format!("if=none,id=d{number},file={},{}", value(&disk.overlay()), disk::OPTIONS));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_command_has_variables_of_the_tests_and_no_secrets() {
        let variables =
            ["TRACKER_X", "RUST_BACKTRACE", "AWS_SECRET_ACCESS_KEY", "PATH"].map(|name| (name.into(), "1 2".into()));
        let text = command(Path::new("/a b"), variables.into_iter(), &sh::line(["sh", "-c", "echo 'a b'; exit 3"]));
        let exports = "export TRACKER_X='1 2'\nexport RUST_BACKTRACE='1 2'\n";
        assert_eq!(text, format!("cd '/a b'\n{exports}sh -c 'echo '\\''a b'\\''; exit 3'\n"));
    }

    #[test]
    fn the_scripts_are_scripts() {
        for script in ["src/vm/init.sh", "src/vm/boot.sh", "setup.sh", "fresh.sh"] {
            let shell = if script.starts_with("src/vm") { "sh" } else { "bash" };
            sh::output(Command::new(shell).arg("-n").arg(sh::root().join("xtask").join(script))).unwrap();
        }
    }

    #[test]
    fn the_root_is_shared_read_only_and_commas_in_paths_survive() {
        let all = qemu(Path::new("/a,b"), &Kernel::default(), &[], Some(5));
        let root = all.iter().find(|word| word.contains("path=/,")).expect("the root");
        assert!(root.contains("readonly=on"), "{root}");
        assert!(all.iter().any(|word| word == "local,id=s,path=/a,,b/shared,security_model=none"), "{all:?}");
        assert!(all.windows(2).any(|pair| pair == ["-accel", "tcg,thread=multi"]));
    }
}

//! What runs in a guest and how QEMU is asked for it. Pure: texts and arguments, no effect.

use std::path::Path;

use super::disk::{self, Disk};
use crate::sh;

/// Loaded by every guest: what its root is made of, and loop devices. Other file systems are loaded by their first mount, from
/// the kernel's tree.
pub(super) const WANTED: [&str; 5] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "loop"];

/// Loaded by a guest that has disks: what is on them is known, and a mount would unpack the module and check its signature in
/// translated code. The checksum is not among what they are said to need: they ask for it by its name.
pub(super) const DISKS: [&str; 5] = ["virtio_blk", "crc32c_intel", "ext4", "xfs", "btrfs"];

/// Ends a module that is signed; before it stand twelve bytes, of which the last four are the signature's length, and before
/// them the signature.
const SIGNED: &[u8] = b"~Module signature appended~\n";

/// A module without its signature, whose check takes translated code most of a second. No kernel of ours insists on one.
pub(super) fn unsigned(mut module: Vec<u8>) -> Vec<u8> {
    let Some((length, rest)) = module.strip_suffix(SIGNED).and_then(|signed| {
        let (rest, length) = signed.split_last_chunk::<4>()?;
        Some((u32::from_be_bytes(*length) as usize, rest.len()))
    }) else {
        return module;
    };
    if let Some(end) = rest.checked_sub(8 + length) {
        module.truncate(end);
    }
    module
}

/// Folder of the guest that is shared with the host, for the command and its answer.
pub(super) const SHARED: &str = "/run/vm";
/// Files in it.
pub(super) const COMMAND: &str = "command";
pub(super) const BOOT: &str = "boot";
pub(super) const CODE: &str = "code";
pub(super) const CONSOLE: &str = "console";

/// The first program of the guest: loads the modules, puts a tmpfs over the host's root, and goes on there. Its faults go to
/// the console, which the host shows when no answer comes.
pub(super) fn init(modules: &[String], module_tree: &Path) -> String {
    let load: String =
        modules.iter().map(|file| format!("$B insmod /modules/{file} || echo \"no {file}\"\n")).collect();
    let tree = sh::quote(&module_tree.display().to_string());
    format!(
        "#!/bin/sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sysfs /sys; $B mount -t devtmpfs devtmpfs /dev
{load}
P=trans=virtio,version=9p2000.L,msize=524288
$B mount -t 9p -o $P,ro,cache=loose root /lower || $B poweroff -f
$B mount -t tmpfs -o mode=755 tmpfs /upper; $B mkdir /upper/u /upper/w
$B mount -t overlay -o lowerdir=/lower,upperdir=/upper/u,workdir=/upper/w overlay /new
for d in proc sys dev run tmp lib/modules; do $B mkdir -p /new/$d; done
$B mount -t tmpfs -o mode=755 tmpfs /new/run; $B mkdir -p /new{SHARED}; $B cp $B /new/run/busybox
$B mount -t 9p -o $P,rw shared /new{SHARED} || $B poweroff -f
$B mount --bind /lower{tree} /new/lib/modules
for d in proc sys dev; do $B mount --move /$d /new/$d; done
exec $B switch_root /new /bin/sh {SHARED}/{BOOT}
"
    )
}

/// The second program: the rest of a system, the command, and the end. With busybox, which is in memory already: each
/// program of the host's is read over 9p first.
pub(super) fn boot() -> String {
    format!(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run LANG=C.UTF-8 TMPDIR=/run/tmp
exec </dev/null >/dev/ttyS1 2>&1
B=/run/busybox
$B stty -F /dev/ttyS1 raw -echo
$B mkdir -m 1777 -p /run/tmp /dev/pts /dev/shm
mount_at() {{ $B mount -t $1 $1 $2; }}
mount_at tmpfs /run/tmp; mount_at devpts /dev/pts; mount_at tmpfs /dev/shm
mount_at cgroup2 /sys/fs/cgroup; mount_at bpf /sys/fs/bpf
mount_at debugfs /sys/kernel/debug; mount_at tracefs /sys/kernel/tracing
$B ip link set lo up; $B hostname guest
sh {SHARED}/{COMMAND}
echo $? >{SHARED}/{CODE}
$B sync; $B poweroff -f
"
    )
}

/// The script of the command: where, with what, and the words as they are.
pub(super) fn command(directory: &Path, variables: &[(String, String)], words: &[String]) -> String {
    let mut text = format!("cd {}\n", sh::quote(&directory.display().to_string()));
    for (name, value) in variables {
        text.push_str(&format!("export {name}={}\n", sh::quote(value)));
    }
    let words: Vec<String> = words.iter().map(|word| sh::quote(word)).collect();
    text.push_str(&format!("{}\n", words.join(" ")));
    text
}

/// Variables of the host that a command in the guest sees: those of the tests, and how much of a panic is shown.
pub(super) fn is_passed_on(name: &str) -> bool {
    name.starts_with("TRACKER_") || name == "RUST_BACKTRACE" || name == "RUST_LOG"
}

/// The exit code that the guest left, if it came that far.
pub(super) fn exit_code(text: &str) -> Option<u8> {
    text.trim().parse().ok()
}

/// The files of one run, on the host.
#[derive(Debug)]
pub(super) struct Files<'a> {
    pub(super) image: &'a Path,
    pub(super) initramfs: &'a Path,
    /// Shared with the guest at [`SHARED`].
    pub(super) shared: &'a Path,
    pub(super) console: &'a Path,
    pub(super) disks: &'a [Disk],
    /// How fast the time stamp counter runs, if that is known.
    pub(super) counter_khz: Option<u128>,
}

/// All that translation can do, but for what it does slowly: string instructions are translated into a loop over single bytes,
/// and kernels that see `erms` or `fsrm` copy and clear with nothing else (a tenth of the speed). A fifth level of page tables
/// makes each miss of the translated TLB longer; the guards against user memory keep a TLB of their own.
const CPU: &str = "max,-erms,-fsrm,-la57,-smap,-smep";

const LINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off tsc=reliable no_timer_check";

/// Guests with disks boot again and again, and are not asked about races: their grace periods are hurried, and their memory is
/// not cleared twice.
const LINE_DISKS: &str = " rcupdate.rcu_expedited=1 init_on_alloc=0";

/// Arguments of `qemu-system-x86_64`: translation only (so that it works where there is no /dev/kvm, and the same
/// everywhere), no network; the command's output on stdout.
pub(super) fn qemu(files: &Files<'_>, cpus: u32, memory: &str) -> Vec<String> {
    // A comma ends a value; doubled it stands for itself.
    let path = |path: &Path| path.display().to_string().replace(',', ",,");
    let share = |id: &str, tag: &str, options: &str| {
        let device = format!("virtio-9p-pci,fsdev={id},mount_tag={tag}");
        ["-fsdev".to_owned(), format!("local,id={id},{options}"), "-device".to_owned(), device]
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut all = words("-machine q35 -accel tcg,thread=multi -nodefaults -no-user-config -display none");
    all.extend(words(&format!("-cpu {CPU}")));
    all.extend(words(&format!("-no-reboot -smp {cpus} -m {memory}")));
    all.extend(["-kernel".into(), files.image.display().to_string()]);
    all.extend(["-initrd".into(), files.initramfs.display().to_string()]);
    let mut line = LINE.to_owned();
    if let Some(khz) = files.counter_khz {
        line.push_str(&format!(" tsc_early_khz={khz}"));
    }
    if !files.disks.is_empty() {
        line.push_str(LINE_DISKS);
    }
    all.extend(["-append".into(), line]);
    all.extend(["-chardev".into(), format!("file,id=console,path={}", path(files.console))]);
    all.extend(words("-serial chardev:console -chardev stdio,id=output,signal=off -serial chardev:output"));
    all.extend(share("r", "root", "path=/,security_model=none,readonly=on,multidevs=remap"));
    all.extend(share("s", "shared", &format!("path={},security_model=none", path(files.shared))));
    for (number, disk) in files.disks.iter().enumerate() {
        all.extend(["-drive".into(), format!("if=none,id=d{number},file={},{}", path(&disk.overlay()), disk::OPTIONS)]);
        all.extend(["-device".into(), format!("virtio-blk-pci,drive=d{number}")]);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Files, SIGNED, boot, command, exit_code, init, is_passed_on, qemu, unsigned};

    #[test]
    fn only_a_number_of_a_byte_is_an_exit_code() {
        assert_eq!(exit_code("0\n"), Some(0));
        assert_eq!(exit_code("137\n"), Some(137));
        for text in ["", "\n", "-1", "256", "0 0"] {
            assert_eq!(exit_code(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let signed = [b"module+", &b"signature"[..], &[0; 8], &9u32.to_be_bytes(), SIGNED].concat();
        assert_eq!(unsigned(signed), b"module+");
        let longer_than_all = [b"module", &[0; 8][..], &900u32.to_be_bytes(), SIGNED].concat();
        for module in [&b""[..], b"module", SIGNED, &longer_than_all] {
            assert_eq!(unsigned(module.to_vec()), module);
        }
    }

    #[test]
    fn words_of_the_command_stay_words() {
        let words = ["sh".to_owned(), "-c".to_owned(), "echo 'a b'; exit 3".to_owned()];
        let text = command(Path::new("/a b"), &[("TRACKER_X".into(), "1 2".into())], &words);
        assert_eq!(text, "cd '/a b'\nexport TRACKER_X='1 2'\nsh -c 'echo '\\''a b'\\''; exit 3'\n");
    }

    #[test]
    fn the_scripts_are_scripts() {
        let scripts = [init(&["a.ko".into()], Path::new("/x/lib/modules")), boot()];
        for (index, script) in scripts.iter().enumerate() {
            let file = std::env::temp_dir().join(format!("xtask-script-{index}-{}", std::process::id()));
            fs_err::write(&file, script).unwrap();
            let checked = crate::sh::output(std::process::Command::new("sh").arg("-n").arg(&file));
            fs_err::remove_file(&file).unwrap();
            checked.unwrap();
        }
        assert!(scripts[0].contains("insmod /modules/a.ko"));
    }

    #[test]
    fn variables_of_the_tests_are_passed_on_and_no_secrets() {
        assert!(is_passed_on("TRACKER_TEST_BIN") && is_passed_on("RUST_BACKTRACE"));
        assert!(!is_passed_on("AWS_SECRET_ACCESS_KEY") && !is_passed_on("PATH"));
    }

    #[test]
    fn the_root_is_shared_read_only_and_commas_in_paths_survive() {
        let path = Path::new("/a,b");
        let files =
            Files { image: path, initramfs: path, shared: path, console: path, disks: &[], counter_khz: Some(5) };
        let all = qemu(&files, 2, "2G");
        let root = all.iter().find(|word| word.contains("path=/,")).expect("the root");
        assert!(root.contains("readonly=on"), "{root}");
        assert!(all.iter().any(|word| word == "local,id=s,path=/a,,b,security_model=none"), "{all:?}");
        assert!(all.windows(2).any(|pair| pair == ["-accel", "tcg,thread=multi"]));
    }
}

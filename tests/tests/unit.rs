//! The service as packaged: real captures under exactly the capabilities of `packaging/tracker.service`, with as much of
//! its sandbox as is possible without systemd. What is committed is restored and compared.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{XattrFlags, setxattr};
use rustix::mount::{UnmountFlags, unmount};
use tests::capture_rig::back_end;
use tests::compare::assert_same;
use tests::daemon::{Daemon, Volume, binary, utf8};
use tests::load::Random;
use tests::mounts::{Kind, Mount, programs_or_skip, run};
use tests::raw_io::Mapping;
use tests::unit_file::Unit;

const SYNC: Duration = Duration::from_secs(60);
/// Another user, whose files root without CAP_DAC_OVERRIDE may not access.
const OTHER: u32 = 12_345;

/// Files of root and of another user that only their owner may read.
fn tree(mount: &Mount) -> PathBuf {
    let dir = mount.dir("data");
    let mut random = Random::new(7);
    fs::create_dir(dir.join("closed")).unwrap();
    for (name, len) in
        [("ours", 300_000), ("theirs", 200_000), ("closed/theirs", 50_000), ("gone", 10), ("mapped", 65_536)]
    {
        let path = dir.join(name);
        fs::write(&path, random.bytes(len)).unwrap();
        if name != "ours" {
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            chown(&path, Some(OTHER), Some(OTHER)).unwrap();
        }
    }
    setxattr(dir.join("theirs"), "user.note", b"theirs", XattrFlags::empty()).unwrap();
    std::os::unix::fs::symlink("theirs", dir.join("link")).unwrap();
    fs::set_permissions(dir.join("closed"), Permissions::from_mode(0o700)).unwrap();
    chown(dir.join("closed"), Some(OTHER), Some(OTHER)).unwrap();
    dir
}

fn write_at(path: &Path, bytes: &[u8], offset: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// Changes of every kind that marks distinguish, with content by `round`.
fn change(dir: &Path, round: u8) {
    write_at(&dir.join("ours"), &[round; 5000], 70_000);
    write_at(&dir.join("closed/theirs"), &[round; 5000], 20_000);
    let new = dir.join(format!("closed/new{round}"));
    fs::write(&new, vec![round; 30_000]).unwrap();
    chown(&new, Some(OTHER), Some(OTHER)).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(dir.join(format!("dir{round}"))).unwrap();
    fs::rename(&new, dir.join(format!("dir{round}/moved"))).unwrap();
    setxattr(dir.join("theirs"), "user.note", &[round], XattrFlags::empty()).unwrap();
    fs::set_permissions(dir.join("ours"), Permissions::from_mode(0o640 + u32::from(round))).unwrap();
    let _ = fs::remove_file(dir.join("gone"));
    File::options().write(true).open(dir.join("theirs")).unwrap().set_len(200_000 - 10_000 * u64::from(round)).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(dir.join("mapped")).unwrap();
    Mapping::new(&file, 65_536).unwrap().store(5 * 4096 + 3, round);
}

fn volume(dir: &Path, wrapper: Vec<String>) -> Volume {
    let mut volume = Volume::new(dir);
    volume.wrapper = wrapper;
    volume.environment.push(("RUST_LOG".into(), "info".into()));
    // As a daemon's volumes do.
    volume.keep_tracking();
    // As StateDirectory does.
    fs::create_dir(&volume.state).unwrap();
    volume
}

#[track_caller]
fn captures(volume: &Volume) {
    let status = volume.status();
    assert_eq!((&status["backend"], &status["state"]), (&back_end().name().into(), &"protected".into()), "{status}");
}

/// `CapEff`, `CapPrm` or `CapBnd` of a process.
fn set(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[track_caller]
fn restores(volume: &Volume, dir: &Path, name: &str) {
    volume.sync(SYNC).expect(0);
    let copy = volume.scratch(name);
    volume.restore(&copy).expect(0);
    assert_same(dir, &copy);
}

fn stop(daemon: Daemon<'_>) {
    assert!(daemon.stop().success());
}

/// Protects under the unit's restrictions; makes changes while it runs, between a stop and a start, and after a kill.
fn protects(test: &str, kind: Kind) {
    if !programs_or_skip(test, "root", &["setpriv", "unshare"]) {
        return;
    }
    let Some(mount) = Mount::new_or_skip(test, kind) else { return };
    let (unit, dir) = (Unit::read(), tree(&mount));
    if kind == Kind::Ext4 {
        // Like a server's data directory: no file of the self-test can be created in it, and that must not prevent capture.
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        chown(&dir, Some(OTHER), Some(OTHER)).unwrap();
    }
    let volume = volume(&dir, unit.sandbox());
    let daemon = volume.start_ready();
    for name in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(set(daemon.pid(), name), unit.mask(), "{name} is the unit's");
    }
    captures(&volume);
    change(&dir, 1);
    restores(&volume, &dir, "running");
    stop(daemon);
    change(&dir, 2);
    let daemon = volume.start_ready();
    captures(&volume);
    restores(&volume, &dir, "after-stop");
    assert!(volume.log_tail().contains("Resumed"), "pins are taken over: {}", volume.log_tail());
    daemon.kill9();
    change(&dir, 3);
    let daemon = volume.start_ready();
    restores(&volume, &dir, "after-kill");
    stop(daemon);
}

#[test]
fn the_units_capabilities_suffice_on_ext4() {
    protects("the_units_capabilities_suffice_on_ext4", Kind::Ext4);
}

#[test]
fn the_units_capabilities_suffice_on_an_overlay() {
    protects("the_units_capabilities_suffice_on_an_overlay", Kind::Overlay);
}

#[test]
fn each_capability_of_the_unit_is_needed() {
    let name = "each_capability_of_the_unit_is_needed";
    if !programs_or_skip(name, "root", &["setpriv"]) {
        return;
    }
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let (unit, dir) = (Unit::read(), tree(&mount));
    for without in unit.capabilities() {
        let volume = volume(&dir, unit.privileges(Some(without)));
        let mut daemon = volume.start();
        // A baseline that cannot read everything never completes, so there is no `ready` to wait for.
        let ready = daemon.ready_within(Duration::from_secs(10));
        let status = volume.status();
        let code = volume.sync(Duration::from_secs(2)).code;
        match without {
            "CAP_DAC_READ_SEARCH" => {
                assert_eq!(status["backend"], back_end().name(), "{status}");
                assert!(
                    matches!(code, Some(3 | 20)),
                    "files of others are unread, and that is said: {code:?} {status}"
                );
            }
            _ => assert_eq!((ready, &status["backend"]), (true, &"scan".into()), "{without}: {status}"),
        }
    }
}

#[test]
fn the_unit_allows_every_system_call_that_is_made() {
    let name = "the_unit_allows_every_system_call_that_is_made";
    if !programs_or_skip(name, "strace", &["strace"]) || !programs_or_skip(name, "systemd", &["systemd-analyze"]) {
        return;
    }
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let (unit, dir) = (Unit::read(), tree(&mount));
    let mut volume = volume(&dir, Vec::new());
    let record = volume.scratch("record");
    // -D: the tracer is the child, so that signals go to the program.
    let tracer = ["strace", "-D", "-f", "-qq", "-s", "0", "-o", utf8(&record)].map(str::to_owned);
    volume.wrapper = tracer.into_iter().chain(unit.privileges(None)).collect();
    let daemon = volume.start_ready();
    captures(&volume);
    change(&dir, 1);
    restores(&volume, &dir, "copy");
    stop(daemon);
    let record = String::from_utf8_lossy(&fs::read(&record).unwrap()).into_owned();
    assert!(record.contains("bpf(BPF_PROG_LOAD"), "the record has the start of capture");
    let refused = unit.refused(&record, binary());
    assert!(refused.is_empty(), "{} calls would be refused: {:#?}", refused.len(), &refused[..refused.len().min(20)]);
}

#[test]
fn a_call_that_the_unit_refuses_is_found() {
    let name = "a_call_that_the_unit_refuses_is_found";
    if !programs_or_skip(name, "systemd", &["systemd-analyze"]) {
        return;
    }
    let good = "7 execve(\"/p\", [...], 0x1) = 0\n7 bpf(BPF_PROG_LOAD, {}, 4) = 3\n8 socket(AF_INET, SOCK_STREAM, 0) = 4\n\
                7 mmap(NULL, 1, PROT_READ, 0, 3, 0) = 0x1\n8 <... read resumed>) = 1\n8 +++ exited with 0 +++\n";
    let unit = Unit::read();
    assert_eq!(unit.refused(&format!("7 mount(\"before\") = 0\n{good}"), Path::new("/p")), Vec::<String>::new());
    for (line, option) in [
        ("8 mount(\"bpf\", \"/sys/fs/bpf\") = 0", "SystemCallFilter"),
        ("socket(AF_NETLINK, SOCK_RAW, 0) = 4", "RestrictAddressFamilies"),
        ("8 mmap(NULL, 1, PROT_READ|PROT_WRITE|PROT_EXEC, 0, 3, 0) = 0x1", "MemoryDenyWriteExecute"),
        ("8 clone(child_stack=NULL, flags=CLONE_NEWNS) = 9", "RestrictNamespaces"),
    ] {
        let refused = unit.refused(&format!("{good}{line}\n"), Path::new("/p"));
        assert_eq!(refused, [format!("{option}: {line}")]);
    }
}

#[test]
fn the_daemon_set_adds_the_units_capabilities() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/daemonset.yaml");
    let text = fs::read_to_string(path).unwrap();
    let list = text.split("add: [").nth(1).unwrap().split(']').next().unwrap();
    let added: Vec<String> = list.split(',').map(|name| format!("CAP_{}", name.trim().trim_matches('"'))).collect();
    assert_eq!(added, Unit::read().capabilities());
}

/// An overlay over `lower` and `upper` of a mount, unmounted when dropped.
struct Metacopy(PathBuf);

impl Metacopy {
    fn mount(on: &Mount) -> Metacopy {
        let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| on.dir(name));
        fs::write(lower.join("below"), vec![b'b'; 100_000]).unwrap();
        fs::write(lower.join("untouched"), b"u").unwrap();
        let dirs = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        run(Command::new("mount")
            .args(["-t", "overlay", "-o", &format!("metacopy=on,{dirs}"), "overlay"])
            .arg(&merged));
        Metacopy(merged)
    }
}

impl Drop for Metacopy {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

/// That a file of the upper layer has only attributes is shown by a trusted attribute, which only CAP_SYS_ADMIN can see.
/// Without it the layer must not be read, since it would give zeros.
#[test]
fn a_metacopy_is_never_read_as_zeros() {
    let name = "a_metacopy_is_never_read_as_zeros";
    if !programs_or_skip(name, "root", &["setpriv"]) {
        return;
    }
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let overlay = Metacopy::mount(&mount);
    let dir = &overlay.0;
    fs::set_permissions(dir.join("below"), Permissions::from_mode(0o600)).unwrap();
    let volume = volume(dir, Unit::read().privileges(None));
    let daemon = volume.start_ready();
    restores(&volume, dir, "copy");
    let status = volume.status();
    assert!(status["backend"] == "scan" && status["reasons"].to_string().contains("metacopy"), "{status}");
    fs::set_permissions(dir.join("untouched"), Permissions::from_mode(0o600)).unwrap();
    restores(&volume, dir, "later");
    stop(daemon);
}

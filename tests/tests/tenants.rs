//! An unprivileged user of one protected directory can neither stop nor slow down the daemon or another volume, and the
//! daemon's memory is bounded. Each test is one kind of harm; the other volume commits meanwhile. The harm is done as a
//! user without rights, except where that requires somebody else: devices, and a mount that root may access too.
#![expect(unsafe_code, reason = "leases, and a FUSE mount without a server, which no safe crate offers")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use tests::compare::{Options, compare};
use tests::mounts::skip;
use tests::tenants::{Tenants, as_nobody, nobody};

fn make_special(path: &Path, kind: FileType, device: u64) {
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::from_raw_mode(0o666), device).unwrap();
}

/// Asserts that a restore of the tenant's newest commit equals its directory.
#[track_caller]
fn tenant_is_restored(all: &Tenants) {
    let copy = all.folder.path().join("copy");
    let reference = all.folder.path().join("store/tenant");
    let answer = all.tracker(&["restore", reference.to_str().unwrap(), copy.to_str().unwrap()]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(compare(&all.tenant, &copy, Options::default()).unwrap(), [""; 0]);
}

/// Files that block whoever opens them, and files that are constantly replaced while they are looked at.
#[test]
fn fifos_devices_and_sockets_block_nobody() {
    let name = "fifos_devices_and_sockets_block_nobody";
    let special = |tenant: &Path| {
        make_special(&tenant.join("fifo"), FileType::Fifo, 0);
        make_special(&tenant.join("zero"), FileType::CharacterDevice, rustix::fs::makedev(1, 5));
        make_special(&tenant.join("random"), FileType::CharacterDevice, rustix::fs::makedev(1, 8));
    };
    let Some(mut all) = Tenants::new_or_skip(name, special) else { return };
    let at = all.tenant.join("socket");
    let socket = as_nobody(|| UnixListener::bind(at).unwrap());
    let done = AtomicBool::new(false);
    let tenant = all.tenant.clone();
    thread::scope(|scope| {
        scope.spawn(|| {
            nobody(|| {
                let (swap, file, fifo) = (tenant.join("swap"), tenant.join("swap.file"), tenant.join("swap.fifo"));
                while !done.load(Ordering::Relaxed) {
                    fs::write(&file, "content").unwrap();
                    fs::rename(&file, &swap).unwrap();
                    make_special(&fifo, FileType::Fifo, 0);
                    fs::rename(&fifo, &swap).unwrap();
                    thread::sleep(Duration::from_micros(200));
                }
            });
        });
        for _ in 0..4 {
            all.other_is_well();
        }
        all.tenant_answers(&[0, 3, 20]);
        done.store(true, Ordering::Relaxed);
    });
    all.tenant_answers(&[0]);
    all.other_is_well();
    drop(socket);
    tenant_is_restored(&all);
}

/// Another user's lease makes an open wait for its break, which takes 45 seconds: the file is late, and nothing else.
#[test]
fn leases_and_locks_make_a_file_late_and_nothing_else() {
    let name = "leases_and_locks_make_a_file_late_and_nothing_else";
    let Some(mut all) = Tenants::new_or_skip(name, |_| {}) else { return };
    // SAFETY: a signal disposition of this process alone: the kernel tells the holder of a lease by SIGIO.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let tenant = all.tenant.clone();
    let (leased, locked) = as_nobody(|| {
        let mut leased = File::create(tenant.join("leased")).unwrap();
        leased.write_all(b"to be read late").unwrap();
        // SAFETY: a lease on a descriptor of our own; no memory is handed over.
        let done = unsafe { libc::fcntl(leased.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        let locked = File::create(tenant.join("locked")).unwrap();
        rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive).unwrap();
        (&locked).write_all(b"under a lock").unwrap();
        (leased, locked)
    });
    let answer = all.tenant_answers(&[3, 20]);
    let said = answer.stdout + &answer.stderr;
    assert!(said.contains("leased"), "the file that is waited for is named: {said}");
    assert!(!said.contains("locked"), "a lock keeps nobody from reading: {said}");
    for _ in 0..3 {
        all.other_is_well();
    }
    drop(leased);
    all.tenant_answers(&[0]);
    tenant_is_restored(&all);
    drop(locked);
}

/// A file that grows faster than it is read, and a huge hole.
#[test]
fn a_file_that_grows_without_end_stays_its_owners_trouble() {
    let name = "a_file_that_grows_without_end_stays_its_owners_trouble";
    let Some(mut all) = Tenants::new_or_skip(name, |_| {}) else { return };
    let at = all.tenant.join("hole");
    as_nobody(|| File::create(at).unwrap().set_len(1 << 40).unwrap());
    let done = AtomicBool::new(false);
    let path = all.tenant.join("grows");
    thread::scope(|scope| {
        scope.spawn(|| {
            nobody(|| {
                let mut file = File::create(&path).unwrap();
                let chunk = vec![7u8; 256 << 10];
                while !done.load(Ordering::Relaxed) {
                    // The image is small: start again from the beginning, without giving readers a pause.
                    if file.write_all(&chunk).is_err() || file.stream_position().unwrap() > 96 << 20 {
                        file.set_len(0).unwrap();
                        file.rewind().unwrap();
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            });
        });
        for _ in 0..4 {
            all.other_is_well();
        }
        done.store(true, Ordering::Relaxed);
    });
    all.tenant_answers(&[0, 3, 20]);
    all.other_is_well();
}

/// Thousands of names of one file, each as long as possible and full of terminal control characters.
#[test]
fn thousands_of_long_names_of_one_file() {
    let name = "thousands_of_long_names_of_one_file";
    let Some(mut all) = Tenants::new_or_skip(name, |_| {}) else { return };
    let dir = all.tenant.join("names");
    let first = dir.join("first");
    let named = |n: u32| {
        let mut name = format!("{n:06}\n\x1b]0;x\x07").into_bytes();
        name.resize(255, 0xff);
        dir.join(std::ffi::OsStr::from_bytes(&name))
    };
    as_nobody(|| {
        fs::create_dir(&dir).unwrap();
        fs::write(&first, vec![9; 50_000]).unwrap();
        for n in 0..4000 {
            fs::hard_link(&first, named(n)).unwrap();
        }
    });
    all.other_is_well();
    // Each write changes the file that all the names share.
    for n in 0..50 {
        File::options().write(true).open(named(n * 7)).unwrap().write_all(&n.to_le_bytes()).unwrap();
    }
    all.other_is_well();
    let begun = Instant::now();
    while all.tenant_answers(&[0, 3]).code != Some(0) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", all.log());
    }
    tenant_is_restored(&all);
}

/// Everything that costs a decision each: separate blocks, and attributes of many files. Work that grows with the square of
/// their number, or a copy of all for each of them, would show here in time and memory.
#[test]
fn pieces_and_attributes_without_number_hold_up_nobody() {
    const PIECES: u64 = 20_000;
    let name = "pieces_and_attributes_without_number_hold_up_nobody";
    let Some(mut all) = Tenants::new_or_skip(name, |_| {}) else { return };
    let (pieces, attributes) = (all.tenant.join("pieces"), all.tenant.join("attributes"));
    as_nobody(|| {
        let file = File::create(&pieces).unwrap();
        for n in 0..PIECES {
            file.write_all_at(&n.to_le_bytes(), n * 8192).unwrap();
        }
        fs::create_dir(&attributes).unwrap();
        for n in 0..500 {
            let path = attributes.join(format!("{n}"));
            fs::write(&path, "small").unwrap();
            for attribute in 0..12 {
                let (name, value) = (format!("user.{attribute:03}"), [n as u8; 32]);
                rustix::fs::setxattr(&path, name, &value, XattrFlags::empty()).unwrap();
            }
        }
    });
    all.other_is_well();
    // Every second piece once more, and an attribute of every file.
    as_nobody(|| {
        let file = File::options().write(true).open(&pieces).unwrap();
        for n in (0..PIECES).step_by(2) {
            file.write_all_at(b"again", n * 8192).unwrap();
        }
        for n in 0..500 {
            let path = attributes.join(format!("{n}"));
            rustix::fs::setxattr(&path, "user.000", b"other", XattrFlags::empty()).unwrap();
        }
    });
    for _ in 0..3 {
        all.other_is_well();
    }
    let begun = Instant::now();
    while all.tenant_answers(&[0, 3]).code != Some(0) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", all.log());
    }
    tenant_is_restored(&all);
}

/// Levels of the deep tree, and the name of each: its paths are longer than the kernel accepts at once.
const LEVELS: usize = 1500;
const LEVEL: &str = "level";

/// Creates the deep tree below `top`, with a file at each level.
fn dig(top: &Path) {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(top, flags, Mode::empty()).unwrap();
    for level in 0..LEVELS {
        rustix::fs::mkdirat(&at, LEVEL, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, LEVEL, flags, Mode::empty()).unwrap();
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&at, "file", flags, Mode::RUSR | Mode::WUSR).unwrap());
        write!(file, "at level {level}").unwrap();
    }
}

/// The oracle for a tree whose end no path can reach: every level has these two names, with equal attributes and content.
fn assert_same_depths(source: &Path, copy: &Path) {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut both = [source, copy].map(|path| rustix::fs::open(path, flags, Mode::empty()).unwrap());
    for level in 0..LEVELS {
        both = both.map(|at| rustix::fs::openat(&at, LEVEL, flags, Mode::empty()).unwrap());
        let of = |at: &OwnedFd| {
            let mut names: Vec<Vec<u8>> = rustix::fs::Dir::read_from(at)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().to_bytes().to_vec())
                .filter(|name| name != b"." && name != b"..")
                .collect();
            names.sort();
            let stats = ["file", "."].map(|name| {
                let found = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
                (found.st_mode, found.st_uid, found.st_gid, found.st_mtime, found.st_mtime_nsec)
            });
            let file = rustix::fs::openat(at, "file", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
            (names, stats, std::io::read_to_string(File::from(file)).unwrap())
        };
        let (ours, theirs) = (of(&both[0]), of(&both[1]));
        assert_eq!(ours.2, format!("at level {level}"));
        assert_eq!(ours, theirs, "level {level}");
    }
}

/// A tree with more levels than a path can have: the others do not wait for it, and it is committed completely.
#[test]
fn a_very_deep_tree_is_committed_and_holds_up_nobody() {
    let name = "a_very_deep_tree_is_committed_and_holds_up_nobody";
    let Some(mut all) = Tenants::new_or_skip(name, |_| {}) else { return };
    let tenant = all.tenant.clone();
    as_nobody(|| dig(&tenant));
    for _ in 0..4 {
        all.other_is_well();
    }
    let begun = Instant::now();
    while all.tenant_answers(&[0, 3, 20]).code != Some(0) {
        assert!(begun.elapsed() < Duration::from_secs(180), "{}", all.log());
        all.other_is_well();
    }
    println!("{LEVELS} levels took {:?}", begun.elapsed());
    // Changes at its end are committed too.
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(&tenant, flags, Mode::empty()).unwrap();
    for _ in 0..LEVELS {
        at = rustix::fs::openat(&at, LEVEL, flags, Mode::empty()).unwrap();
    }
    rustix::fs::chmodat(&at, "file", Mode::RUSR, AtFlags::empty()).unwrap();
    all.tenant_answers(&[0]);
    // On the image, which is deleted as a whole: such a tree cannot be removed by paths.
    let copy = all.tenant.with_file_name("copy");
    let reference = all.folder.path().join("store/tenant");
    let answer = all.tracker(&["restore", reference.to_str().unwrap(), copy.to_str().unwrap()]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_same_depths(&all.tenant, &copy);
    all.other_is_well();
}

/// Directories that swap places faster than they are listed.
#[test]
fn directories_in_motion_hold_up_nobody() {
    let name = "directories_in_motion_hold_up_nobody";
    let Some(mut all) = Tenants::new_or_skip(name, |_| {}) else { return };
    let (tenant, done) = (all.tenant.clone(), AtomicBool::new(false));
    as_nobody(|| {
        for n in 0..8 {
            fs::create_dir(tenant.join(format!("d{n}"))).unwrap();
            fs::write(tenant.join(format!("d{n}/file")), format!("of {n}")).unwrap();
        }
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            nobody(|| {
                for n in (0..8).cycle() {
                    let (one, two) = (tenant.join(format!("d{n}")), tenant.join(format!("d{}", (n + 3) % 8)));
                    let way = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(rustix::fs::CWD, &one, rustix::fs::CWD, &two, way).unwrap();
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    thread::sleep(Duration::from_micros(300));
                }
            });
        });
        for _ in 0..4 {
            all.other_is_well();
        }
        all.tenant_answers(&[0, 3, 20]);
        done.store(true, Ordering::Relaxed);
    });
    let begun = Instant::now();
    while all.tenant_answers(&[0, 3]).code != Some(0) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", all.log());
    }
    tenant_is_restored(&all);
}

/// A FUSE file system whose server never answers.
struct Hanging {
    at: PathBuf,
    server: Option<File>,
}

impl Hanging {
    fn mount(at: &Path) -> std::io::Result<Hanging> {
        fs::create_dir(at)?;
        let server = File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/fuse")?;
        let data = format!("fd={},rootmode=40000,user_id=65534,group_id=65534,allow_other", server.as_raw_fd());
        let (data, target) = (CString::new(data)?, CString::new(at.as_os_str().as_bytes())?);
        // SAFETY: four texts that end with a zero and live through the call.
        let done = unsafe { libc::mount(c"hang".as_ptr(), target.as_ptr(), c"fuse".as_ptr(), 0, data.as_ptr().cast()) };
        if done == 0 {
            Ok(Hanging { at: at.to_owned(), server: Some(server) })
        } else {
            Err(std::io::Error::last_os_error())
        }
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // Without its server every waiting call ends with an error.
        drop(self.server.take());
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Mounted before the start and while it runs: every access to such a mount waits forever.
#[test]
fn a_mount_that_never_answers_is_not_asked() {
    let name = "a_mount_that_never_answers_is_not_asked";
    let mut hanging = Vec::new();
    let mount = |at: &Path, hanging: &mut Vec<Hanging>| match Hanging::mount(at) {
        Ok(mounted) => hanging.push(mounted),
        Err(error) => skip(name, "fuse", &format!("FUSE cannot be mounted: {error}")),
    };
    let Some(mut all) = Tenants::new_or_skip(name, |tenant| mount(&tenant.join("before"), &mut hanging)) else {
        return;
    };
    if hanging.is_empty() {
        return;
    }
    all.other_is_well();
    mount(&all.tenant.join("while"), &mut hanging);
    fs::write(all.tenant.join("after"), "beside it").unwrap();
    all.other_is_well();
    // It is reported, and makes the volume degraded; but nothing waits for it.
    let answer = all.tenant_answers(&[0, 20]);
    assert!(!answer.stdout.contains("open:"), "{answer:?}");
    let status = all.status("tenant");
    assert!(status["reasons"].to_string().contains("before"), "{status:#}");
    all.other_is_well();
    drop(hanging);
    drop(all);
}

/// Names of a tenant must not affect a terminal or a log.
#[test]
fn names_of_a_tenant_reach_no_terminal_as_they_are() {
    let name = "names_of_a_tenant_reach_no_terminal_as_they_are";
    let evil = "x\n2026-11-30 ERROR forged: all is lost\r\x1b[2J\x1b]0;owned\x07\u{9b}31m\u{202e}end";
    let mut below = None;
    let Some(mut all) = Tenants::new_or_skip(name, |tenant| {
        // Names that appear in reasons, logs and errors: a mount inside, a file that cannot be read now.
        let dir = tenant.join(evil);
        fs::create_dir(&dir).unwrap();
        rustix::mount::mount("t", &dir, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        below = Some(dir);
    }) else {
        return;
    };
    // SAFETY: a signal disposition of this process alone: the kernel tells the holder of a lease by SIGIO.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let at = all.tenant.join(format!("leased{evil}"));
    let leased = as_nobody(|| File::create(at).unwrap());
    // SAFETY: a lease on a descriptor of our own; no memory is handed over.
    let done = unsafe { libc::fcntl(leased.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    all.other_is_well();
    let synced = all.tenant_answers(&[3, 20]);
    let reference = all.folder.path().join("store/tenant");
    let reference = reference.to_str().unwrap();
    let status = all.tracker(&["status"]);
    let cat = all.tracker(&["cat", reference, evil]);
    let list = all.tracker(&["ls", reference]);
    let doctor = all.tracker(&["doctor", all.tenant.to_str().unwrap()]);
    let said = [&synced, &status, &cat, &list, &doctor].map(|answer| format!("{}{}", answer.stdout, answer.stderr));
    for text in said.iter().chain([&all.log()]) {
        let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(obeyed), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("2026-11-30 ERROR forged")), "{text:?}");
    }
    assert!(synced.stdout.contains("leased") && status.stdout.contains("forged"), "{synced:?} {status:?}");
    drop(leased);
    rustix::mount::unmount(below.unwrap(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

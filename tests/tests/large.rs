//! Many files, and many in one directory: the cost of a restart or of one change must not depend on the number of files.
//! Smaller than `cargo xtask bench scale`, which measures.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::daemon::Volume;
use tests::mounts::{Kind, Mount, programs_or_skip};

const DIRECTORIES: u32 = 200;
const PER_DIRECTORY: u32 = 100;
const ONE_DIRECTORY: u32 = 30_000;
/// Generous: a debug build on a busy machine.
const LONG: Duration = Duration::from_secs(300);
/// Limit for calls that look up a name during a start that walks nothing: its own files, the source, the mounts. A walk
/// makes 50,000.
const LOOKS: usize = 1000;

/// A path in the source, and what is done to it.
type Change = (&'static str, fn(&Path));

fn make(source: &Path) {
    for directory in 0..DIRECTORIES {
        let path = source.join(format!("d{directory}"));
        fs::create_dir(&path).unwrap();
        for file in 0..PER_DIRECTORY {
            fs::write(path.join(format!("f{file}")), format!("{directory} {file}")).unwrap();
        }
    }
    fs::create_dir(source.join("one")).unwrap();
    for file in 0..ONE_DIRECTORY {
        File::create(source.join(format!("one/f{file}"))).unwrap();
    }
}

#[test]
fn a_restart_walks_nothing_and_one_change_reads_one_file() {
    let name = "a_restart_walks_nothing_and_one_change_reads_one_file";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    if !programs_or_skip(name, "strace", &["strace"]) {
        return;
    }
    let source = mount.dir("source");
    make(&source);
    let mut volume = Volume::new(&source);
    volume.keep_tracking();
    let mut daemon = volume.start();
    daemon.wait_ready(LONG);
    assert!(daemon.stop().success());

    let trace = volume.scratch("trace");
    let strace = ["strace", "-f", "-qq", "-e", "trace=statx,newfstatat,getdents64,openat,openat2", "-o"];
    volume.wrapper = strace.iter().map(|&word| word.to_owned()).chain([trace.display().to_string()]).collect();
    let mut daemon = volume.start();
    daemon.wait_ready(LONG);
    volume.sync(LONG).expect(0);
    let text = fs::read_to_string(&trace).unwrap();
    assert!(text.contains("openat"), "strace saw nothing");
    // Each drain looks at the pins, and a traced start makes an unknown number of drains.
    let looks = text.lines().filter(|line| !line.contains("/sys/fs/bpf/")).count();
    assert!(looks < LOOKS, "{looks} calls that look at names");
    // strace ends with the traced process, not the other way round.
    let strace = daemon.pid();
    let traced = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap();
    let traced = Pid::from_raw(traced.trim().parse().unwrap()).unwrap();
    kill_process(traced, Signal::TERM).unwrap();
    assert!(daemon.wait_end(LONG).expect("its end").success());
    drop(daemon);
    volume.wrapper.clear();

    let mut daemon = volume.start();
    daemon.wait_ready(LONG);
    let mut before = volume.status();
    let changes: [Change; 4] = [
        ("d7/f7", |path| File::options().append(true).open(path).unwrap().write_all(b"more").unwrap()),
        ("one/new", |path| fs::write(path, "new").unwrap()),
        ("one/f29999", |path| fs::rename(path, path.with_file_name("renamed")).unwrap()),
        ("one/f15000", |path| fs::remove_file(path).unwrap()),
    ];
    for (path, change) in changes {
        change(&source.join(path));
        volume.sync(LONG).expect(0);
        let after = volume.status();
        let grown = |name: &str| after[name].as_u64().unwrap() - before[name].as_u64().unwrap();
        assert!(grown("commits") >= 1, "{path}: {after:#}");
        assert!(grown("files_read") <= 1 && grown("bytes_read") < 10_000, "{path}: from {before:#} to {after:#}");
        before = after;
    }
    assert!(daemon.stop().success());
    volume.restored("copy");
}

/// Block numbers in a bitmap have 32 bits, which is 16 TiB: everything beyond is marked in another way.
#[test]
fn a_byte_behind_16_tib_is_committed() {
    const TIB: u64 = 1 << 40;
    let Some(mount) = Mount::new_or_skip("a_byte_behind_16_tib_is_committed", Kind::Xfs) else { return };
    let source = mount.dir("source");
    let file = File::options().create(true).truncate(false).read(true).write(true).open(source.join("file")).unwrap();
    file.set_len(20 * TIB).unwrap();
    file.write_all_at(b"before", 15 * TIB).unwrap();
    let volume = Volume::new(&source);
    let _daemon = volume.start_ready();
    let places = [(16 * TIB - 3, b"across"), (17 * TIB + 777, b"behind"), (20 * TIB - 6, b"theend")];
    for (at, bytes) in places {
        file.write_all_at(bytes, at).unwrap();
        volume.sync(LONG).expect(0);
    }
    // No other file system here can hold it.
    let copy = source.with_file_name("copy");
    volume.restore(&copy).expect(0);
    let copy = File::open(copy.join("file")).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), 20 * TIB);
    for (at, expected) in places.into_iter().chain([(15 * TIB, b"before")]) {
        let mut found = [0; 6];
        copy.read_exact_at(&mut found, at).unwrap();
        assert_eq!(&found, expected, "at {at}");
    }
    // Reading all of it would take too long: everything that is not a hole must be among those blocks.
    let (mut at, mut data) = (0, 0);
    while let Ok(start) = rustix::fs::seek(&copy, rustix::fs::SeekFrom::Data(at)) {
        at = rustix::fs::seek(&copy, rustix::fs::SeekFrom::Hole(start)).unwrap();
        data += at - start;
    }
    assert!(data <= 16 * 65_536, "{data} bytes of data");
}

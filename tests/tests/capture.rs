//! Which changes are marked: every way to write, on every file system, through the programs in the running kernel.

use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};

use rustix::fs::{FallocateFlags, XattrFlags, fallocate, ioctl_ficlone, setxattr};
use tests::capture_mounts::{ALL, Kind};
use tests::capture_rig::{Rig, back_end, config};
use tests::raw_io::{Mapping, Pages, SlowSource, aio_write, uring_truncate, uring_write};
use tracker::capture::{BackEnd, flags};
use tracker::source::SourceRoot;
use tracker::volume::canary::{Proof, RENAME, prove};

const MIB: u64 = 1 << 20;
const OFF: u64 = 40_960;
const LEN: usize = 5000;
const END: u64 = OFF + LEN as u64;

/// What must be marked after an operation on file `f` in directory `d`.
#[derive(Clone, Copy, Debug)]
enum Expect {
    Range(u64, u64),
    Meta,
    Names,
}
use Expect::{Meta, Names, Range};

struct Op {
    name: &'static str,
    on: &'static [Kind],
    expect: Expect,
    run: fn(&Rig) -> std::io::Result<()>,
}

const BLOCKS: &[Kind] = &[Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Overlay];
const SHIFTING: &[Kind] = &[Kind::Ext4, Kind::Xfs, Kind::Overlay];
const CLONING: &[Kind] = &[Kind::Xfs, Kind::Btrfs];

fn open(rig: &Rig) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(rig.path("d/f"))
}

fn direct(rig: &Rig) -> std::io::Result<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(rig.path("d/f"))
}

fn allocate(rig: &Rig, flags: FallocateFlags, start: u64, len: u64) -> std::io::Result<()> {
    Ok(fallocate(open(rig)?, flags, start, len)?)
}

const OPS: &[Op] = &[
    Op { name: "pwrite", on: &ALL, expect: Range(OFF, END), run: |rig| open(rig)?.write_all_at(&[1; LEN], OFF) },
    Op {
        name: "write",
        on: &ALL,
        expect: Range(OFF, END),
        run: |rig| {
            let mut file = open(rig)?;
            file.seek(SeekFrom::Start(OFF))?;
            file.write_all(&[2; LEN])
        },
    },
    Op {
        name: "writev",
        on: &ALL,
        expect: Range(OFF, END),
        run: |rig| {
            let mut file = open(rig)?;
            file.seek(SeekFrom::Start(OFF))?;
            let half = [3; LEN / 2];
            assert_eq!(file.write_vectored(&[IoSlice::new(&half), IoSlice::new(&half)])?, LEN);
            Ok(())
        },
    },
    Op {
        name: "append",
        on: &ALL,
        expect: Range(MIB, MIB + LEN as u64),
        run: |rig| OpenOptions::new().append(true).open(rig.path("d/f"))?.write_all(&[4; LEN]),
    },
    Op {
        name: "direct write",
        on: BLOCKS,
        expect: Range(OFF, OFF + 8192),
        run: |rig| direct(rig)?.write_all_at(&Pages([5; 8192]).0, OFF),
    },
    Op {
        name: "direct write beyond the end",
        on: BLOCKS,
        expect: Range(MIB + 8192, MIB + 16384),
        run: |rig| direct(rig)?.write_all_at(&Pages([5; 8192]).0, MIB + 8192),
    },
    Op { name: "aio", on: &ALL, expect: Range(OFF, END), run: |rig| aio_write(&open(rig)?, &[6; LEN], OFF) },
    Op {
        name: "aio direct",
        on: BLOCKS,
        expect: Range(OFF, OFF + 8192),
        run: |rig| aio_write(&direct(rig)?, &Pages([7; 8192]).0, OFF),
    },
    Op {
        name: "io_uring",
        on: &ALL,
        expect: Range(OFF, END),
        run: |rig| uring_write(&open(rig)?, &[8; LEN], OFF, false),
    },
    Op {
        name: "io_uring worker",
        on: &ALL,
        expect: Range(OFF, END),
        run: |rig| uring_write(&open(rig)?, &[8; LEN], OFF, true),
    },
    Op {
        name: "io_uring direct",
        on: BLOCKS,
        expect: Range(OFF, OFF + 8192),
        run: |rig| uring_write(&direct(rig)?, &Pages([9; 8192]).0, OFF, true),
    },
    Op {
        name: "mapped store",
        on: &ALL,
        expect: Range(OFF, OFF + 1),
        run: |rig| {
            Mapping::new(&open(rig)?, MIB as usize)?.store(OFF as usize, 1);
            Ok(())
        },
    },
    Op { name: "truncate down", on: &ALL, expect: Range(300_001, MIB), run: |rig| open(rig)?.set_len(300_001) },
    Op {
        name: "truncate down and up",
        on: &ALL,
        expect: Range(300_001, MIB),
        run: |rig| {
            open(rig)?.set_len(300_001)?;
            open(rig)?.set_len(MIB)
        },
    },
    Op { name: "truncate up", on: &ALL, expect: Meta, run: |rig| open(rig)?.set_len(MIB + 100_000) },
    Op {
        name: "open with truncation",
        on: &ALL,
        expect: Range(0, MIB),
        run: |rig| File::create(rig.path("d/f")).map(drop),
    },
    Op {
        name: "write, then truncate through io_uring",
        on: &ALL,
        expect: Range(300_001, MIB),
        run: |rig| {
            let file = open(rig)?;
            file.write_all_at(&[1; LEN], OFF)?;
            match uring_truncate(&file, 300_001) {
                // A kernel without that operation: the plain call does as well.
                Err(error) if error.to_string().contains("-22") => file.set_len(300_001),
                other => other,
            }
        },
    },
    Op {
        name: "punch",
        on: &ALL,
        expect: Range(65_536, 131_072),
        run: |rig| allocate(rig, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 65_536, 65_536),
    },
    Op {
        name: "unaligned punch",
        on: &ALL,
        expect: Range(65_636, 85_636),
        run: |rig| allocate(rig, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 65_636, 20_000),
    },
    Op {
        name: "zero range",
        on: BLOCKS,
        expect: Range(65_536, 131_072),
        run: |rig| allocate(rig, FallocateFlags::ZERO_RANGE, 65_536, 65_536),
    },
    Op {
        name: "collapse range",
        on: SHIFTING,
        expect: Range(65_536, MIB),
        run: |rig| allocate(rig, FallocateFlags::COLLAPSE_RANGE, 65_536, 65_536),
    },
    Op {
        name: "insert range",
        on: SHIFTING,
        expect: Range(65_536, MIB + 65_536),
        run: |rig| allocate(rig, FallocateFlags::INSERT_RANGE, 65_536, 65_536),
    },
    Op { name: "fallocate", on: &ALL, expect: Meta, run: |rig| allocate(rig, FallocateFlags::empty(), MIB, 65_536) },
    Op {
        name: "clone",
        on: CLONING,
        expect: Range(0, MIB),
        run: |rig| Ok(ioctl_ficlone(open(rig)?, File::open(rig.path("source"))?)?),
    },
    Op { name: "rename", on: &ALL, expect: Names, run: |rig| fs::rename(rig.path("d/f"), rig.path("d/g")) },
    Op { name: "link", on: &ALL, expect: Names, run: |rig| fs::hard_link(rig.path("d/f"), rig.path("d/h")) },
    Op { name: "create", on: &ALL, expect: Names, run: |rig| File::create(rig.path("d/new")).map(drop) },
    Op { name: "mkdir", on: &ALL, expect: Names, run: |rig| fs::create_dir(rig.path("d/sub")) },
    Op { name: "unlink", on: &ALL, expect: Names, run: |rig| fs::remove_file(rig.path("d/f")) },
    Op {
        name: "chmod",
        on: &ALL,
        expect: Meta,
        run: |rig| fs::set_permissions(rig.path("d/f"), fs::Permissions::from_mode(0o600)),
    },
    Op {
        name: "setxattr",
        on: BLOCKS,
        expect: Meta,
        run: |rig| {
            let name = if rig.mount.kind == Kind::Overlay { "trusted.a" } else { "user.a" };
            Ok(setxattr(rig.path("d/f"), name, b"b", XattrFlags::empty())?)
        },
    },
];

fn prepare(rig: &mut Rig) {
    let _ = fs::remove_dir_all(rig.path("d"));
    fs::create_dir(rig.path("d")).unwrap();
    fs::write(rig.path("d/f"), vec![b'x'; MIB as usize]).unwrap();
    fs::write(rig.path("source"), vec![b's'; MIB as usize]).unwrap();
    rig.settle(&["d", "d/f"]);
}

fn all_operations(case: &str, kind: Kind) {
    let Some(mut rig) = Rig::new(case, kind) else { return };
    let mut failed = Vec::new();
    for op in OPS.iter().filter(|op| op.on.contains(&kind)) {
        prepare(&mut rig);
        let (file, directory) = (rig.ino("d/f"), rig.ino("d"));
        if let Err(error) = (op.run)(&rig) {
            failed.push(format!("{}: {error}", op.name));
            continue;
        }
        let retired = rig.drain();
        let marks = rig.marks(&retired, file);
        let good = match op.expect {
            Range(start, end) => marks.covers(start, end),
            Meta => marks.flags & flags::META != 0,
            Names => rig.marks(&retired, directory).flags & flags::NAMES != 0,
        };
        if !good {
            failed.push(format!("{}: expected {:?}, got {:?}", op.name, op.expect, retired.inodes));
        }
    }
    let problems = rig.capture().health().unwrap().problems;
    assert!(failed.is_empty(), "{kind:?}:\n{}", failed.join("\n"));
    assert!(problems.is_empty(), "{problems:?}");
}

/// The self-test passes on every file system, and names the kind of change whose hook is left out.
#[test]
fn the_self_test_passes_and_finds_a_missing_hook() {
    let case = "the_self_test_passes_and_finds_a_missing_hook";
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Tmpfs, Kind::Overlay] {
        let Some(mut rig) = Rig::new(case, kind) else { continue };
        let root = SourceRoot::open(rig.mount.root()).unwrap();
        match prove(rig.capture(), &root, None).unwrap() {
            Proof::Passed { kinds, untried } => {
                assert!(kinds.len() >= 4 && kinds.contains(&RENAME), "{kind:?} {kinds:?}");
                assert!(untried.is_empty(), "{kind:?} {untried:?}");
            }
            other => panic!("{kind:?}: {other:?}"),
        }
    }
    for (program, missed) in [("dirty_folio", "a write"), ("dio_complete", "a direct write")] {
        if back_end() != BackEnd::Tracepoint {
            println!("SKIP {case}: without {program}: other hooks see it with this back end");
            continue;
        }
        let mut config = config();
        config.without = if program == "dio_complete" { vec!["dio_begin", "dio_complete"] } else { vec![program] };
        let Some(mut rig) = Rig::with(case, Kind::Ext4, &config) else { continue };
        let root = SourceRoot::open(rig.mount.root()).unwrap();
        assert_eq!(prove(rig.capture(), &root, None).unwrap(), Proof::Failed { kind: missed });
    }
}

#[test]
fn every_operation_on_ext4() {
    all_operations("every_operation_on_ext4", Kind::Ext4);
}

#[test]
fn every_operation_on_xfs() {
    all_operations("every_operation_on_xfs", Kind::Xfs);
}

#[test]
fn every_operation_on_btrfs() {
    all_operations("every_operation_on_btrfs", Kind::Btrfs);
}

#[test]
fn every_operation_through_an_overlay() {
    all_operations("every_operation_through_an_overlay", Kind::Overlay);
}

#[test]
fn every_operation_on_tmpfs() {
    all_operations("every_operation_on_tmpfs", Kind::Tmpfs);
}

/// The proof that offsets, device and inode number are right: one block written, one key marked, with one bit.
#[test]
fn one_written_block_is_exactly_one_mark() {
    let Some(mut rig) = Rig::new("one_written_block_is_exactly_one_mark", Kind::Btrfs) else { return };
    prepare(&mut rig);
    fs::write(rig.path("other"), [1; 4096]).unwrap();
    open(&rig).unwrap().write_all_at(&[1; 4096], 7 * 4096).unwrap();
    let retired = rig.drain();
    let file = rig.ino("d/f");
    assert_eq!(retired.inodes.keys().copied().collect::<Vec<_>>(), [(rig.dev, file)]);
    let marks = rig.marks(&retired, file);
    assert_eq!(marks.blocks.iter().collect::<Vec<_>>(), [7]);
    assert_eq!(marks.flags, flags::META);
    assert!(rig.drain().inodes.is_empty(), "cleared marks came back");
}

#[test]
fn only_watched_inodes_are_marked_unless_all_are_wanted() {
    let case = "only_watched_inodes_are_marked_unless_all_are_wanted";
    let Some(mut rig) = Rig::new(case, Kind::Ext4) else { return };
    prepare(&mut rig);
    fs::write(rig.path("stranger"), [1; 9000]).unwrap();
    let stranger = rig.ino("stranger");
    assert!(!rig.drain().inodes.contains_key(&(rig.dev, stranger)));
    let dev = rig.dev;
    rig.capture().track(dev, true).unwrap();
    fs::write(rig.path("stranger"), [2; 9000]).unwrap();
    let retired = rig.drain();
    assert!(rig.marks(&retired, stranger).covers(0, 9000));
    rig.capture().untrack(dev).unwrap();
    fs::write(rig.path("stranger"), [3; 9000]).unwrap();
    assert!(rig.drain().inodes.is_empty());
}

/// Write-back between swap and read makes a mapped page fault again, so that a second store is seen.
#[test]
fn a_second_mapped_store_is_marked_after_write_back() {
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Overlay] {
        let Some(mut rig) = Rig::new("a_second_mapped_store_is_marked_after_write_back", kind) else { continue };
        prepare(&mut rig);
        let file = open(&rig).unwrap();
        let mapping = Mapping::new(&file, MIB as usize).unwrap();
        for round in 0..3 {
            mapping.store(OFF as usize, round);
            let retired = rig.drain();
            assert!(rig.marks(&retired, rig.ino("d/f")).covers(OFF, OFF + 1), "{kind:?} round {round}");
            file.sync_data().unwrap();
        }
    }
}

/// A tick of the truncation must not hide behind one of the write in the same generation.
#[test]
fn btrfs_truncation_after_a_write_widens() {
    let Some(mut rig) = Rig::new("btrfs_truncation_after_a_write_widens", Kind::Btrfs) else { return };
    prepare(&mut rig);
    let file = open(&rig).unwrap();
    file.write_all_at(&[1; 10], 0).unwrap();
    let retired = rig.drain();
    assert_eq!(rig.marks(&retired, rig.ino("d/f")).flags & flags::WHOLE, 0, "a plain write must not widen");
    file.write_all_at(&[2; 10], 0).unwrap();
    file.set_len(500_000).unwrap();
    let retired = rig.drain();
    let marks = rig.marks(&retired, rig.ino("d/f"));
    assert_ne!(marks.flags & (flags::WHOLE | flags::FROM), 0);
    assert!(marks.covers(500_000, 1 << 20), "{marks:?}");
}

/// A direct write that a drain overtakes half way must be in that drain's list of writes under way, and in a later drain.
#[test]
fn a_direct_write_under_way_stays_dirty_until_it_is_complete() {
    let case = "a_direct_write_under_way_stays_dirty_until_it_is_complete";
    for kind in [Kind::Ext4, Kind::Xfs] {
        let Some(mut rig) = Rig::new(case, kind) else { continue };
        prepare(&mut rig);
        let source = match SlowSource::new(b'n') {
            Ok(source) => source,
            Err(error) => {
                println!("SKIP {case}: userfaultfd: {error}");
                return;
            }
        };
        let file = direct(&rig).unwrap();
        let ino = rig.ino("d/f");
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| file.write_at(source.bytes(), OFF));
            source.wait().unwrap();
            for _ in 0..2 {
                let retired = rig.drain();
                let way: Vec<_> = retired.inflight.iter().map(|write| (write.ino, write.start, write.len)).collect();
                assert_eq!(way, [(ino, OFF, 8192)], "{kind:?}");
            }
            source.fill(b'n').unwrap();
            assert_eq!(writer.join().unwrap().unwrap(), 8192);
        });
        let retired = rig.drain();
        assert!(rig.marks(&retired, ino).covers(OFF, OFF + 8192), "{kind:?}: not marked at completion");
        assert!(retired.inflight.is_empty());
    }
}

//! How the programs in the running kernel mark changes, and the order of steps that makes marks reliable. The matrix
//! (`matrix.rs`) tests which ways to change a file are seen at all.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use common::hooks::{HOOKS, Role};
use tests::capture_mounts::Kind;
use tests::capture_rig::{Rig, back_end, config};
use tests::raw_io::{Mapping, SlowSource, torn_write};
use tracker::capture::{BackEnd, flags};
use tracker::source::SourceRoot;
use tracker::volume::selftest::changes::{RENAME, SelfTestOutcome, prove};

const MIB: u64 = 1 << 20;
const OFF: u64 = 40_960;

fn open(rig: &Rig) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(rig.path("d/f"))
}

fn direct(rig: &Rig) -> std::io::Result<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(rig.path("d/f"))
}

fn prepare(rig: &mut Rig) {
    let _ = fs::remove_dir_all(rig.path("d"));
    fs::create_dir(rig.path("d")).unwrap();
    fs::write(rig.path("d/f"), vec![b'x'; MIB as usize]).unwrap();
    fs::write(rig.path("source"), vec![b's'; MIB as usize]).unwrap();
    rig.settle(&["d", "d/f"]);
}

/// The self-test passes on every file system, and names the kind of change whose hook is left out.
#[test]
fn the_self_test_passes_and_finds_a_missing_hook() {
    let case = "the_self_test_passes_and_finds_a_missing_hook";
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Tmpfs, Kind::Overlay] {
        let Some(mut rig) = Rig::new(case, kind) else { continue };
        let root = SourceRoot::open(rig.mount.root()).unwrap();
        match prove(rig.capture(), &root, None).unwrap() {
            SelfTestOutcome::Passed { kinds, untried } => {
                assert!(kinds.len() >= 4 && kinds.contains(&RENAME), "{kind:?} {kinds:?}");
                assert!(untried.is_empty(), "{kind:?} {untried:?}");
            }
            other => panic!("{kind:?}: {other:?}"),
        }
    }
    for (programs, missed) in [
        (vec!["dirty_folio"], "a write"),
        (vec!["dio_begin", "dio_complete"], "a direct write"),
        (vec!["ext4_punch", "ext4_remap"], "a punched hole"),
        (vec!["ctime_set", "ctime_xchg", "ctime_skip"], "a change of mode"),
    ] {
        if back_end() != BackEnd::Tracepoint {
            println!("SKIP {case}: without {programs:?}: other hooks see it with this back end");
            continue;
        }
        let mut config = config();
        config.without = programs;
        let Some(mut rig) = Rig::with(case, Kind::Ext4, &config) else { continue };
        let root = SourceRoot::open(rig.mount.root()).unwrap();
        assert_eq!(prove(rig.capture(), &root, None).unwrap(), SelfTestOutcome::Failed { kind: missed });
    }
}

/// Proves that offsets, device and inode number are right: one block written, one key marked, with one bit.
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

/// What was submitted counts, not what succeeded: the first page may be on disk, whatever the call returns.
#[test]
fn a_direct_write_that_fails_part_of_the_way_is_marked() {
    let case = "a_direct_write_that_fails_part_of_the_way_is_marked";
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        let Some(mut rig) = Rig::new(case, kind) else { continue };
        prepare(&mut rig);
        let answer = torn_write(&direct(&rig).unwrap(), b'n', OFF);
        let (file, ino) = (fs::read(rig.path("d/f")).unwrap(), rig.ino("d/f"));
        let changed = file.chunks(4096).filter(|block| block.contains(&b'n')).count();
        println!("{kind:?}: {answer:?}, {changed} blocks changed");
        let retired = rig.drain();
        match answer {
            Ok(bytes) => assert!(bytes < 8192 && changed == 1, "{kind:?}"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EFAULT), "{kind:?}"),
        }
        assert!(rig.marks(&retired, ino).covers(OFF, OFF + 4096), "{kind:?}");
    }
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

/// The same of plain writes, to a file that nobody maps: into a page that stays dirty they leave no mark of a block. That is why a
/// flush writes such a file back too.
#[test]
fn a_second_write_is_marked_only_after_write_back() {
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        let mut config = config();
        // These tell of each write to a large folio.
        config.without = HOOKS.iter().filter(|hook| hook.role == Role::Write).map(|hook| hook.program).collect();
        let case = "a_second_write_is_marked_only_after_write_back";
        let Some(mut rig) = Rig::with(case, kind, &config) else { continue };
        prepare(&mut rig);
        let file = open(&rig).unwrap();
        let ino = rig.ino("d/f");
        let mut write = |byte| {
            file.write_all_at(&[byte; 10], OFF).unwrap();
            let retired = rig.drain();
            rig.marks(&retired, ino).covers(OFF, OFF + 1)
        };
        assert!(write(1), "{kind:?}: the page was clean");
        assert!(!write(2), "{kind:?}: the page was dirty");
        file.sync_data().unwrap();
        assert!(write(3), "{kind:?}: the page was clean again");
    }
}

/// A tick of the truncation must not be hidden by one of the write in the same generation.
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

/// If a drain happens in the middle of a direct write, the write must be in that drain's list of in-flight writes, and in a
/// later drain.
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

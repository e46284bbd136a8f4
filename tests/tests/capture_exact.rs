//! Writes that are marked by what they write, in folios that are larger; and stores through mappings, which must not hide in these.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::hooks::{Fs, HOOKS, Role};
use common::limits::SLOT_OF_ALL;
use common::maps::{flag, watched};
use engine::source::Exactly;
use rustix::fs::{FallocateFlags, fallocate};
use tests::capture_mounts::{Kind, Mount};
use tests::capture_rig::{Rig, back_end, config};
use tests::load::Random;
use tests::race_bed::{Bed, SIZE};
use tests::raw_io::Mapping;
use tracker::capture::{BackEnd, InodeMarks};
use tracker::source::{CleanBy, SourceRoot};

const BLOCK: u64 = 4096;
/// File systems whose writes can be marked exactly.
const EXACT: [Kind; 2] = [Kind::Ext4, Kind::Xfs];

/// A file of 1 MiB in as large folios as the kernel makes, clean and without marks.
fn file(rig: &mut Rig) -> File {
    std::fs::write(rig.path("f"), vec![1; SIZE as usize]).unwrap();
    rig.settle(&["f"]);
    File::options().read(true).write(true).open(rig.path("f")).unwrap()
}

fn ask(rig: &Rig, file: &File) -> Exactly {
    rig.how_marked()(file.as_fd(), false)
}

/// Asks also that writes be marked exactly from now on.
fn begin(rig: &Rig, file: &File) -> Exactly {
    rig.how_marked()(file.as_fd(), true)
}

/// A file of 1 MiB in folios of one block, of which each is dirty, without marks.
fn hot(rig: &mut Rig) -> File {
    let file = File::options().create_new(true).read(true).write(true).open(rig.path("f")).unwrap();
    (0..SIZE / BLOCK).for_each(|block| file.write_all_at(&[1; BLOCK as usize], block * BLOCK).unwrap());
    rig.settle(&["f"]);
    (0..SIZE / BLOCK).for_each(|block| file.write_all_at(&[2; BLOCK as usize], block * BLOCK).unwrap());
    assert_eq!(blocks(&marks(rig)), (0..(SIZE / BLOCK) as u32).collect::<Vec<_>>());
    file
}

#[test]
fn a_hot_file_has_its_writes_marked_when_it_is_asked_for() {
    for kind in EXACT {
        let Some(mut rig) = Rig::new("a_hot_file_has_its_writes_marked_when_it_is_asked_for", kind) else { continue };
        let file = hot(&mut rig);
        file.write_all_at(&[3; 100], 5 * BLOCK).unwrap();
        assert!(blocks(&marks(&mut rig)).is_empty(), "{kind:?}: the page was dirty, which is why it is written back");
        assert_eq!(ask(&rig, &file), Exactly::No);
        assert_eq!(begin(&rig, &file), Exactly::FromNow, "{kind:?}: once it must be written back");
        assert_eq!(begin(&rig, &file), Exactly::Already);
        for block in [5, 5, 7] {
            file.write_all_at(&[4; 100], u64::from(block) * BLOCK).unwrap();
            assert_eq!(blocks(&marks(&mut rig)), [block], "{kind:?}: the page is dirty");
        }
        let mapping = Mapping::new(&file, SIZE as usize).unwrap();
        assert!(marks(&mut rig).flags & flag::WHOLE != 0, "{kind:?}");
        drop(mapping);
        assert_eq!(begin(&rig, &file), Exactly::No, "{kind:?}: it was mapped");
    }
}

/// Such a write passes another hook, and its folio becomes dirty later. In a dirty page the next one is no event of the page.
#[test]
fn a_journalled_write_ends_exact_marks_until_the_file_is_written_back() {
    let case = "a_journalled_write_ends_exact_marks_until_the_file_is_written_back";
    for by_default in [false, true] {
        let Some(mut rig) = Rig::on_or_skip(case, Mount::ext4_journalled(by_default)) else { return };
        let file = file(&mut rig);
        let root = SourceRoot::open(rig.mount.root()).unwrap();
        let inode = root.stat(Path::new("f")).unwrap().stat.inode;
        assert_eq!(root.open_file(Path::new("f"), inode).unwrap().clean_by(), CleanBy::DataSync);
        assert_eq!(begin(&rig, &file), Exactly::FromNow);
        for round in 0..3 {
            file.write_all_at(&[round; 100], 5 * BLOCK).unwrap();
            assert_eq!(begin(&rig, &file), Exactly::FromNow, "round {round}");
            assert!(marks(&mut rig).covers(5 * BLOCK, 6 * BLOCK), "round {round}");
        }
    }
}

/// The task's own write of these bytes is known, and explains nothing of what else it does to them.
#[test]
fn what_a_task_does_after_its_write_is_not_taken_for_that_write() {
    let case = "what_a_task_does_after_its_write_is_not_taken_for_that_write";
    let Some(mut rig) = Rig::new(case, Kind::Ext4) else { return };
    let file = hot(&mut rig);
    assert_eq!(begin(&rig, &file), Exactly::FromNow);
    file.write_all_at(&[3; 100], 5 * BLOCK).unwrap();
    file.sync_all().unwrap();
    marks(&mut rig);
    assert_eq!(ask(&rig, &file), Exactly::Already);
    fallocate(&file, FallocateFlags::ZERO_RANGE, 5 * BLOCK + 10, 20).unwrap();
    assert!(marks(&mut rig).covers(5 * BLOCK, 6 * BLOCK));
    assert_eq!(ask(&rig, &file), Exactly::FromNow, "why the page became dirty is not known");
}

#[test]
fn a_file_is_not_marked_exactly_where_not_every_write_is_told_of() {
    for kind in [Kind::Btrfs, Kind::Overlay, Kind::Tmpfs] {
        let case = "a_file_is_not_marked_exactly_where_not_every_write_is_told_of";
        let Some(mut rig) = Rig::new(case, kind) else { continue };
        std::fs::write(rig.path("f"), [1; 4096]).unwrap();
        rig.settle(&["f"]);
        let file = File::options().read(true).write(true).open(rig.path("f")).unwrap();
        assert_eq!(begin(&rig, &file), Exactly::No, "{kind:?}");
    }
}

/// Has writes marked exactly, by one into block 5. False, with a message, where the kernel makes no large folios.
fn is_begun(test: &str, kind: Kind, rig: &mut Rig, file: &File) -> bool {
    assert_eq!(ask(rig, file), Exactly::No);
    file.write_all_at(&[2; 100], 5 * BLOCK).unwrap();
    let found = blocks(&marks(rig));
    assert!(found.contains(&5), "{found:?}");
    if found.len() == 1 {
        println!("SKIP {test}/{}: this kernel makes no large folios there", kind.name());
        return false;
    }
    println!("{} blocks are marked for one, by the folio", found.len());
    assert_eq!(ask(rig, file), Exactly::Already);
    true
}

fn marks(rig: &mut Rig) -> InodeMarks {
    let retired = rig.drain();
    let ino = rig.ino("f");
    rig.marks(&retired, ino)
}

fn blocks(marks: &InodeMarks) -> Vec<u32> {
    assert_eq!(marks.flags & (flag::WHOLE_CONTENT | flag::FROM | flag::RANGE), 0, "{marks:?}");
    marks.blocks.iter().collect()
}

#[test]
fn a_write_marks_what_it_writes_also_into_a_dirty_folio() {
    for kind in EXACT {
        let Some(mut rig) = Rig::new("a_write_marks_what_it_writes_also_into_a_dirty_folio", kind) else { continue };
        let file = file(&mut rig);
        if !is_begun("a_write_marks_what_it_writes_also_into_a_dirty_folio", kind, &mut rig, &file) {
            continue;
        }
        file.write_all_at(&[3; 100], 7 * BLOCK).unwrap();
        assert_eq!(blocks(&marks(&mut rig)), [7], "{kind:?}: the folio is dirty");
        file.sync_all().unwrap();
        file.write_all_at(&[4; 100], 9 * BLOCK - 50).unwrap();
        assert_eq!(blocks(&marks(&mut rig)), [8, 9], "{kind:?}: the folio was clean");
        file.write_all_at(&[5; 3 * BLOCK as usize], 20 * BLOCK).unwrap();
        file.write_all_at(&[5; 1], SIZE - 1).unwrap();
        assert_eq!(blocks(&marks(&mut rig)), [20, 21, 22, 255], "{kind:?}");
    }
}

/// The store sets no mark of its own: its folio is dirty already.
#[test]
fn a_mapping_that_is_made_marks_the_file_whole_and_its_folios_from_then_on() {
    for kind in EXACT {
        let Some(mut rig) = Rig::new("a_mapping_that_is_made_marks_the_file_whole_and_its_folios_from_then_on", kind)
        else {
            continue;
        };
        let file = file(&mut rig);
        if !is_begun("a_mapping_that_is_made_marks_the_file_whole_and_its_folios_from_then_on", kind, &mut rig, &file) {
            continue;
        }
        let private = File::open(rig.path("f")).unwrap();
        // Loads only: not through this descriptor, and `mmap` refuses stores.
        assert!(Mapping::new(&private, SIZE as usize).is_err());
        assert_eq!(ask(&rig, &file), Exactly::Already);
        drop({
            let mapping = Mapping::new(&file, SIZE as usize).unwrap();
            mapping.store(40 * BLOCK as usize, 9);
            mapping
        });
        let found = marks(&mut rig);
        assert!(found.flags & flag::WHOLE != 0, "{kind:?}: {found:?}");
        assert_eq!(ask(&rig, &file), Exactly::No, "{kind:?}: a device may still write into its pages");
        file.sync_all().unwrap();
        marks(&mut rig);
        file.write_all_at(&[3; 100], 5 * BLOCK).unwrap();
        println!("{kind:?}: {} blocks are marked for one", blocks(&marks(&mut rig)).len());
    }
}

/// The programs know such files by number and by address, and an inode that comes back into memory has another address.
#[test]
fn an_inode_that_was_not_in_memory_keeps_its_exact_marks() {
    for kind in EXACT {
        let case = "an_inode_that_was_not_in_memory_keeps_its_exact_marks";
        let Some(mut rig) = Rig::new(case, kind) else { continue };
        let first = file(&mut rig);
        if !is_begun(case, kind, &mut rig, &first) {
            continue;
        }
        first.sync_all().unwrap();
        drop(first);
        for _ in 0..20 {
            rustix::fs::syncfs(File::open(rig.mount.real()).unwrap()).unwrap();
            std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        }
        // They take the place in memory that it had.
        let _others: Vec<File> = (0..500).map(|n| File::create(rig.path(&format!("other{n}"))).unwrap()).collect();
        let file = File::options().read(true).write(true).open(rig.path("f")).unwrap();
        // A large write into no page makes a large folio.
        file.write_all_at(&[2; 64 << 10], 0).unwrap();
        file.sync_all().unwrap();
        marks(&mut rig);
        for block in [4, 5, 6] {
            file.write_all_at(&[3; 100], block * BLOCK).unwrap();
            let found = marks(&mut rig);
            assert!(found.covers(block * BLOCK, block * BLOCK + 100), "{kind:?}, block {block}: {found:?}");
        }
    }
}

/// Marks are those of the file below. A flush of the overlay does not ask about that one, and writes it back.
#[test]
fn a_write_through_an_overlay_marks_what_it_writes() {
    for kind in [Kind::Overlay, Kind::OverlayXfs] {
        let case = "a_write_through_an_overlay_marks_what_it_writes";
        let Some(mut rig) = Rig::new(case, kind) else { continue };
        let file = file(&mut rig);
        file.write_all_at(&[2; 100], 5 * BLOCK).unwrap();
        if blocks(&marks(&mut rig)).len() == 1 {
            println!("SKIP {case}/{}: this kernel makes no large folios there", kind.name());
            continue;
        }
        file.write_all_at(&[3; 100], 7 * BLOCK).unwrap();
        assert_eq!(blocks(&marks(&mut rig)), [7], "{kind:?}");
        assert_eq!(ask(&rig, &file), Exactly::No, "{kind:?}");
    }
}

/// A second volume begins to watch the file. Its pages are dirty, and no event would tell of a write into them.
#[test]
fn a_file_of_two_volumes_keeps_its_exact_marks() {
    for kind in EXACT {
        let case = "a_file_of_two_volumes_keeps_its_exact_marks";
        let Some(mut rig) = Rig::new(case, kind) else { continue };
        let file = file(&mut rig);
        let inode = (rig.dev, rig.ino("f"));
        let slot = |rig: &mut Rig| rig.capture().watched(inode.0, inode.1).unwrap().map(watched::slot);
        rig.capture().watch_in(5, &[inode]).unwrap();
        assert_eq!(slot(&mut rig), Some(5));
        if !is_begun(case, kind, &mut rig, &file) {
            continue;
        }
        rig.capture().watch_in(6, &[inode]).unwrap();
        assert_eq!(slot(&mut rig), Some(SLOT_OF_ALL));
        file.write_all_at(&[3; 100], 7 * BLOCK).unwrap();
        assert_eq!(blocks(&marks(&mut rig)), [7], "{kind:?}");
        assert_eq!(ask(&rig, &file), Exactly::Already);
    }
}

#[test]
fn a_file_that_is_mapped_already_is_marked_by_folios() {
    for kind in EXACT {
        let Some(mut rig) = Rig::new("a_file_that_is_mapped_already_is_marked_by_folios", kind) else { continue };
        std::fs::write(rig.path("f"), vec![1; SIZE as usize]).unwrap();
        let file = File::options().read(true).write(true).open(rig.path("f")).unwrap();
        let mapping = Mapping::new(&file, SIZE as usize).unwrap();
        rig.settle(&["f"]);
        for _ in 0..2 {
            file.write_all_at(&[2; 100], 5 * BLOCK).unwrap();
            assert_eq!(ask(&rig, &file), Exactly::No);
            file.sync_all().unwrap();
        }
        drop(mapping);
        assert_eq!(ask(&rig, &file), Exactly::No);
    }
}

#[test]
fn without_one_of_the_hooks_nothing_is_exact() {
    for hook in HOOKS.iter().filter(|hook| hook.role == Role::Write) {
        for kind in EXACT {
            let mut config = config();
            config.without = vec![hook.program];
            let Some(mut rig) = Rig::with("without_one_of_the_hooks_nothing_is_exact", kind, &config) else { continue };
            let file = file(&mut rig);
            file.write_all_at(&[2; 100], 5 * BLOCK).unwrap();
            let is_large = blocks(&marks(&mut rig)).len() > 1;
            let needs = Fs::from_name(kind.name()).is_some_and(|fs| hook.serves.needs(fs));
            let wanted = if needs || !is_large { Exactly::No } else { Exactly::Already };
            assert_eq!(ask(&rig, &file), wanted, "{} on {kind:?}", hook.program);
        }
    }
}

/// Runs of one file system, and their steps: fewer in a guest, where each takes long.
fn trials() -> (u64, u64) {
    if back_end() == BackEnd::Tracepoint { (12, 150) } else { (3, 50) }
}

/// Writes, mapped stores and cuts at random, between flushes that write nothing back where nothing can hide. Each flush must leave the
/// image equal to the file.
#[test]
fn what_is_read_without_a_write_back_is_what_is_there() {
    let (seeds, steps) = trials();
    for kind in EXACT {
        for seed in 1..=seeds {
            let Some(mut bed) = Bed::new("what_is_read_without_a_write_back_is_what_is_there", kind) else { continue };
            if seed % 2 == 0 {
                bed.make_hot();
            }
            let mut random = Random::new(seed);
            let mut mapping = None;
            for step in 0..steps {
                let file = bed.file();
                let size = file.metadata().unwrap().len();
                let at = random.below(size.max(2) - 1);
                match random.below(if seed % 3 == 0 { 24 } else { 20 }) {
                    0..=13 => {
                        let len = 1 + random.below(9000) as usize;
                        let bytes = random.bytes(len);
                        file.write_all_at(&bytes, at).unwrap();
                    }
                    14 => file.set_len(at.max(1)).unwrap(),
                    15 => file.set_len(SIZE).unwrap(),
                    16 => file.sync_all().unwrap(),
                    17..=19 => {
                        bed.flush(&mut |_| {});
                        assert_eq!(bed.difference(), None, "{kind:?}, seed {seed}, step {step}");
                    }
                    20 => mapping = None,
                    21 if mapping.is_none() && step > steps / 3 => {
                        mapping = Some(Mapping::new(&file, SIZE as usize).unwrap())
                    }
                    _ => {
                        if let Some(mapping) = mapping.as_ref().filter(|_| at < size) {
                            mapping.store(at as usize, random.below(256) as u8);
                        }
                    }
                }
            }
            bed.flush(&mut |_| {});
            assert_eq!(bed.difference(), None, "{kind:?}, seed {seed}");
        }
    }
}

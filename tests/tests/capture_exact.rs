//! Writes that are marked by what they write, in folios that are larger; and stores through mappings, which must not hide in these.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use common::hooks::{HOOKS, Role};
use common::maps::flag;
use engine::source::Exactly;
use tests::capture_mounts::Kind;
use tests::capture_rig::{Rig, config};
use tests::load::Random;
use tests::race_bed::{Bed, SIZE};
use tests::raw_io::Mapping;
use tracker::capture::InodeMarks;
use tracker::source::FsType;

const BLOCK: u64 = 4096;
/// File systems whose writes can be marked exactly.
const EXACT: [(Kind, FsType); 2] = [(Kind::Ext4, FsType::Ext4), (Kind::Xfs, FsType::Xfs)];

/// A file of 1 MiB in as large folios as the kernel makes, clean and without marks.
fn file(rig: &mut Rig) -> File {
    std::fs::write(rig.path("f"), vec![1; SIZE as usize]).unwrap();
    rig.settle(&["f"]);
    File::options().read(true).write(true).open(rig.path("f")).unwrap()
}

fn ask(rig: &Rig, file: &File, fs: FsType) -> Exactly {
    rig.mark_exactly()(fs, file.as_fd())
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
    for (kind, fs) in EXACT {
        let Some(mut rig) = Rig::new("a_write_marks_what_it_writes_also_into_a_dirty_folio", kind) else { continue };
        let file = file(&mut rig);
        file.write_all_at(&[2; 100], 5 * BLOCK).unwrap();
        let before = blocks(&marks(&mut rig));
        println!("{kind:?}: {} blocks are marked for one, by the folio", before.len());
        assert!(before.contains(&5));
        assert_eq!(ask(&rig, &file, fs), Exactly::FromNow);
        assert_eq!(ask(&rig, &file, fs), Exactly::Already);
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
    for (kind, fs) in EXACT {
        let Some(mut rig) = Rig::new("a_mapping_that_is_made_marks_the_file_whole", kind) else { continue };
        let file = file(&mut rig);
        assert_eq!(ask(&rig, &file, fs), Exactly::FromNow);
        let private = File::open(rig.path("f")).unwrap();
        file.write_all_at(&[2; 100], 5 * BLOCK).unwrap();
        assert_eq!(blocks(&marks(&mut rig)), [5]);
        // Loads only: not through this descriptor, and `mmap` refuses stores.
        assert!(Mapping::new(&private, SIZE as usize).is_err());
        assert_eq!(ask(&rig, &file, fs), Exactly::Already);
        drop({
            let mapping = Mapping::new(&file, SIZE as usize).unwrap();
            mapping.store(40 * BLOCK as usize, 9);
            mapping
        });
        let found = marks(&mut rig);
        assert!(found.flags & flag::WHOLE != 0, "{kind:?}: {found:?}");
        assert_eq!(ask(&rig, &file, fs), Exactly::No, "{kind:?}: a device may still write into its pages");
        file.sync_all().unwrap();
        marks(&mut rig);
        file.write_all_at(&[3; 100], 5 * BLOCK).unwrap();
        println!("{kind:?}: {} blocks are marked for one", blocks(&marks(&mut rig)).len());
    }
}

#[test]
fn a_file_that_is_mapped_already_is_marked_by_folios() {
    for (kind, fs) in EXACT {
        let Some(mut rig) = Rig::new("a_file_that_is_mapped_already_is_marked_by_folios", kind) else { continue };
        std::fs::write(rig.path("f"), vec![1; SIZE as usize]).unwrap();
        let file = File::options().read(true).write(true).open(rig.path("f")).unwrap();
        let mapping = Mapping::new(&file, SIZE as usize).unwrap();
        rig.settle(&["f"]);
        assert_eq!(ask(&rig, &file, fs), Exactly::No);
        drop(mapping);
        assert_eq!(ask(&rig, &file, fs), Exactly::No);
    }
}

#[test]
fn without_one_of_the_hooks_nothing_is_exact() {
    for hook in HOOKS.iter().filter(|hook| hook.role == Role::Write) {
        for (kind, fs) in EXACT {
            let mut config = config();
            config.without = vec![hook.program];
            let Some(mut rig) = Rig::with("without_one_of_the_hooks_nothing_is_exact", kind, &config) else { continue };
            let file = file(&mut rig);
            let serves = match hook.serves {
                common::hooks::Serves::All => true,
                common::hooks::Serves::One(of) => of.name() == kind.name(),
            };
            assert_eq!(ask(&rig, &file, fs), if serves { Exactly::No } else { Exactly::FromNow }, "{}", hook.program);
        }
    }
}

/// Runs of one file system; fewer where each takes long.
fn seeds() -> u64 {
    let given = std::env::var("TRACKER_EXACT_SEEDS").ok();
    given.map_or(12, |seeds| seeds.parse().expect("TRACKER_EXACT_SEEDS is a number"))
}

/// Writes, mapped stores and cuts at random, between flushes that write nothing back where nothing can hide. Each flush must leave the
/// image equal to the file.
#[test]
fn what_is_read_without_a_write_back_is_what_is_there() {
    for (kind, _) in EXACT {
        for seed in 1..=seeds() {
            let Some(mut bed) = Bed::new("what_is_read_without_a_write_back_is_what_is_there", kind) else { continue };
            let mut random = Random::new(seed);
            let mut mapping = None;
            for step in 0..150 {
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
                    21 if mapping.is_none() && step > 50 => mapping = Some(Mapping::new(&file, SIZE as usize).unwrap()),
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

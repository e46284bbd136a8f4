//! ext4's own ways to change a file without a dirty page: moving extents, and swapping content with the boot loader.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

use common::hooks::{HookId, counter_cell};
use common::maps::flag;
use engine::model::Ino;
use rustix::fs::{FallocateFlags, fallocate};
use tests::capture_mounts::Kind;
use tests::capture_rig::{Rig, back_end, config};
use tests::ext4_calls::{move_extents, swap_boot};
use tests::race_bed::{self, Bed};
use tests::raw_io::Mapping;
use tracker::capture::BackEnd;

const SIZE: u64 = 1 << 20;

fn open(rig: &Rig, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(rig.path(name)).unwrap()
}

/// Exchanges 32 blocks of `f` and `donor`; returns the donor's inode number.
fn moved(rig: &mut Rig) -> Ino {
    for (name, byte) in [("f", b'f'), ("donor", b'd')] {
        fs::write(rig.path(name), vec![byte; SIZE as usize]).unwrap();
    }
    rig.settle(&["f", "donor"]);
    let (file, donor) = (open(rig, "f"), open(rig, "donor"));
    assert_eq!(move_extents(&file, &donor, 16, 32).unwrap(), 32);
    rig.ino("donor")
}

/// The donor gets other content, without a change time, a dirty page or a notification.
#[test]
fn moved_extents_mark_both_files() {
    let Some(mut rig) = Rig::new("moved_extents_mark_both_files", Kind::Ext4) else { return };
    let donor = moved(&mut rig);
    let retired = rig.drain();
    let marks = [rig.ino("f"), donor].map(|ino| rig.marks(&retired, ino));
    // In the file system's own blocks, which may be smaller than those of marks.
    let block = fs::metadata(rig.path("f")).unwrap().blksize();
    assert!(marks[0].covers(16 * block, 48 * block), "{marks:?}");
    assert!(marks[1].covers(16 * block, 48 * block), "{marks:?}");
    assert!(marks.iter().all(|marks| marks.flags & flag::REMAPPED != 0), "{marks:?}");
    if back_end() == BackEnd::Tracepoint {
        assert_eq!(marks[1].blocks.len(), 32 * block / 4096, "{marks:?}");
    }
}

/// These drop the same mapping, but the pages with it. Such files may be read as they are in memory.
#[test]
fn calls_that_drop_pages_do_not_say_remapped() {
    let Some(mut rig) = Rig::new("calls_that_drop_pages_do_not_say_remapped", Kind::Ext4) else { return };
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fs::write(rig.path("f"), vec![b'f'; SIZE as usize]).unwrap();
    rig.settle(&["f"]);
    let seen = rig.drain().counters.get(counter_cell(HookId::Ext4Remap));
    fallocate(open(&rig, "f"), punch, 65_536, 65_536).unwrap();
    fallocate(open(&rig, "f"), FallocateFlags::COLLAPSE_RANGE, 0, 65_536).unwrap();
    open(&rig, "f").set_len(SIZE / 2).unwrap();
    let retired = rig.drain();
    assert!(retired.counters.get(counter_cell(HookId::Ext4Remap)) > seen, "none of them dropped a mapping");
    let marks = rig.marks(&retired, rig.ino("f"));
    assert!(marks.covers(65_536, 131_072) && marks.flags & flag::REMAPPED == 0, "{marks:?}");
}

/// Exchanges blocks of the file, the donor, whose pages are in memory, and flushes it at once. The pages still show the old
/// content then, and give way later, which is no event. What is on the disk must be committed.
fn a_donor_is_committed(case: &str, mapped: bool) {
    let Some(mut bed) = Bed::new(case, Kind::Ext4) else { return };
    fs::write(bed.rig.path("other"), vec![b'o'; race_bed::SIZE as usize]).unwrap();
    let (donor, other) = (bed.file(), open(&bed.rig, "other"));
    other.sync_all().unwrap();
    let block = donor.metadata().unwrap().blksize();
    let (at, end) = (16 * block, 48 * block);
    let byte = || {
        let mut byte = [0];
        donor.read_exact_at(&mut byte, at + 7).unwrap();
        byte[0]
    };
    let mapping = mapped.then(|| Mapping::new(&donor, race_bed::SIZE as usize).unwrap());
    let old = mapping.as_ref().map_or_else(byte, |mapping| mapping.load(at as usize + 7));
    assert_ne!(old, 0);
    assert_eq!(move_extents(&other, &donor, 16, 32).unwrap(), 32);
    assert_eq!(byte(), old, "the kernel drops the pages now: is the hook's flag still needed?");
    bed.flush(&mut |_| {});
    assert!(bed.marks.remapped, "{:?}", bed.marks);
    // The blocks that the donor got count as never written.
    assert!((at..end).all(|at| bed.byte(at) == 0), "what was in memory was committed");
    if mapped {
        assert_eq!(byte(), old, "a mapped page was dropped");
        drop(mapping);
    }
    rustix::fs::fadvise(&donor, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert_eq!(bed.difference(), None);
}

#[test]
fn a_donor_with_pages_in_memory_is_read_from_the_disk() {
    a_donor_is_committed("a_donor_with_pages_in_memory_is_read_from_the_disk", false);
}

/// A page that somebody has mapped cannot be dropped.
#[test]
fn a_donor_with_mapped_pages_is_read_from_the_disk() {
    a_donor_is_committed("a_donor_with_mapped_pages_is_read_from_the_disk", true);
}

/// Shows why the hook is needed: without it nothing reports the donor.
#[test]
fn without_its_hook_a_donor_is_missed() {
    let case = "without_its_hook_a_donor_is_missed";
    if back_end() != BackEnd::Tracepoint {
        println!("SKIP {case}: with this back end a function tells of it too");
        return;
    }
    let mut config = config();
    config.without = vec!["ext4_remap"];
    let Some(mut rig) = Rig::with(case, Kind::Ext4, &config) else { return };
    let donor = moved(&mut rig);
    let retired = rig.drain();
    let marks = rig.marks(&retired, donor);
    assert!(marks.blocks.is_empty() && marks.flags == 0, "{marks:?}");
}

/// `EXT4_IOC_SWAP_BOOT` exchanges the content of a file with that of the boot loader's inode.
#[test]
fn a_swapped_boot_loader_marks_the_file() {
    let Some(mut rig) = Rig::new("a_swapped_boot_loader_marks_the_file", Kind::Ext4) else { return };
    fs::write(rig.path("f"), vec![b'f'; SIZE as usize]).unwrap();
    swap_boot(&open(&rig, "f")).unwrap();
    // The same size again, so that the size tells nothing.
    open(&rig, "f").write_all_at(&vec![b'g'; SIZE as usize], 0).unwrap();
    rig.settle(&["f"]);
    swap_boot(&open(&rig, "f")).unwrap();
    assert_eq!(fs::read(rig.path("f")).unwrap()[0], b'f', "the content did not change");
    let retired = rig.drain();
    let marks = rig.marks(&retired, rig.ino("f"));
    assert!(marks.covers(0, SIZE), "{marks:?}");
}

/// Removing an inode from memory drops its mapping through the same tracepoint, although nothing has changed.
#[test]
fn an_inode_that_leaves_memory_is_not_marked() {
    let Some(mut rig) = Rig::new("an_inode_that_leaves_memory_is_not_marked", Kind::Ext4) else { return };
    fs::write(rig.path("f"), vec![b'f'; SIZE as usize]).unwrap();
    rig.settle(&["f"]);
    let ino = rig.ino("f");
    let before = rig.drain().counters.get(counter_cell(HookId::Ext4Remap));
    for _ in 0..20 {
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        let retired = rig.drain();
        let marks = rig.marks(&retired, ino);
        assert!(marks.blocks.is_empty() && marks.flags == 0, "{marks:?}");
        if retired.counters.get(counter_cell(HookId::Ext4Remap)) > before {
            return;
        }
    }
    panic!("the inode never left memory");
}

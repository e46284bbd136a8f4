//! ext4's own ways to change a file without a dirty page: moving extents, and swapping content with the boot loader.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

use common::hooks::{HookId, counter_cell};
use engine::model::Ino;
use tests::capture_mounts::Kind;
use tests::capture_rig::{Rig, back_end, config};
use tests::ext4_calls::{move_extents, swap_boot};
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
    if back_end() == BackEnd::Tracepoint {
        assert_eq!(marks[1].blocks.len(), 32 * block / 4096, "{marks:?}");
    }
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

//! The races between a change and a drain, each provoked: at every moment of a drain and the read after it, and in the
//! middle of calls that are held up. Tests that leave out one step must lose something, which shows that a mistake would be
//! noticed.

use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, ioctl_ficlone};
use tests::capture_mounts::{ALL, Kind, Mount, kernel_is_from};
use tests::capture_rig::{back_end, config, obstacle};
use tests::mounts::skip;
use tests::race_bed::{Bed, POINTS, Point, SIZE};
use tests::raw_io::{Frozen, Mapping, Pages, SlowSource, start_write_back};
use tests::stop::Stop;
use tracker::capture::BackEnd;

const OFF: u64 = 40_960;
/// File systems with blocks: all that mark dirty folios.
const BLOCKS: [Kind; 4] = [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Overlay];
/// How long to observe that a thread really waits.
const HELD: Duration = Duration::from_millis(300);
/// A held call that has not reached its place by then never will.
const LIMIT: Duration = Duration::from_secs(20);

fn slow(case: &str, byte: u8) -> Option<SlowSource> {
    SlowSource::new(byte).inspect_err(|error| skip(case, "root", &format!("userfaultfd: {error}"))).ok()
}

/// Releases the thread that waits for the second page, also if a test fails: its threads are joined.
struct Release<'a>(&'a SlowSource, u8);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.fill(self.1).unwrap();
    }
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The page is dirty already, so that the second store is marked again or read only because of the order of the steps.
fn stores_lost(bed: &mut Bed, last: u8) -> Vec<Point> {
    let file = bed.file();
    let mapping = Mapping::new(&file, SIZE as usize).unwrap();
    let mut lost = Vec::new();
    let clean = bed.steps.clean;
    let moments = POINTS.into_iter().enumerate().filter(|(_, point)| clean || *point != Point::Clean);
    for (round, point) in moments {
        // A separate block for each moment: a store that is lost stays lost.
        let at = OFF as usize + round * 8192;
        mapping.store(at, last - 1);
        let mut done = false;
        bed.flush(&mut |now| {
            if now == point && !done {
                done = true;
                mapping.store(at, last);
            }
        });
        // If a page was not cleaned before, the first store marked nothing either, and nothing was read.
        assert!(done || !clean, "{point:?} never came");
        if !done {
            mapping.store(at, last);
        }
        bed.flush(&mut |_| {});
        if bed.byte(at as u64) != last {
            lost.push(point);
        }
    }
    lost
}

#[test]
fn a_mapped_store_at_any_step_of_a_drain_is_read_or_marked() {
    for kind in BLOCKS {
        let Some(mut bed) = Bed::new("a_mapped_store_at_any_step_of_a_drain_is_read_or_marked", kind) else { continue };
        assert_eq!(stores_lost(&mut bed, 20), [], "{kind:?}: lost");
        assert_eq!(bed.difference(), None, "{kind:?}");
        // Left out: pages stay dirty, and stores after the read are seen by nobody.
        bed.steps.clean = false;
        assert_ne!(stores_lost(&mut bed, 40), [], "{kind:?}: nothing is lost without CLEAN");
    }
}

fn direct_write_across_a_drain(bed: &mut Bed, source: &SlowSource) {
    let file = bed.direct();
    thread::scope(|scope| {
        let release = Release(source, b'n');
        let writer = scope.spawn(|| file.write_at(source.bytes(), OFF));
        source.wait().unwrap();
        bed.flush(&mut |_| {});
        drop(release);
        assert_eq!(writer.join().unwrap().unwrap(), 8192);
    });
    bed.flush(&mut |_| {});
}

/// The drain takes the mark of the write's begin and reads the old bytes; the completion must mark again.
#[test]
fn a_direct_write_stalled_across_a_drain_is_committed() {
    let case = "a_direct_write_stalled_across_a_drain_is_committed";
    for kind in [Kind::Ext4, Kind::Xfs] {
        let Some(source) = slow(case, b'n') else { return };
        let Some(mut bed) = Bed::new(case, kind) else { continue };
        direct_write_across_a_drain(&mut bed, &source);
        assert_eq!(bed.difference(), None, "{kind:?}");
        drop(bed);
        let mut blind = config();
        blind.without = vec!["dio_begin", "dio_complete", "p_dio_rw", "p_dio_done"];
        let (Some(source), Some(mut bed)) = (slow(case, b'n'), Bed::with(case, kind, &blind)) else { continue };
        direct_write_across_a_drain(&mut bed, &source);
        assert!(bed.difference().is_some(), "{kind:?}: seen without the programs of direct writes");
    }
}

/// Holds a buffered write in its copy while `bed` is flushed. Returns which moments came before the copy could continue.
fn buffered_write_across_a_drain(bed: &mut Bed, source: &SlowSource, byte: u8) -> Vec<Point> {
    let file = bed.file();
    let seen = Mutex::new(Vec::new());
    let before = thread::scope(|scope| {
        let release = Release(source, byte);
        let writer = scope.spawn(|| file.write_at(source.bytes(), OFF));
        source.wait().unwrap();
        let flush = scope.spawn(|| bed.flush(&mut |point| seen.lock().unwrap().push(point)));
        thread::sleep(HELD);
        let before = seen.lock().unwrap().clone();
        drop(release);
        assert_eq!(writer.join().unwrap().unwrap(), 8192);
        flush.join().unwrap();
        before
    });
    bed.flush(&mut |_| {});
    before
}

/// The write has its lock and, on some file systems, its mark; its bytes are not there yet. With tracepoints tmpfs marks
/// before it copies and never after: only the barrier makes the read wait for the copy.
#[test]
fn a_buffered_write_stalled_in_its_copy_is_committed() {
    let case = "a_buffered_write_stalled_in_its_copy_is_committed";
    for kind in ALL {
        let Some(source) = slow(case, b'n') else { return };
        let Some(mut bed) = Bed::new(case, kind) else { continue };
        let before = buffered_write_across_a_drain(&mut bed, &source, b'n');
        assert_eq!(bed.difference(), None, "{kind:?}: the flush came to {before:?} while the copy was held");
        // Through `noop_dirty_folio`, which the other back ends hook, tmpfs marks after the copy, like all others.
        if kind == Kind::Tmpfs && back_end() == BackEnd::Tracepoint {
            assert_eq!(before.last(), Some(&Point::Clean), "the barrier did not wait");
            let Some(source) = slow(case, b'm') else { return };
            (bed.steps.barrier, bed.holes) = (false, false);
            buffered_write_across_a_drain(&mut bed, &source, b'm');
            assert!(bed.difference().is_some(), "nothing is lost without BARRIER");
        }
    }
}

/// Size and content change between the moment when a read takes the size and the read itself.
#[test]
fn appends_and_truncations_between_statx_and_read_converge() {
    let case = "appends_and_truncations_between_statx_and_read_converge";
    type Change = (&'static str, fn(&std::fs::File) -> std::io::Result<()>);
    let changes: [Change; 5] = [
        ("append", |file| file.write_all_at(&[7; 5000], file.metadata()?.len())),
        ("truncate", |file| file.set_len(file.metadata()?.len() - 70_001)),
        ("truncate and grow", |file| {
            let len = file.metadata()?.len();
            file.set_len(len - 9000)?;
            file.set_len(len + 20_000)
        }),
        ("truncate and append", |file| {
            let len = file.metadata()?.len();
            file.set_len(len - 50_000)?;
            file.write_all_at(&[9; 3000], len - 50_000)
        }),
        ("empty and refill", |file| {
            let len = file.metadata()?.len();
            file.set_len(0)?;
            file.write_all_at(&vec![len as u8; len as usize], 0)
        }),
    ];
    for kind in ALL {
        let Some(mut bed) = Bed::new(case, kind) else { continue };
        let file = bed.file();
        for (name, change) in changes {
            for point in POINTS.into_iter().filter(|point| *point >= Point::Statx) {
                let len = file.metadata().unwrap().len();
                file.write_all_at(&[point as u8 + 1; 3], len - 3).unwrap();
                let mut done = false;
                bed.flush(&mut |now| {
                    if now == point && !done {
                        done = true;
                        change(&file).unwrap();
                    }
                });
                assert!(done, "{kind:?} {name}: {point:?} never came");
                // A read that ended at another size than it began with is repeated, by the marks that were kept.
                bed.flush(&mut |_| {});
                assert_eq!(bed.difference(), None, "{kind:?}: {name} at {point:?}");
            }
        }
    }
}

/// A punch that has marked and then waits for a page under write-back. The file system below is frozen, so that this does
/// not end. Its mark is drained meanwhile, and its hole appears later.
#[test]
fn a_punch_stalled_behind_its_mark_is_committed() {
    let case = "a_punch_stalled_behind_its_mark_is_committed";
    if let Some(reason) = obstacle() {
        skip(case, "ebpf", reason);
        return;
    }
    for (kind, program) in [(Kind::Ext4, "ext4_punch"), (Kind::Xfs, "xfs_free")] {
        if kind == Kind::Xfs && !kernel_is_from(6, 12) {
            // `xfs_file_fallocate` calls `xfs_flush_unmap_range` before `xfs_free_file_space` (6.1, not 6.12).
            println!(
                "SKIP {case}: on xfs this kernel's punch waits for the page before it marks, and cannot be held behind"
            );
            continue;
        }
        let below = Mount::new(Kind::Ext4).unwrap();
        let handle = std::fs::File::open(below.root()).unwrap();
        let mut bed = Bed::on(Mount::beside(kind, below.root()).unwrap());
        let file = bed.file();
        // Blocks are allocated and the journal is idle: only the data of the next write must get stuck.
        file.write_all_at(&[1; 65_536], 0).unwrap();
        file.sync_all().unwrap();
        bed.flush(&mut |_| {});
        let events = |bed: &mut Bed| bed.rig.capture().counters().unwrap().of_hook(program);
        let before = events(&mut bed);
        let seen = Mutex::new(Vec::new());
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        thread::scope(|scope| {
            let frozen = Frozen::new(&handle).unwrap();
            file.write_all_at(&[2; 65_536], 0).unwrap();
            start_write_back(&file).unwrap();
            let punch = scope.spawn(|| fallocate(&file, flags, 0, 65_536));
            until(&format!("{kind:?}: the punch's mark"), || events(&mut bed) > before);
            let flush = scope.spawn(|| bed.flush(&mut |point| seen.lock().unwrap().push(point)));
            until("the drain", || seen.lock().unwrap().contains(&Point::ClearMarks));
            thread::sleep(HELD);
            assert!(!punch.is_finished(), "{kind:?}: the punch was not held");
            assert!(!seen.lock().unwrap().contains(&Point::Read), "{kind:?}: read in the middle of a punch");
            drop(frozen);
            punch.join().unwrap().unwrap();
            flush.join().unwrap();
        });
        bed.flush(&mut |_| {});
        assert_eq!(bed.difference(), None, "{kind:?}");
        assert_eq!((bed.byte(0), bed.byte(65_535)), (0, 0), "{kind:?}");
    }
}

const CLONES: u8 = 5;

/// A clone of thousands of extents marks once, before the first one. The drain takes the mark while extents are still being
/// replaced, and while the file still grows by them.
#[test]
fn a_clone_under_way_across_a_drain_is_committed() {
    let case = "a_clone_under_way_across_a_drain_is_committed";
    let Some(mut bed) = Bed::new(case, Kind::Xfs) else { return };
    let (path, file) = (bed.rig.path("source"), bed.file());
    let source = std::fs::File::options().create_new(true).read(true).write(true).open(path).unwrap();
    let events = |bed: &mut Bed| bed.rig.capture().counters().unwrap().of_hook("xfs_remap");
    let mut overtaken = 0;
    for round in 0..CLONES {
        source.set_len(0).unwrap();
        for block in (0..6000).step_by(2) {
            source.write_all_at(&[round + 1; 4096], block * 4096).unwrap();
            if block % 512 == 0 {
                source.sync_data().unwrap();
            }
        }
        source.sync_all().unwrap();
        let before = events(&mut bed);
        thread::scope(|scope| {
            let clone = scope.spawn(|| ioctl_ficlone(&file, &source));
            until("the clone's mark", || events(&mut bed) > before || clone.is_finished());
            let mut inside = false;
            bed.flush(&mut |point| inside |= point == Point::ClearMarks && !clone.is_finished());
            overtaken += u32::from(inside);
            clone.join().unwrap().unwrap();
        });
        bed.flush(&mut |_| {});
        assert_eq!(bed.difference(), None, "round {round}");
    }
    println!("{case}: {overtaken} of {CLONES} clones were overtaken by the whole drain");
    assert!(overtaken > 0, "no clone was long enough: the test shows nothing");
}

/// Two processors set bits of the same words while drains read and clear these words. The content is checked: a lost bit
/// leaves an old block.
#[test]
fn two_processors_marking_the_word_that_is_drained_lose_nothing() {
    let case = "two_processors_marking_the_word_that_is_drained_lose_nothing";
    for kind in [Kind::Ext4, Kind::Xfs] {
        let Some(mut bed) = Bed::new(case, kind) else { continue };
        let stop = AtomicBool::new(false);
        let files = [bed.direct(), bed.direct()];
        thread::scope(|scope| {
            for (parity, file) in files.iter().enumerate() {
                let stop = &stop;
                scope.spawn(move || {
                    let mut number = 0u64;
                    while !stop.load(SeqCst) {
                        let page = Pages([number as u8; 4096]);
                        file.write_all_at(&page.0, (number * 2 + parity as u64) % 64 * 4096).unwrap();
                        number += 1;
                    }
                });
            }
            let _stop = Stop(&stop);
            for _ in 0..60 {
                bed.flush(&mut |_| {});
            }
        });
        bed.flush(&mut |_| {});
        assert_eq!(bed.difference(), None, "{kind:?}");
    }
}

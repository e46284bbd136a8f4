//! Capture at its limits: full maps, a daemon that goes away and comes back, pins that are removed, races.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::maps::{counter, flag};
use engine::model::Ino;
use tests::capture_mounts::Kind;
use tests::capture_rig::{Rig, config};
use tests::raw_io::Pages;
use tracker::capture::choose::{KernelFacts, choose};
use tracker::capture::{BackEnd, Capture, InodeMarks, Problem, Started, WatchOutcome, Why, flags};

fn files(rig: &mut Rig, count: u32) -> Vec<Ino> {
    let names: Vec<_> = (0..count).map(|number| format!("f{number}")).collect();
    for name in &names {
        fs::write(rig.path(name), [0; 4096]).unwrap();
    }
    rig.settle(&names.iter().map(String::as_str).collect::<Vec<_>>());
    names.iter().map(|name| rig.ino(name)).collect()
}

/// A live read passes over maps that were empty at the last swap and have got no entry since.
#[test]
fn a_live_read_finds_the_first_mark_after_a_drain() {
    let Some(mut rig) = Rig::new("a_live_read_finds_the_first_mark_after_a_drain", Kind::Ext4) else { return };
    let ino = files(&mut rig, 1)[0];
    let file = OpenOptions::new().write(true).open(rig.path("f0")).unwrap();
    let dev = rig.dev;
    for round in 0..6 {
        let _ = rig.drain();
        assert_eq!(rig.capture().read_live().unwrap().inodes.get(&(dev, ino)), None, "round {round}");
        // Blocks alone, flags alone, and the same block again, which inserts nothing.
        let (start, len) = if round % 2 == 0 { (round * 4096, 1) } else { (0, 0) };
        if len == 0 {
            file.set_permissions(fs::Permissions::from_mode(0o600 + round as u32)).unwrap();
        } else {
            file.write_all_at(&[1], start).unwrap();
            file.write_all_at(&[2], start).unwrap();
        }
        let live = rig.capture().read_live().unwrap();
        let marks = live.inodes.get(&(dev, ino)).unwrap_or_else(|| panic!("round {round}: nothing"));
        assert!(marks.covers(start, start + len), "round {round}: {marks:?}");
        // A second swap gives programs a set that nobody has cleared, and a live read walks it.
        rig.capture().swap().unwrap();
        rig.capture().swap().unwrap();
        assert_eq!(rig.capture().read_live().unwrap().inodes.get(&(dev, ino)), Some(marks), "round {round}");
    }
}

/// With maps of 16 entries and 200 files, every file must be marked, widened, or covered by the overflow bits.
#[test]
fn full_maps_widen_and_count_but_lose_nothing() {
    let mut config = config();
    (config.entries.dirty, config.entries.inode) = (16, 16);
    let Some(mut rig) = Rig::with("full_maps_widen_and_count_but_lose_nothing", Kind::Ext4, &config) else { return };
    let inodes = files(&mut rig, 200);
    let _ = rig.capture().health().unwrap();
    for number in 0..200 {
        fs::write(rig.path(&format!("f{number}")), [1; 4096]).unwrap();
    }
    let retired = rig.drain();
    assert!(retired.overflow.any());
    let mut by_overflow = 0;
    for &ino in &inodes {
        let marks = rig.marks(&retired, ino);
        let seen = marks.covers(0, 4096);
        let hit = retired.overflow.hit(rig.dev, ino);
        assert!(seen || hit, "inode {ino} is lost: {marks:?}");
        by_overflow += u32::from(!seen);
    }
    assert!(by_overflow > 100, "the maps were not full: only {by_overflow} by overflow");
    assert!(retired.counters.get(counter::DIRTY_FULL) > 0);
    assert!(retired.counters.get(counter::INODE_FULL) > 0);
    assert!(retired.counters.get(counter::OVERFLOW) > 0);
    let problems = rig.capture().health().unwrap().problems;
    assert!(
        problems.iter().any(|problem| matches!(problem, Problem::Widened { counter: "overflow", .. })),
        "{problems:?}"
    );
    assert!(rig.capture().health().unwrap().problems.is_empty(), "an old problem was reported twice");
    let after = rig.drain();
    assert!(!after.overflow.any(), "cleared overflow bits came back");
}

/// A full DIRTY map alone sets RESCAN in the INODE map, which still has room.
#[test]
fn a_full_block_map_rescans_the_inode() {
    let mut config = config();
    config.entries.dirty = 16;
    let Some(mut rig) = Rig::with("a_full_block_map_rescans_the_inode", Kind::Ext4, &config) else { return };
    let inodes = files(&mut rig, 100);
    for number in 0..100 {
        let file = OpenOptions::new().write(true).open(rig.path(&format!("f{number}"))).unwrap();
        file.write_all_at(&[1; 10], 0).unwrap();
    }
    let retired = rig.drain();
    let rescans = inodes.iter().filter(|&&ino| rig.marks(&retired, ino).flags & flags::RESCAN != 0).count();
    assert!(rescans >= 80, "{rescans}");
    assert!(inodes.iter().all(|&ino| rig.marks(&retired, ino).covers(0, 4096)));
    assert!(!retired.overflow.any());
}

#[test]
fn a_full_watch_map_widens_the_superblock_visibly() {
    let mut config = config();
    config.entries.watch = 8;
    let Some(mut rig) = Rig::with("a_full_watch_map_widens_the_superblock_visibly", Kind::Ext4, &config) else {
        return;
    };
    let dev = rig.dev;
    let wanted: Vec<_> = (100..150).map(|ino| (dev, Ino(ino))).collect();
    assert_eq!(rig.capture().watch(&wanted).unwrap(), WatchOutcome::Full { widened: vec![dev] });
    // A daemon that comes back tracks the superblock again before it knows that the watch set is full.
    rig.capture().track(dev, false).unwrap();
    assert_eq!(rig.capture().tracked().unwrap(), [(dev, true)]);
    fs::write(rig.path("anything"), [1; 10]).unwrap();
    let retired = rig.drain();
    assert!(rig.marks(&retired, rig.ino("anything")).covers(0, 10));
    rig.capture().unwatch(&wanted).unwrap();
    assert_eq!(rig.capture().watch(&wanted[..8]).unwrap(), WatchOutcome::Watching);
}

/// The end of a direct read looks like that of a write, and is marked while a write may be in flight whose begin was not
/// seen.
#[test]
fn ends_of_direct_reads_are_marked_only_while_an_unseen_write_may_be_under_way() {
    let name = "ends_of_direct_reads_are_marked_only_while_an_unseen_write_may_be_under_way";
    for kind in [Kind::Ext4, Kind::Xfs] {
        let Some(mut rig) = Rig::new(name, kind) else { continue };
        let inodes = files(&mut rig, 1);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(libc::O_DIRECT).open(rig.path("f0")).unwrap();
        let mut page = Pages([0; 4096]);
        file.read_exact_at(&mut page.0, 0).unwrap();
        let retired = rig.drain();
        assert!(rig.marks(&retired, inodes[0]).covers(0, 4096), "{kind:?}: a write would be missed");
        rig.capture().forget_earlier_dio().unwrap();
        file.read_exact_at(&mut page.0, 0).unwrap();
        let retired = rig.drain();
        assert!(!rig.marks(&retired, inodes[0]).covers(0, 1), "{kind:?}: a read is marked");
        file.write_all_at(&page.0, 0).unwrap();
        let retired = rig.drain();
        assert!(rig.marks(&retired, inodes[0]).covers(0, 4096), "{kind:?}: a write is not");
    }
}

/// Marks made while no daemon has the maps open, and those of a drain that was interrupted before it cleared, are found
/// again.
#[test]
fn a_restart_resumes_and_finds_both_generations() {
    let config = config();
    let Some(mut rig) = Rig::with("a_restart_resumes_and_finds_both_generations", Kind::Ext4, &config) else { return };
    let inodes = files(&mut rig, 3);
    let write = |rig: &Rig, name: &str| fs::write(rig.path(name), [1; 4096]).unwrap();
    write(&rig, "f0");
    let capture = rig.capture();
    capture.swap().unwrap();
    capture.grace().unwrap();
    // The predecessor dies here: it may have read, but has not cleared.
    capture.read_retired().unwrap();
    write(&rig, "f1");
    drop(rig.capture.take());
    write(&rig, "f2");
    let (capture, started) = Capture::start(&config).unwrap();
    assert_eq!(started, Started::Resumed);
    rig.capture = Some(capture);
    rig.capture().grace().unwrap();
    let first = rig.capture().read_retired().unwrap();
    assert!(rig.marks(&first, inodes[0]).covers(0, 4096));
    assert!(!first.inodes.contains_key(&(rig.dev, inodes[1])));
    rig.capture().clear_retired().unwrap();
    let second = rig.drain();
    assert!(rig.marks(&second, inodes[1]).covers(0, 4096));
    assert!(rig.marks(&second, inodes[2]).covers(0, 4096));
    assert!(rig.capture().supported("ext4").is_ok());
}

/// The requested sizes are used: maps of other sizes are replaced, even if nothing else is wrong with them.
#[test]
fn maps_of_other_sizes_are_not_taken_over() {
    let mut config = config();
    let Some(mut rig) = Rig::with("maps_of_other_sizes_are_not_taken_over", Kind::Ext4, &config) else { return };
    let before = rig.capture().kernel_memory_bytes();
    drop(rig.capture.take());
    config.entries.watch *= 64;
    let (capture, started) = Capture::start(&config).unwrap();
    assert_eq!(started, Started::Fresh(Why::OtherSizes));
    let after = capture.kernel_memory_bytes();
    // The table of an empty map.
    assert!(after > before + u64::from(config.entries.watch) * 15, "{before} and then {after} bytes");
    rig.capture = Some(capture);
}

/// A removed pin is made again from what this process holds, and the next one takes the set over as usual.
#[test]
fn a_removed_pin_is_made_again() {
    let config = config();
    let Some(mut rig) = Rig::with("a_removed_pin_is_made_again", Kind::Ext4, &config) else { return };
    fs::remove_dir_all(&config.pin_dir).unwrap();
    assert!(!rig.capture().health().unwrap().problems.is_empty());
    rig.capture().pin_again().unwrap();
    assert_eq!(rig.capture().health().unwrap().problems, []);
    drop(rig.capture.take());
    let (capture, started) = Capture::start(&config).unwrap();
    assert_eq!(started, Started::Resumed);
    rig.capture = Some(capture);
}

#[test]
fn pins_that_are_not_whole_are_replaced() {
    let config = config();
    let Some(mut rig) = Rig::with("pins_that_are_not_whole_are_replaced", Kind::Ext4, &config) else { return };
    let link = config.pin_dir.join("link_dirty_folio");
    fs::remove_file(&link).unwrap();
    let problems = rig.capture().health().unwrap().problems;
    assert_eq!(problems, [Problem::LinkGone { program: "dirty_folio" }]);
    drop(rig.capture.take());
    let (capture, started) = Capture::start(&config).unwrap();
    assert!(matches!(started, Started::Fresh(Why::NewTracepoint | Why::Incomplete)), "{started:?}");
    assert!(link.exists());
    capture.detach().unwrap();
    assert!(!config.pin_dir.exists());
    let (capture, started) = Capture::start(&config).unwrap();
    assert_eq!(started, Started::Fresh(Why::NoPins));
    capture.detach().unwrap();
}

#[test]
fn this_kernel_is_given_the_tracepoint_back_end_and_knows_its_limits() {
    let case = "this_kernel_is_given_the_tracepoint_back_end_and_knows_its_limits";
    let Some(mut rig) = Rig::new(case, Kind::Ext4) else { return };
    assert_eq!(choose(&KernelFacts::gather()).back_end, BackEnd::Tracepoint);
    assert!(rig.capture().supported("nfs4").is_err());
    assert!(rig.capture().supported("overlay").is_err());
    let bytes = rig.capture().kernel_memory_bytes();
    assert!(bytes > 1 << 18 && bytes < 8 << 20, "{bytes}");
}

/// Two threads set bits of the same words while drains read and clear them. Without a wait between swap and read, a bit
/// could be set after it was read and be cleared unseen. With it, every write must be seen in a drain that began after the
/// write.
#[test]
fn no_mark_is_lost_between_drains() {
    let Some(mut rig) = Rig::new("no_mark_is_lost_between_drains", Kind::Ext4) else { return };
    let ino = files(&mut rig, 1)[0];
    let path = rig.path("f0");
    let stop = AtomicBool::new(false);
    let done: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
    let mut seen = [0u64; 2];
    let mut before = InodeMarks::default();
    std::thread::scope(|scope| {
        for (thread, done) in done.iter().enumerate() {
            let (path, stop) = (&path, &stop);
            scope.spawn(move || {
                // Direct writes: marked each time, whether or not the page was dirty. Each thread writes every second
                // block.
                use std::os::unix::fs::OpenOptionsExt;
                let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
                let page = tests::raw_io::Pages([1; 4096]);
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let block = (number * 2 + thread as u64) % 512;
                    file.write_all_at(&page.0, block * 4096).unwrap();
                    number += 1;
                    done.store(number, Ordering::SeqCst);
                }
            });
        }
        for round in 0..100 {
            let written = [done[0].load(Ordering::SeqCst), done[1].load(Ordering::SeqCst)];
            let retired = rig.drain();
            let marks = rig.marks(&retired, ino);
            for (thread, (&now, seen)) in written.iter().zip(&mut seen).enumerate() {
                // The write ended between the last snapshot and this one. So it is in this drain, or in the last one, whose
                // swap came after its snapshot. The first write may have been marked earlier and counted late.
                for number in *seen + 1..now {
                    let block = ((number * 2 + thread as u64) % 512) as u32;
                    let marked = marks.blocks.contains(block) || before.blocks.contains(block);
                    assert!(marked, "round {round} thread {thread} write {number} block {block}");
                }
                *seen = now;
            }
            before = marks;
        }
        stop.store(true, Ordering::Relaxed);
    });
    File::open(&path).unwrap().sync_all().unwrap();
}

/// Two threads set times of 8,000 files as fast as the kernel allows, each of which is a mark, while drains continue.
#[test]
fn marks_at_full_speed_lose_nothing() {
    const FILES: u64 = 4000;
    let case = "marks_at_full_speed_lose_nothing";
    let seconds = std::env::var("TRACKER_MARK_SECONDS").map_or(5, |text| text.parse().expect("a number of seconds"));
    let mut config = config();
    (config.entries.inode, config.entries.watch) = (65_536, 65_536);
    let Some(mut rig) = Rig::with(case, Kind::Tmpfs, &config) else { return };
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: most.maximum, ..most },
    )
    .unwrap();
    let inodes = files(&mut rig, 2 * FILES as u32);
    let open = |thread: u64| -> Vec<File> {
        let path = |number: u64| rig.path(&format!("f{}", number * 2 + thread));
        (0..FILES).map(|number| OpenOptions::new().write(true).open(path(number)).unwrap()).collect()
    };
    let mine = [open(0), open(1)];
    let stop = AtomicBool::new(false);
    let done: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
    let (mut seen, mut before, mut drains) = ([0u64; 2], std::collections::HashMap::new(), 0);
    let ticks = |rig: &mut Rig| -> u64 {
        let counters = rig.capture().counters().unwrap();
        ["ctime_set", "ctime_xchg", "ctime_skip"].iter().map(|hook| counters.of_hook(hook)).sum()
    };
    let (first, begun) = (ticks(&mut rig), std::time::Instant::now());
    std::thread::scope(|scope| {
        for (files, done) in mine.iter().zip(&done) {
            let stop = &stop;
            scope.spawn(move || {
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let time = rustix::fs::Timespec { tv_sec: number as i64, tv_nsec: 0 };
                    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
                    rustix::fs::futimens(&files[(number % FILES) as usize], &times).unwrap();
                    number += 1;
                    done.store(number, Ordering::SeqCst);
                }
            });
        }
        while begun.elapsed().as_secs() < seconds {
            let written = [done[0].load(Ordering::SeqCst), done[1].load(Ordering::SeqCst)];
            let retired = rig.drain();
            assert!(!retired.overflow.any());
            for (thread, (&now, seen)) in written.iter().zip(&mut seen).enumerate() {
                // As in `no_mark_is_lost_between_drains`; of many rounds over the files, checking the last one is enough.
                for number in (*seen + 1).max(now.saturating_sub(FILES))..now {
                    let key = (rig.dev, inodes[((number % FILES) * 2) as usize + thread]);
                    let marked = retired.inodes.contains_key(&key) || before.contains_key(&key);
                    if !marked {
                        stop.store(true, Ordering::Relaxed);
                    }
                    assert!(marked, "drain {drains} thread {thread} change {number} is lost");
                }
                *seen = now;
            }
            before = retired.inodes;
            drains += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (marks, seconds) = (ticks(&mut rig) - first, begun.elapsed().as_secs_f64());
    let changes = done[0].load(Ordering::SeqCst) + done[1].load(Ordering::SeqCst);
    println!(
        "{case}: {:.0} marks a second ({marks} in {seconds:.1} s, of {changes} changes), {drains} drains",
        marks as f64 / seconds
    );
    assert!(marks >= changes, "changes without an event");
    assert!(rig.capture().health().unwrap().problems.is_empty());
}

/// Two threads mark ranges of 64 blocks as fast as the kernel allows, by punching holes where nothing is. Marks are counted
/// in blocks here, more than a million per second.
#[test]
fn a_million_blocks_a_second_lose_nothing() {
    const SPAN: u64 = 1 << 28;
    const RANGE: u64 = 64 * 4096;
    const CALLS: u64 = SPAN / RANGE;
    let case = "a_million_blocks_a_second_lose_nothing";
    let seconds = std::env::var("TRACKER_MARK_SECONDS").map_or(5, |text| text.parse().expect("a number of seconds"));
    let Some(mut rig) = Rig::new(case, Kind::Ext4) else { return };
    let inodes = files(&mut rig, 2);
    let paths = [rig.path("f0"), rig.path("f1")];
    let mine = paths.map(|path| OpenOptions::new().write(true).open(path).unwrap());
    mine.iter().for_each(|file| file.set_len(SPAN).unwrap());
    rig.drain();
    let stop = AtomicBool::new(false);
    let done: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
    let (mut seen, mut before, mut drains) = ([0u64; 2], [InodeMarks::default(), InodeMarks::default()], 0);
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for (file, done) in mine.iter().zip(&done) {
            let stop = &stop;
            scope.spawn(move || {
                use rustix::fs::{FallocateFlags, fallocate};
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    fallocate(file, how, number * 7 % CALLS * RANGE, RANGE).unwrap();
                    number += 1;
                    done.store(number, Ordering::SeqCst);
                }
            });
        }
        while begun.elapsed().as_secs() < seconds {
            let written = [done[0].load(Ordering::SeqCst), done[1].load(Ordering::SeqCst)];
            let retired = rig.drain();
            let marks = inodes.iter().map(|ino| rig.marks(&retired, *ino)).collect::<Vec<_>>();
            for thread in 0..2 {
                // Only bits may be set: a span would include blocks that were never marked.
                assert_eq!(marks[thread].flags & (flag::FROM | flag::RANGE | flag::WHOLE_CONTENT), 0);
                // As in `no_mark_is_lost_between_drains`; of many rounds over the file, checking the last one is enough.
                let first = (seen[thread] + 1).max(written[thread].saturating_sub(CALLS));
                for number in first..written[thread] {
                    let from = number * 7 % CALLS * RANGE;
                    let to = from + RANGE;
                    let marked = marks[thread].covers(from, to) || before[thread].covers(from, to);
                    if !marked {
                        stop.store(true, Ordering::Relaxed);
                    }
                    assert!(marked, "drain {drains} thread {thread} call {number} is lost");
                }
                seen[thread] = written[thread];
            }
            before = marks.try_into().unwrap();
            drains += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    let calls = done[0].load(Ordering::SeqCst) + done[1].load(Ordering::SeqCst);
    let rate = (calls * RANGE / 4096) as f64 / begun.elapsed().as_secs_f64();
    println!("{case}: {rate:.0} blocks a second, by {calls} calls, {drains} drains");
    assert!(rig.capture().health().unwrap().problems.is_empty());
}

/// The programs' log lines can be switched on, which changes no mark.
#[test]
fn programs_with_log_lines_load_and_mark() {
    let mut config = config();
    config.log_marks = true;
    let Some(mut rig) = Rig::with("programs_with_log_lines_load_and_mark", Kind::Ext4, &config) else { return };
    let ino = files(&mut rig, 1)[0];
    fs::write(rig.path("f0"), [1; 4096]).unwrap();
    let retired = rig.drain();
    assert!(rig.marks(&retired, ino).covers(0, 4096));
}

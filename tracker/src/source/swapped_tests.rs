//! A file that replaces another between its lookup and its opening is not opened.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, mknodat, open, renameat_with};
use rustix::io::Errno;

use super::SourceRoot;

/// A fifo and a file constantly swap places, and the fifo's writer constantly checks whether anybody reads: nobody ever
/// does. Even the shortest open would wake a writer that waits for a reader.
#[test]
fn a_fifo_in_the_place_of_a_file_is_never_opened() {
    let dir = tempfile::tempdir().unwrap();
    let root = SourceRoot::open(dir.path()).unwrap();
    let (file, fifo) = (dir.path().join("file"), dir.path().join("fifo"));
    fs::write(&file, "content").unwrap();
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let inode = root.stat(Path::new("file")).unwrap().stat.inode;
    // Exactly this inode, whichever name it has.
    let fifo_itself = open(&fifo, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let fifo_path = super::stat::proc_path(&fifo_itself);
    let (done, woken, asked) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let (mut opened, mut swapped) = (0u64, 0u64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) {
                renameat_with(CWD, &file, CWD, &fifo, RenameFlags::EXCHANGE).unwrap();
            }
        });
        scope.spawn(|| {
            while !done.load(SeqCst) {
                let answer = open(&fifo_path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
                asked.fetch_add(1, SeqCst);
                // The reader at the end lets this one in too.
                if !matches!(answer, Err(Errno::NXIO)) && !done.load(SeqCst) {
                    woken.store(true, SeqCst);
                }
            }
        });
        scope.spawn(|| {
            // Waits for a reader.
            let _writer = open(&fifo_path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
            if !done.load(SeqCst) {
                woken.store(true, SeqCst);
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) && !woken.load(SeqCst) {
            match root.open_file(Path::new("file"), inode) {
                Ok(_) => opened += 1,
                Err(_) => swapped += 1,
            }
        }
        done.store(true, SeqCst);
        // Releases the waiting writer.
        let _reader = open(&fifo_path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    });
    assert!(!woken.load(SeqCst), "the fifo had a reader after {opened} opens and {swapped} refusals");
    assert!(
        opened > 100 && swapped > 100 && asked.load(SeqCst) > 100,
        "{opened} {swapped} {asked:?}: nothing was tried"
    );
}

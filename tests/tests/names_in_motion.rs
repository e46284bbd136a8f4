//! A tree whose directories constantly change their places: what is written there meanwhile is still committed, and a
//! `sync` comes to its end.

use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use tests::daemon::Volume;
use tests::load::{Random, seed};
use tests::mounts::{Kind, Mount};
use tests::stop::Stop;

/// Longest wait for one sync under the load.
const SYNC: Duration = Duration::from_secs(120);
const DIRS: u64 = 12;
const FILES: u64 = 3;
/// Time between two exchanges: ten or more within a flush, so hardly any file is where the last commit has it.
const PAUSE: Duration = Duration::from_millis(1);

fn exchange(source: &Path, random: &mut Random) {
    let (one, two) = (random.below(DIRS), random.below(DIRS));
    if one != two {
        let (one, two, between) =
            (source.join(format!("d{one}")), source.join(format!("d{two}")), source.join("between"));
        for (from, to) in [(&one, &between), (&two, &one), (&between, &two)] {
            fs::rename(from, to).unwrap();
        }
    }
}

/// The content of file `file` in the directory that started as `dir`.
fn content(round: u32, dir: u64, file: u64) -> String {
    format!("round {round}, directory {dir}, file {file}")
}

/// What the copy has of a round, by content: each file has its own, whichever directory it is in now.
fn found(copy: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for dir in fs::read_dir(copy).unwrap() {
        for file in fs::read_dir(dir.unwrap().path()).unwrap() {
            all.push(fs::read_to_string(file.unwrap().path()).unwrap());
        }
    }
    all.sort();
    all
}

#[test]
fn what_is_written_while_directories_change_places_is_committed() {
    let name = "what_is_written_while_directories_change_places_is_committed";
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Overlay] {
        let Some(mount) = Mount::new_or_skip(name, kind) else { continue };
        let source = mount.dir("source");
        let (mut dirs, mut files) = (Vec::new(), Vec::new());
        for dir in 0..DIRS {
            let path = source.join(format!("d{dir}"));
            fs::create_dir(&path).unwrap();
            for file in 0..FILES {
                let file = path.join(format!("f{file}"));
                fs::write(&file, "before").unwrap();
                files.push(OpenOptions::new().write(true).open(file).unwrap());
            }
            dirs.push(OpenOptions::new().read(true).open(path).unwrap());
        }
        let volume = Volume::new(&source);
        let daemon = volume.start_ready();
        let (stop, moves) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut took = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random::new(seed());
                while !stop.load(SeqCst) {
                    exchange(&source, &mut random);
                    moves.fetch_add(1, SeqCst);
                    thread::sleep(PAUSE);
                }
            });
            let _stop = Stop(&stop);
            for round in 0..3 {
                let mut expected = Vec::new();
                for (at, written) in files.iter().enumerate() {
                    let content = content(round, at as u64 / FILES, at as u64 % FILES);
                    written.write_all_at(content.as_bytes(), 0).unwrap();
                    expected.push(content);
                }
                for (at, dir) in dirs.iter().enumerate() {
                    // A new file, wherever the directory is now.
                    let content = content(round, at as u64, 100 + u64::from(round));
                    let path = format!("/proc/self/fd/{}/n{round}", dir.as_raw_fd());
                    fs::write(path, &content).unwrap();
                    expected.push(content);
                }
                let begun = Instant::now();
                volume.sync(SYNC).expect(0);
                took.push(begun.elapsed().as_secs_f32());
                let copy = volume.scratch("copy");
                volume.restore(&copy).expect(0);
                let found = found(&copy);
                let missing: Vec<&String> = expected.iter().filter(|content| !found.contains(content)).collect();
                assert!(missing.is_empty(), "{kind:?}: not in the store: {missing:?} of {found:?}");
                fs::remove_dir_all(copy).unwrap();
            }
        });
        volume.sync(SYNC).expect(0);
        volume.restored("end");
        println!("{name}: {kind:?}: {} exchanges, syncs took {took:.1?} s", moves.load(SeqCst));
        assert!(daemon.stop().success());
    }
}

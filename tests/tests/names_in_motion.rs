//! A tree whose directories change their places all the time: what is written there meanwhile is committed all the same, and
//! a `sync` comes to its end.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use tests::daemon::Volume;
use tests::load::{Random, seed};
use tests::mounts::{Kind, Mount};

/// Longest wait for one sync under the load.
const SYNC: Duration = Duration::from_secs(60);
const DIRS: u64 = 12;
const FILES: u64 = 3;
/// Between two exchanges: some hundred of them within a flush, so hardly any file is where the catalog has it, or where a
/// listing of the same flush has shown it. Opening a file takes a hundredth of it.
const PAUSE: Duration = Duration::from_millis(1);

/// Ends the threads that look at it, also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

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

#[test]
fn what_is_written_while_directories_change_places_is_committed() {
    let name = "what_is_written_while_directories_change_places_is_committed";
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Overlay] {
        let Some(mount) = Mount::new_or_skip(name, kind) else { return };
        let source = mount.dir("source");
        let mut files: Vec<File> = Vec::new();
        for dir in 0..DIRS {
            fs::create_dir(source.join(format!("d{dir}"))).unwrap();
            for file in 0..FILES {
                let path = source.join(format!("d{dir}/f{file}"));
                fs::write(&path, "before").unwrap();
                files.push(OpenOptions::new().write(true).open(path).unwrap());
            }
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
            for round in 0..4 {
                let content = format!("written in round {round}");
                for file in &files {
                    file.write_all_at(content.as_bytes(), 0).unwrap();
                }
                let begun = Instant::now();
                volume.sync(SYNC).expect(0);
                took.push(begun.elapsed().as_secs_f32());
                let copy = volume.scratch("copy");
                volume.restore(&copy).expect(0);
                for dir in 0..DIRS {
                    for file in 0..FILES {
                        let path = copy.join(format!("d{dir}/f{file}"));
                        // One of two directories may be under way, and its name not there.
                        let Ok(found) = fs::read_to_string(&path) else { continue };
                        assert_eq!(found, content, "{}", path.display());
                    }
                }
                fs::remove_dir_all(copy).unwrap();
            }
        });
        volume.sync(SYNC).expect(0);
        volume.restored("end");
        println!("{name}: {kind:?}: {} exchanges, syncs took {took:.1?} s", moves.load(SeqCst));
        assert!(daemon.stop().success());
    }
}
